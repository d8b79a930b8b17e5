"""The platform's side of playback: a queue that plays, and why it ran dry. Pure.

Not the simulator's: that checks every sample and every frame; this one has to keep up with a
hundred bots in one thread, so it only adds up lengths.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

import attrs

RATE_HZ = 48_000
ANSWER_S = 1.0
"""A longer silence lies between two answers, and is no gap."""
FILL_S = 1.0
"""Into an answer; until then the queue is being filled, so its length says nothing."""
LEAD_S = 0.3
EXCUSE_S = 0.15
"""Absence or stall of ours within `LEAD_S` before a gap that explains it. The queue holds 0.2
to 0.3 s, so less cannot have emptied it."""
STARVED_WITHIN_S = 0.7
REMEMBERED = 64

Cause = Literal["server", "away", "client", "machine"]


@attrs.frozen
class Gap:
    """The queue was dry in the middle of an answer."""

    at_s: float
    length_s: float
    cause: Cause
    """``away``: the bot had no control socket; ``client``: this generator was stalled;
    ``machine``: the server was ready to run and others had its core."""


@attrs.define(eq=False)
class Spans:
    """Stretches of time, the latest `REMEMBERED`."""

    _spans: deque[tuple[float, float]] = attrs.field(
        factory=lambda: deque(maxlen=REMEMBERED), init=False
    )

    def add(self, from_s: float, to_s: float) -> None:
        """Remember one."""
        self._spans.append((from_s, to_s))

    def within(self, from_s: float, to_s: float) -> float:
        """Seconds of them between ``from_s`` and ``to_s``."""
        return sum(max(0.0, min(b, to_s) - max(a, from_s)) for a, b in self._spans)


def _nothing(_: float) -> None:
    pass


@attrs.define(eq=False)
class Playback:
    """One bot's queue. Time in seconds, never backwards."""

    stalls: Spans
    """Of the generator; shared by all bots. One that is over must be in it before what came
    meanwhile arrives."""
    starvation: Spans
    """Of the server, for want of its core; shared by all bots."""
    look: Callable[[float], object] = _nothing
    """Brings `starvation` up to now. The kernel books a wait when it ends, and the first thing
    that a server does then is to send the chunk that is late: whoever looks now and then has
    not seen the wait yet when there is a gap to judge."""
    absences: Spans = attrs.field(factory=Spans, init=False)
    samples: int = attrs.field(default=0, init=False)
    answers: int = attrs.field(default=0, init=False)
    gaps: list[Gap] = attrs.field(factory=list, init=False)
    least_s: float = attrs.field(default=float("inf"), init=False)
    """The shortest queue that a chunk found, later than `FILL_S` and with no excuse."""
    _began_s: float = attrs.field(default=float("-inf"), init=False)
    _ends_s: float = attrs.field(default=float("-inf"), init=False)

    def arrive(self, now_s: float, samples: int) -> None:
        """A chunk came in."""
        queued_s = self._ends_s - now_s
        if -ANSWER_S <= queued_s < 0:
            self.look(now_s)
        cause = self._cause(now_s)
        if -queued_s > ANSWER_S:
            self.answers += 1
            self._began_s = now_s
        else:
            if queued_s < 0:
                self.gaps.append(Gap(self._ends_s, -queued_s, cause))
            if cause == "server" and now_s - self._began_s > FILL_S:
                self.least_s = min(self.least_s, queued_s)
        self.samples += samples
        self._ends_s = max(self._ends_s, now_s) + samples / RATE_HZ

    def end(self) -> None:
        """The bot left: the next one begins with an empty queue."""
        self._ends_s = float("-inf")

    def _cause(self, now_s: float) -> Cause:
        since_s = min(self._ends_s, now_s) - LEAD_S
        if self.absences.within(since_s, now_s) >= EXCUSE_S:
            return "away"
        if self.stalls.within(since_s, now_s) >= EXCUSE_S:
            return "client"
        # Slices add up: the server may have run in between and not have caught up.
        starved_s = self.starvation.within(since_s - STARVED_WITHIN_S, now_s)
        return "machine" if starved_s >= EXCUSE_S else "server"
