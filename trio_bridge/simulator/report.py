"""The result of a simulation, for people and for programs. No I/O, no clock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs

from trio_bridge.simulator.playback import PlaybackQueue, Tail
from trio_bridge.simulator.wavs import MEETING_RATE_HZ


@attrs.frozen
class GapReport:
    """The bot fell silent in the middle of an answer, because nothing was queued."""

    count: int
    total_ms: float
    longest_ms: float


@attrs.frozen
class LeadReport:
    """How much was queued just after each chunk: the delay of an interrupt on Zoom."""

    min_ms: float
    mean_ms: float
    max_ms: float
    drift_ms: float | None
    """The largest spread within one answer, without its first second and its last chunk;
    None when no answer was long enough to tell. Answers that were cut, or that began when the
    queue may still have held what an interrupt left, do not count: there it is the interrupt
    that moves the lead."""


@attrs.frozen
class InterruptReport:
    """One interrupt: sent by us, or a command from the server that no interrupt caused."""

    at_s: float
    sent_by_us: bool
    answered_ms: float | None
    """From our interrupt to the server's ``interrupt`` command; None if none came."""
    tail_ms: float
    """What was still heard after we sent it (after the command, if we sent none)."""
    tail_after_command_ms: float | None
    dropped_ms: float
    """Queued speech that the platform threw away at the command."""


@attrs.frozen
class AnswerReport:
    """One stretch of the bot's speech."""

    start_s: float
    played_s: float
    gaps: int
    cut: bool
    delay_ms: float | None
    """From the end of the speech before it; None if it is not the first answer to that."""


@attrs.frozen
class SpeakerReport:
    """One part of the script; seconds on the clock, and only if it ended in time."""

    name: str
    start_s: float
    end_s: float


@attrs.frozen
class CloseReport:
    """How a connection ended."""

    channel: str
    code: int
    reason: str
    by: str
    at_s: float


