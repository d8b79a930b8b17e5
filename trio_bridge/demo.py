"""``python -m trio_bridge demo``: bridge, bot and agent in one process, and what they say.

A bundled conversation of two synthetic voices is played into a bridge on loopback, as a bot in
a meeting would; the transcript appears as it happens, and the meeting is saved as a WAV.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn, TextIO

import attrs
import trio

from trio_bridge.address import Address
from trio_bridge.agents import FoundAgent, find_agent
from trio_bridge.config import Settings
from trio_bridge.errors import SettingsError
from trio_bridge.log import printable, set_up_logging
from trio_bridge.server import serve
from trio_bridge.simulator import Expectations, Report, Scenario, SpeakerPart, simulate
from trio_bridge.simulator.events import (
    AudioStarted,
    AudioStopped,
    CaptionPosted,
    ChatPosted,
    SimEvent,
    Spoke,
    Stamps,
)
from trio_bridge.simulator.report import counted
from trio_bridge.simulator.wavs import check_writable

BOT_NAME = "Demo Bot"
NOT_HEARD = 1
"""Exit status when the agent was not heard, or failed."""
STOPPED = 128
"""Exit status when a signal ended it, plus the signal's number: 130 for Ctrl-C."""

_EPILOG = """\
exit code: 0 the agent was heard; 1 it was not heard, or it failed; 2 the agent or the file
cannot be used; 130 after Ctrl-C, which leaves the meeting properly."""


@attrs.frozen
class Conversation:
    """The bundled conversation: what is said when, and which of it are questions."""

    parts: tuple[SpeakerPart, ...]
    questions: tuple[tuple[float, float], ...]
    """When each question has been said, and when the next line begins; seconds."""


def main(argv: list[str]) -> int:
    """Run the demo; 0 only if the agent was heard in the meeting and did not fail.

    Raises:
        SettingsError: an argument, the agent or the file to write cannot be used.
    """
    options = _parser().parse_args(argv)
    set_up_logging(sys.stderr, "warning")
    found = find_agent(options.agent)
    check_writable(options.save)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    teller = Teller(sys.stdout, colour)
    teller.say(f"agent: {found.name}" + (f" ({found.note})" if found.note else ""))
    # Kept apart until something was heard: a demo that fails must not cost an older recording.
    with tempfile.TemporaryDirectory() as directory:
        recording = Path(directory) / "meeting.wav"
        report, number = trio.run(hold_until_told, found, recording, teller.tell)
        if report.heard_s > 0:
            _copy(recording, options.save)
    answered = None
    if found.name == "local":
        answered = count_answered(report, load_conversation())
    teller.say("")
    if number is not None:
        teller.say("stopped before the end")
    teller.say(summary(report, options.save, answered))
    failures = Expectations().failures(report)
    if not report.heard_s and number is None:
        teller.say("the log above says why")
    for failure in failures:
        teller.say(failure)
    if number is not None:
        return STOPPED + number
    return NOT_HEARD if failures or not report.heard_s else 0


async def hold_until_told(
    found: FoundAgent, save: Path, on_event: Callable[[SimEvent], None]
) -> tuple[Report, int | None]:
    """`hold`, which SIGINT or SIGTERM ends early; with the signal's number, if there was one.

    A second one does not wait for the bot to leave.

    Raises:
        KeyboardInterrupt: there was a second one.
    """
    report: Report | None = None
    told: int | None = None
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        async with trio.open_nursery() as nursery:

            async def obey() -> None:
                nonlocal told
                async for number in received:
                    if stop.is_set():
                        nursery.cancel_scope.cancel()
                    told = number
                    stop.set()

            nursery.start_soon(obey)
            report = await hold(found, save, on_event, stop)
            nursery.cancel_scope.cancel()
    if report is None:
        raise KeyboardInterrupt
    return report, told


async def hold(
    found: FoundAgent,
    save: Path,
    on_event: Callable[[SimEvent], None],
    stop: trio.Event | None = None,
) -> Report:
    """One meeting on loopback, from the server's start to its end, or until ``stop`` is set."""
    settings = Settings(port=0, bot_name=(BOT_NAME,))
    async with trio.open_nursery() as nursery:
        address: Address = await nursery.start(serve, found.agent, settings)
        scenario = Scenario(
            url=address.url.replace("http", "ws", 1),
            bot_id="demo",
            bot_name=BOT_NAME,
            speakers=load_conversation().parts,
            save=save,
        )
        report = await simulate(scenario, on_event=on_event, stop=stop)
        nursery.cancel_scope.cancel()
    return report


