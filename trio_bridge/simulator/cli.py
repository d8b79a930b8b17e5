"""``simulate``: the bot on the command line."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import trio

from trio_bridge.simulator import events
from trio_bridge.simulator.arguments import make_parser
from trio_bridge.simulator.bot import RecordingError, simulate
from trio_bridge.simulator.errors import SimulatorError
from trio_bridge.simulator.events import SimEvent
from trio_bridge.simulator.expectations import Expectations
from trio_bridge.simulator.report import Report, dump_reports, printable
from trio_bridge.simulator.scenario import Scenario, SpeakerPart
from trio_bridge.simulator.wavs import check_writable, write_text

OK, FAILED, UNUSABLE = 0, 1, 2
"""Exit codes: done; an expectation failed; a file, a setting or the server was no good."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse ``argv``, run the bots, print the report; returns the exit code.

    Bad arguments, and ``--help``, leave through `SystemExit` as argparse has it.
    """
    options = make_parser().parse_args(argv)
    try:
        scenarios = _scenarios(options)
        for path in (options.report, *(scenario.save for scenario in scenarios)):
            if path is not None:
                check_writable(path)  # and not when everything has been done
    except SimulatorError as error:
        return _fail([str(error)])
    reports, problems = trio.run(_run, scenarios, bool(options.quiet))
    if not options.quiet:
        for report in reports:
            sys.stdout.write(report.to_text() + "\n")
        sys.stdout.flush()
    if options.report is not None and reports:
        try:
            write_text(options.report, dump_reports(reports))
        except SimulatorError as error:
            problems.append(str(error))
    if problems:
        return _fail(problems)
    expected = _expectations(options)
    unmet = [
        (f"{printable(report.bot_id)}: " if len(reports) > 1 else "") + line
        for report in reports
        for line in expected.failures(report)
    ]
    for line in unmet:
        sys.stderr.write(f"expectation failed: {line}\n")
    if expected.demands and reports and not unmet and not options.quiet:
        whose = f" by each of {len(reports)} bots" if len(reports) > 1 else ""
        sys.stdout.write(f"expectations: {expected.demands} of {expected.demands} met{whose}\n")
    return FAILED if unmet else OK


async def _run(scenarios: list[Scenario], quiet: bool) -> tuple[list[Report], list[str]]:
    """All bots at once, until each is done or the operator stops them."""
    stop = trio.Event()
    reports: dict[int, Report] = {}
    problems: list[str] = []

    async def run_one(index: int, scenario: Scenario) -> None:
        label = f"{printable(scenario.bot_id)} " if len(scenarios) > 1 else ""
        show = None if quiet else _shower(label)
        try:
            reports[index] = await simulate(scenario, on_event=show, stop=stop)
        except SimulatorError as error:
            if isinstance(error, RecordingError):
                reports[index] = error.report
            if str(error) not in problems:  # a hundred bots, one server that is down
                problems.append(str(error))

    async def run_all() -> None:
        async with trio.open_nursery() as bots:
            for index, scenario in enumerate(scenarios):
                bots.start_soon(run_one, index, scenario)

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                async for _ in signals:
                    if stop.is_set():  # asked twice: now, without a goodbye
                        problems.append("stopped before it could leave")
                        nursery.cancel_scope.cancel()
                    stop.set()

            nursery.start_soon(listen)
            await run_all()
            nursery.cancel_scope.cancel()
    return [reports[index] for index in sorted(reports)], problems


def _shower(label: str) -> Callable[[SimEvent], None]:
    stamps = events.Stamps(places=2)

    def show(event: SimEvent) -> None:
        line = describe(event)
        if line:
            at_s, really = stamps.stamp(event.at_s)
            sys.stdout.write(f"{at_s:8.2f} s  {label}{line}{really}\n")
            sys.stdout.flush()

    return show


def describe(event: SimEvent) -> str:
    """One line for a terminal, without the time; empty for what is not worth one."""
    match event:
        case events.Joined(channel=channel):
            return f"{channel} channel is open"
        case events.Spoke(speaker_name=name, duration_s=duration_s, text=text):
            said = f": {printable(text)}" if text else ""
            return f"{printable(name)} speaks for {duration_s:.1f} s{said}"
        case events.MessageSent(text=text):
            return f"we write: {printable(text)}"
        case events.InterruptSent():
            return "we interrupt"
        case events.ChatPosted(text=text):
            return f"chat: {printable(text)}"
        case events.CaptionPosted(role=role, text=text, is_final=True):
            return f"caption of the {role}: {printable(text)}"
        case events.AudioStarted():
            return "the bot speaks"
        case events.AudioStopped(played_s=played_s, cut=cut):
            return f"the bot {'was cut off' if cut else 'stopped'} after {played_s:.2f} s"
        case events.Cleared(dropped_s=dropped_s, left_s=left_s):
            return f"interrupt: {dropped_s:.2f} s cleared, {left_s:.2f} s will be heard"
        case events.ImageShown(size_bytes=size_bytes, url=url):
            return f"image: {printable(url) if url else f'{size_bytes} bytes'}"
        case events.FaultSeen(reason=reason):
            return f"fault: {printable(reason)}"
        case events.Closed(channel=channel, code=code, reason=reason, by=by):
            return f"{channel} closed by the {by}: {code} {printable(reason)}".rstrip()
    return ""


def _scenarios(options: argparse.Namespace) -> list[Scenario]:
    fields = {
        "url": options.url,
        "bot_name": options.bot_name,
        "speakers": _parts(options.speaker),
        "messages": tuple(options.usermsg),
        "interrupts_s": tuple(options.interrupt),
        "reconnects": tuple(options.reconnect),
        "form": options.form,
        "layout": options.layout,
        "frame_ms": options.frame_ms,
        "silence_label": options.silence_label,
        "platform": options.platform,
        "own_voice_echo": options.echo_own_voice,
        "speed": options.speed,
        "duration_s": options.duration,
        "tail_s": options.tail,
        "linger_s": options.linger,
        "control_path": options.control_path,
        "audio_path": options.audio_path,
        "prefix_bot_id": options.prefix_bot_id,
        "headers": _headers(options),
        "order": options.order,
        "save": options.save,
    }
    if options.bot_id is not None:
        fields["bot_id"] = options.bot_id
    first = Scenario(**fields)
    if options.bots == 1:
        return [first]
    return [
        attrs.evolve(
            first, bot_id=f"{first.bot_id}-{number}", save=_numbered(first.save, number)
        )
        for number in range(1, options.bots + 1)
    ]


def _headers(options: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    if options.token is None:
        return tuple(options.header)
    return (*options.header, ("Authorization", f"Bearer {options.token}"))


def _numbered(path: Path | None, number: int) -> Path | None:
    return None if path is None else path.with_stem(f"{path.stem}-{number}")


def _parts(given: list[SpeakerPart]) -> tuple[SpeakerPart, ...]:
    """The parts, each file read once however many bots there are, ids where none is given."""
    ids: dict[str, str] = {part.name: part.id for part in given if part.id}
    for part in given:
        ids.setdefault(part.name, f"user_{len(ids) + 1}")
    return tuple(
        attrs.evolve(part, id=part.id or ids[part.name], sound=part.load()) for part in given
    )


def _expectations(options: argparse.Namespace) -> Expectations:
    return Expectations(
        heard_s=options.expect_heard,
        chats=tuple(options.expect_chat),
        max_gap_ms=options.expect_max_gap_ms,
        max_tail_ms=options.expect_max_tail_ms,
        max_lead_ms=options.expect_max_lead_ms,
        first_audio_ms=options.expect_first_audio_ms,
        close_code=options.expect_close,
    )


def _fail(lines: Sequence[str]) -> int:
    for line in lines:
        sys.stderr.write(f"simulate: {line}\n")
    return UNUSABLE
