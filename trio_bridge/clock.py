"""One task that keeps the time of all meetings and sockets.

A timer of its own wakes the process for each meeting several times a second, which costs more
than what it is for: at 200 meetings 2 us of every frame. Here the times that fall together are
struck together, each in some microseconds.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable

import trio

from trio_bridge.bell import Bell

GRID_S = 0.02
"""What falls due within one grid step is struck at its end: each step may be a wake-up of the
process, and is as much as a gap's silence comes late."""
STRIKES_A_TURN = 4
"""Then other tasks get theirs: with hundreds of meetings a grid step has tens of strikes, of
some 10 us each."""
LOOKS_A_STRIKE = 8
"""What is more urgent comes first after each strike, so many times at most: a frame that waits
for four of them is in the 99th percentile."""
LATE_S = 4 * GRID_S
"""From here on strikes come first: a loop that does not keep up has something more urgent at
every look."""

Strike = Callable[[float], None]
"""Is told the time; must not wait, and what it raises ends the clock."""


class Clock:
    """Calls back at times asked for, to the next `GRID_S`."""

    def __init__(self) -> None:
        self.look: Callable[[], bool] = _nothing
        """Looks for what is more urgent than a strike; whether that has woken a task."""
        self._due: list[tuple[float, int, Strike]] = []
        self._number = itertools.count()  # among equals the first comes first
        self._bell = Bell()

    def at(self, due_s: float, strike: Strike) -> None:
        """Call ``strike`` once at ``due_s`` on Trio's clock, or up to `GRID_S` later."""
        first = not self._due or due_s < self._due[0][0]
        heapq.heappush(self._due, (due_s, next(self._number), strike))
        if first:
            self._bell.ring()

    async def run(self) -> None:
        """Strike until cancelled."""
        while True:
            with trio.move_on_at(self._next_s()):
                await self._bell.wait()
            now_s, strikes = trio.current_time(), 0
            while self._due and self._due[0][0] <= now_s:
                if strikes == STRIKES_A_TURN:
                    await trio.lowlevel.checkpoint()
                    strikes = 0
                due_s, _, strike = heapq.heappop(self._due)
                strike(now_s)
                strikes += 1
                looks = 0 if now_s - due_s < LATE_S else LOOKS_A_STRIKE
                while looks < LOOKS_A_STRIKE and self.look():
                    await trio.lowlevel.checkpoint()
                    looks, strikes, now_s = looks + 1, 0, trio.current_time()

    def _next_s(self) -> float:
        if not self._due:
            return math.inf
        due_s = self._due[0][0]
        return max(due_s, math.ceil(due_s / GRID_S) * GRID_S)  # rounding must not make it early


def _nothing() -> bool:
    return False