@attrs.frozen(kw_only=True)
class Report:
    """What one bot saw. Seconds count from when both channels were open."""

    server: str
    bot_id: str
    platform: str
    form: str
    layout: str
    duration_s: float
    frames_sent: int
    frames_lost: int
    """Not sent because the audio channel was down."""
    sent_s: float
    """Seconds of audio sent, all streams together."""
    late_ms: float
    """The latest that a frame of ours was: how far the times below can be trusted."""

    heard_s: float
    received_s: float
    cleared_s: float
    unplayed_s: float
    """Still queued when we left."""
    first_audio_ms: float | None
    """The longest delay of an answer after the end of the speech before it."""
    gaps: GapReport
    lead: LeadReport | None
    answers: tuple[AnswerReport, ...]
    interrupts: tuple[InterruptReport, ...]
    speakers: tuple[SpeakerReport, ...]
    chats: tuple[str, ...]
    captions: tuple[tuple[str, str], ...]
    """``(role, text)`` of each final line."""
    partial_captions: int
    images: int
    acks: int
    unknown_commands: dict[str, int]
    faults: dict[str, int]
    """What the server or the transport did wrong, by reason."""
    closes: tuple[CloseReport, ...]
    saved: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`; times rounded to a microsecond."""
        return {name: _plain(value) for name, value in attrs.asdict(self).items()}

    def to_text(self) -> str:
        """Some lines for a terminal, without a newline at the end."""
        return "\n".join(_lines(self))


@attrs.define(eq=False)
class SentInterrupt:
    """An interrupt of ours, while it is being measured."""

    at_s: float
    tail: Tail
    command: ReceivedInterrupt | None = None


@attrs.define(eq=False)
class ReceivedInterrupt:
    """An ``interrupt`` command, while it is being measured."""

    at_s: float
    tail: Tail
    dropped_s: float
    caused_by_us: bool = False


@attrs.define(eq=False)
class Tally:
    """Everything that is counted while a meeting runs; `PlaybackQueue` has the rest."""

    frames_sent: int = 0
    frames_lost: int = 0
    sent_samples: int = 0
    late_s: float = 0.0
    speakers: list[SpeakerReport] = attrs.field(factory=list)
    sent: list[SentInterrupt] = attrs.field(factory=list)
    received: list[ReceivedInterrupt] = attrs.field(factory=list)
    chats: list[str] = attrs.field(factory=list)
    captions: list[tuple[str, str]] = attrs.field(factory=list)
    partial_captions: int = 0
    images: int = 0
    acks: int = 0
    unknown: dict[str, int] = attrs.field(factory=dict)
    faults: dict[str, int] = attrs.field(factory=dict)
    closes: list[CloseReport] = attrs.field(factory=list)

    @property
    def interrupts_s(self) -> list[float]:
        """When there was an interrupt, ours or a command."""
        return [*(cut.at_s for cut in self.sent), *(cut.at_s for cut in self.received)]

    def interrupt_received(self, received: ReceivedInterrupt) -> None:
        """Note a command, and which interrupt of ours it answers: the last, if any waits."""
        self.received.append(received)
        if self.sent and self.sent[-1].command is None:
            self.sent[-1].command = received
            received.caused_by_us = True


MAX_NAMES = 100
"""Different unknown commands or faults that are counted apart; a server may invent more."""


def count(counts: dict[str, int], name: str) -> None:
    """Add one to ``name``, or to ``...`` when there are too many names already."""
    key = name if name in counts or len(counts) < MAX_NAMES else "..."
    counts[key] = counts.get(key, 0) + 1


def measure_gaps(queue: PlaybackQueue) -> GapReport:
    gaps = [gap.length_s * 1000 for answer in queue.answers for gap in answer.gaps]
    return GapReport(len(gaps), sum(gaps), max(gaps, default=0.0))


def measure_lead(queue: PlaybackQueue, interrupts_s: Sequence[float] = ()) -> LeadReport | None:
    """None if nothing was ever queued; ``interrupts_s`` is when there were interrupts."""
    leads = [lead for answer in queue.answers for _, lead in answer.leads]
    if not leads:
        return None
    after_s = max(leads)
    steady = [
        answer.steady_leads
        for answer in queue.answers
        if not answer.cut
        and not any(0 <= answer.start_s - at_s <= after_s for at_s in interrupts_s)
    ]
    spreads = [max(s) - min(s) for s in steady if len(s) > 1]
    return LeadReport(
        min(leads) * 1000,
        sum(leads) / len(leads) * 1000,
        max(leads) * 1000,
        max(spreads) * 1000 if spreads else None,
    )


def measure_answers(
    queue: PlaybackQueue, speakers: Sequence[SpeakerReport]
) -> tuple[AnswerReport, ...]:
    """Each answer, with its delay after the last speech that ended before it began."""
    answers: list[AnswerReport] = []
    before_s = float("-inf")
    for answer in queue.answers:
        ends = [s.end_s for s in speakers if before_s < s.end_s <= answer.start_s]
        before_s = answer.start_s
        answers.append(
            AnswerReport(
                answer.start_s,
                answer.played / MEETING_RATE_HZ,
                len(answer.gaps),
                answer.cut,
                (answer.start_s - max(ends)) * 1000 if ends else None,
            )
        )
    return tuple(answers)


def measure_interrupts(tally: Tally) -> tuple[InterruptReport, ...]:
    reports = []
    for sent in tally.sent:
        command = sent.command
        reports.append(
            InterruptReport(
                sent.at_s,
                True,
                None if command is None else (command.at_s - sent.at_s) * 1000,
                sent.tail.length_s * 1000,
                None if command is None else command.tail.length_s * 1000,
                0.0 if command is None else command.dropped_s * 1000,
            )
        )
    for received in tally.received:
        if not received.caused_by_us:
            tail_ms = received.tail.length_s * 1000
            reports.append(
                InterruptReport(
                    received.at_s, False, None, tail_ms, tail_ms, received.dropped_s * 1000
                )
            )
    return tuple(sorted(reports, key=lambda report: report.at_s))


def printable(text: str, limit: int = 200) -> str:
    """A peer's text, safe for a terminal: one line, no control characters, not endless."""
    shown = "".join(c if c.isprintable() else " " for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[:limit] + "…"


def counted(number: int, noun: str) -> str:
    """``1 answer``, ``2 answers``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def dump_reports(reports: Sequence[Report]) -> str:
    """JSON of one report, or a list of several."""
    values = [report.to_json() for report in reports]
    return json.dumps(values[0] if len(values) == 1 else values, indent=2) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _lines(report: Report) -> list[str]:
    lines = [
        f"bot {printable(report.bot_id)} at {report.server}: {report.duration_s:.1f} s,"
        f" {report.platform}, {report.form} frames, {report.layout} audio",
        f"  sent      {report.frames_sent} frames, {report.sent_s:.2f} s of audio"
        f" ({report.frames_lost} lost, at most {report.late_ms:.0f} ms late)",
        f"  heard     {report.heard_s:.2f} s in {counted(len(report.answers), 'answer')}"
        f" ({report.received_s:.2f} s received, {report.cleared_s:.2f} s cleared,"
        f" {report.unplayed_s:.2f} s not played)",
    ]
    if report.first_audio_ms is not None:
        delays = [a.delay_ms for a in report.answers if a.delay_ms is not None]
        shown = ", ".join(f"{delay:.0f}" for delay in delays[:20])
        lines.append(f"  answered  {shown} ms after the end of speech")
    if report.lead is not None:
        lead, gaps = report.lead, report.gaps
        drift = _why_no_drift(report) if lead.drift_ms is None else f"{lead.drift_ms:.0f} ms"
        lines += [
            f"  lead      {lead.min_ms:.0f} / {lead.mean_ms:.0f} / {lead.max_ms:.0f} ms"
            f" (min / mean / max), drift {drift}",
            f"  gaps      {gaps.count}, {gaps.total_ms:.0f} ms in all,"
            f" longest {gaps.longest_ms:.0f} ms",
        ]
    for cut in report.interrupts:
        who = "ours" if cut.sent_by_us else "the server's"
        lines.append(
            f"  interrupt at {cut.at_s:.2f} s ({who}): heard {cut.tail_ms:.0f} ms more,"
            f" {cut.dropped_ms:.0f} ms cleared" + _answered(cut)
        )
    lines += [f"  chat      {printable(text)}" for text in report.chats]
    lines += [f"  caption   {role}: {printable(text)}" for role, text in report.captions]
    if report.images:
        lines.append(f"  images    {report.images}")
    for title, counts in (("unknown", report.unknown_commands), ("fault", report.faults)):
        lines += [f"  {title:<9} {printable(what)}: {n}" for what, n in counts.items()]
    lines += [
        f"  closed    {end.channel} by {end.by}: {end.code} {printable(end.reason)}".rstrip()
        for end in report.closes
    ]
    if report.saved is not None:
        lines.append(f"  saved     {report.saved}")
    return lines


def _why_no_drift(report: Report) -> str:
    if report.interrupts:
        return "unknown: no answer much longer than 1 s was free of interrupts"
    return "unknown: no answer was much longer than 1 s"


def _answered(cut: InterruptReport) -> str:
    if not cut.sent_by_us:
        return ""
    if cut.answered_ms is None:
        return ", never answered"
    return f", answered after {cut.answered_ms:.0f} ms"