def summary(report: Report, save: Path, answered: int | None) -> str:
    """What came of it. ``answered`` is how many questions were, None for an agent of which
    nobody knows whether what it says is an answer."""
    if not report.heard_s:
        return f"the agent was not heard; {save} was not written"
    if answered is None:
        heard = f"{counted(len(report.answers), 'answer')} of the agent"
        verb = "was" if len(report.answers) == 1 else "were"
        said = f"{heard} {verb} heard, {report.heard_s:.1f} s in all"
    else:
        of = len(load_conversation().questions)
        said = (
            f"{answered} of {of} questions were answered out loud; the agent was heard for "
            f"{report.heard_s:.1f} s"
        )
    return f"{said}; the meeting is in {save}"


def load_conversation() -> Conversation:
    """The conversation from the package's data."""
    data = resources.files("trio_bridge") / "data"
    script: dict[str, Any] = json.loads((data / "conversation.json").read_text())
    lines = script["lines"]
    parts = tuple(
        SpeakerPart(
            line["who"],
            script["speakers"][line["who"]],
            Path(str(data / line["file"])),
            line["at_s"],
            line["text"],
        )
        for line in lines
    )
    nexts = [*(line["at_s"] for line in lines[1:]), float("inf")]
    questions = tuple(
        (line["at_s"] + line["duration_s"], next_s)
        for line, next_s in zip(lines, nexts, strict=True)
        if line["is_question"]
    )
    return Conversation(parts, questions)


def count_answered(report: Report, conversation: Conversation) -> int:
    """Questions after which the agent began to speak before the next line was said."""
    starts = [answer.start_s for answer in report.answers]
    return sum(
        any(end_s <= start_s < next_s for start_s in starts)
        for end_s, next_s in conversation.questions
    )


@attrs.define(eq=False)
class Teller:
    """Prints a meeting as it happens: people to the left, the agent indented."""

    stream: TextIO
    colour: bool = False
    _stamps: Stamps = attrs.field(factory=lambda: Stamps(places=1), init=False)

    def tell(self, event: SimEvent) -> None:
        """Print ``event``, if it is worth a line."""
        match event:
            case Spoke(speaker_name=name, text=text):
                self._line(event.at_s, "1", f"{name}: {text}")
            case CaptionPosted(role="user", text=text, is_final=True):
                self._line(event.at_s, "2", f"      understood  {text}")
            case ChatPosted(text=text):
                self._line(event.at_s, "36", f"      agent       {text}")
            case AudioStarted():
                self._line(event.at_s, "36", "      (the agent speaks)")
            case AudioStopped(played_s=played_s, cut=cut):
                how = "was interrupted" if cut else "finished"
                self._line(event.at_s, "36", f"      (the agent {how} after {played_s:.1f} s)")

    def say(self, text: str) -> None:
        """Print ``text`` as it is."""
        self.stream.write(text + "\n")
        self.stream.flush()

    def _line(self, at_s: float, style: str, text: str) -> None:
        at_s, really = self._stamps.stamp(at_s)
        text = f"{at_s:6.1f} s  {printable(text)}{really}"
        self.say(f"\x1b[{style}m{text}\x1b[0m" if self.colour else text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage in front of it."""
        raise SettingsError(f"{message}; see demo --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m trio_bridge demo",
        description="Play a bundled conversation to an agent on this machine (about a minute).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--agent",
        metavar="NAME",
        help="echo, local or package.module:function [local if its parts are installed, else "
        "echo]",
    )
    parser.add_argument(
        "--save",
        metavar="FILE",
        type=Path,
        default=Path("trio_bridge_demo.wav"),
        help="WAV of what the meeting heard; written only if the agent was heard [%(default)s]",
    )
    return parser


def _copy(recording: Path, save: Path) -> None:
    try:
        shutil.copyfile(recording, save)
    except OSError as exc:
        raise SettingsError(f"cannot write {save}: {exc.strerror or exc}") from exc
