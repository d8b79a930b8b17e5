"""Who may begin a meeting, decided before anybody who is in one hears a gap. Sans-I/O.

Only new meetings are judged. A bot whose meeting runs, or waits for it, is always let in: its
second channel and its reconnect cost next to nothing, and their absence a whole meeting.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Literal

import attrs

Reason = Literal["draining", "full", "overloaded"]

BEAT_S = 0.2
"""Between two looks at the loop, on average: five wake-ups a second are all that it costs."""
LOOKS = 15
"""Looks that count: those of the last 3 s, or longer while the loop is very late."""
LATE_LOOKS = 3
"""As many of them must be late. One is an agent that loads its model or a slow disk: nobody
needs to be refused for it, and the watchdog names it."""
LEAST_LATE_MS = 20.0
"""Any loop is late by so much now and then (a collection, a few hundred handshakes), so a lead
with no slack in it closes the door no sooner."""

RETRY_S: dict[Reason, int] = {"draining": 10, "full": 10, "overloaded": 5}
"""What ``Retry-After`` says. Bots were seen to retry after 10 s; an overload is over, as far as
we can see, 3 s after its last late look."""


def late_limit_ms(lead_ms: float, chunk_ms: float, percent: float) -> float:
    """How late the loop may be: ``percent`` of what the bot still has when a chunk is due.

    That is the lead without one chunk, 200 ms by default: a loop as late as that is heard.
    """
    return max(LEAST_LATE_MS, (lead_ms - chunk_ms) * percent / 100) if percent else 0.0


@attrs.define(eq=False)
class Lag:
    """How late the event loop is, as its late looks say; it closes high and opens low."""

    limit_ms: float
    """0: never `over`."""
    over: bool = attrs.field(default=False, init=False)
    """No new meetings, from `limit_ms` up until it is back under half of that."""
    _looks: deque[float] = attrs.field(factory=lambda: deque(maxlen=LOOKS), init=False)

    @property
    def ms(self) -> float:
        """So late were the latest `LATE_LOOKS` of the last `LOOKS`, all of them."""
        worst = sorted(self._looks, reverse=True)[:LATE_LOOKS]
        return worst[-1] if len(worst) == LATE_LOOKS else 0.0

    def look(self, late_ms: float) -> bool:
        """One more look; True if `over` changed."""
        self._looks.append(late_ms)
        before, lag_ms = self.over, self.ms
        self.over = bool(self.limit_ms) and lag_ms >= self.limit_ms / (2 if before else 1)
        return self.over != before


@attrs.define(eq=False)
class Admission:
    """The door for new meetings of one process."""

    most: int
    """Meetings at once."""
    lag: Lag
    refused: Counter[Reason] = attrs.field(factory=Counter, init=False)
    """New meetings that were turned away: each try counts, and so does each channel."""

    def closed(self, running: int, *, draining: bool = False) -> Reason | None:
        """Why no new meeting is let in beside ``running`` ones; None: one is.

        Those count that are over and whose agents have not stopped yet: they take the room.
        """
        if draining:
            return "draining"
        if running >= self.most:
            return "full"
        return "overloaded" if self.lag.over else None
