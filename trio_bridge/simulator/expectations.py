"""What an operator demands of a run, and which demands a report does not meet."""

from __future__ import annotations

import re

import attrs

from trio_bridge.simulator.report import Report, printable

GOOD_CODES = frozenset({1000, 1001})
"""Close codes with which a server may end a meeting on its own: done, or shutting down."""


@attrs.frozen(kw_only=True)
class Expectations:
    """None or empty means: not demanded."""

    heard_s: float | None = None
    """At least this many seconds of the bot were heard."""
    chats: tuple[re.Pattern[str], ...] = ()
    """Each is found in at least one chat message."""
    max_gap_ms: float | None = None
    """No gap within an answer is longer."""
    max_tail_ms: float | None = None
    """No more than this is heard after any interrupt of ours; with none of ours, after any
    ``interrupt`` command."""
    max_lead_ms: float | None = None
    """Never more than this queued."""
    first_audio_ms: float | None = None
    """Every answer begins at most this long after the end of the speech before it."""
    close_code: int | None = None
    """Each channel's last connection ended with this code. Without it, a code of the server's
    that is neither of `GOOD_CODES` is a failure."""

    @property
    def demands(self) -> int:
        """How many demands there are."""
        limits = (
            self.heard_s,
            self.max_gap_ms,
            self.max_tail_ms,
            self.max_lead_ms,
            self.first_audio_ms,
            self.close_code,
        )
        return len(self.chats) + sum(limit is not None for limit in limits)

    def failures(self, report: Report) -> list[str]:
        """One line for each demand that is not met; empty when all is well.

        What could not be measured was not met: a run in which nothing was heard had no gaps,
        and proves nothing about them.
        """
        return [
            *self._audio_failures(report),
            *self._interrupt_failures(report),
            *(
                f"no chat message matches {pattern.pattern!r}"
                for pattern in self.chats
                if not any(pattern.search(text) for text in report.chats)
            ),
            *self._close_failures(report),
        ]

    def _audio_failures(self, report: Report) -> list[str]:
        lines = []
        if self.heard_s is not None and report.heard_s < self.heard_s:
            lines.append(
                f"heard {report.heard_s:.2f} s of the bot, expected {self.heard_s:g} s or more"
            )
        longest_ms = report.gaps.longest_ms if report.answers else None
        lead_ms = None if report.lead is None else report.lead.max_ms
        lines += _at_most("the longest gap", longest_ms, self.max_gap_ms, "nothing was heard")
        lines += _at_most("the lead", lead_ms, self.max_lead_ms, "nothing was heard")
        lines += _at_most(
            "the first audio", report.first_audio_ms, self.first_audio_ms, "no answer to speech"
        )
        return lines

    def _interrupt_failures(self, report: Report) -> list[str]:
        ours = [cut for cut in report.interrupts if cut.sent_by_us]
        tails = [cut.tail_ms for cut in (ours or report.interrupts)]
        longest_ms = max(tails, default=None)
        return _at_most("the tail", longest_ms, self.max_tail_ms, "there was no interrupt")

    def _close_failures(self, report: Report) -> list[str]:
        last = {close.channel: close for close in report.closes}
        lines = []
        for channel, close in last.items():
            if self.close_code is None:
                wrong = close.by == "server" and close.code not in GOOD_CODES
                wanted = ""
            else:
                wrong = close.code != self.close_code
                wanted = f", expected {self.close_code}"
            if wrong:
                told = f"{close.code} {printable(close.reason)}".rstrip()
                lines.append(f"the {close.by} closed {channel} with {told}{wanted}")
        return lines


def _at_most(what: str, value_ms: float | None, limit_ms: float | None, why: str) -> list[str]:
    if limit_ms is None:
        return []
    if value_ms is None:
        return [f"{what} could not be measured: {why}"]
    if value_ms <= limit_ms:
        return []
    return [f"{what} was {value_ms:.0f} ms, expected at most {limit_ms:g} ms"]
