"""One task that keeps the time of all meetings and sockets.

A timer of its own wakes the process for each meeting several times a second, which costs more
than what it is for: at 200 meetings 2 us of every frame. Here the times that fall together are
struck together, each in some microseconds.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

import trio

from trio_bridge.bell import Bell

GRID_S = 0.02
"""What falls due within one grid step is struck at its end: each step may be a wake-up of the
process, and is as much as a gap's silence comes late."""
STRIKES_A_TURN = 16
"""Then other tasks get theirs: with hundreds of meetings a grid step has tens of strikes, of
some 7 us each."""
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
        # By grid step: a heap of all strikes is ten comparisons for each, of numbers that have
        # left the processor's caches since.
        self._strikes: dict[int, list[tuple[float, Strike]]] = {}
        self._steps: list[int] = []
        """A heap of the same steps."""
        self._bell = Bell()

    def at(self, due_s: float, strike: Strike) -> None:
        """Call ``strike`` once at ``due_s`` on Trio's clock, or up to `GRID_S` later; never if
        that is infinite, as a limit of who embeds us may be."""
        if due_s == math.inf:
            return
        step = math.ceil(due_s / GRID_S)
        if step * GRID_S < due_s:  # rounding must not make it early
            step += 1
        known = self._strikes.get(step)
        if known is not None:
            known.append((due_s, strike))
            return
        first = not self._steps or step < self._steps[0]
        self._strikes[step] = [(due_s, strike)]
        heapq.heappush(self._steps, step)
        if first:
            self._bell.ring()

    async def run(self) -> None:
        """Strike until cancelled."""
        while True:
            with trio.move_on_at(self._next_s()):
                await self._bell.wait()
            now_s, strikes = trio.current_time(), 0
            while self._next_s() <= now_s:
                struck = self._strikes.pop(heapq.heappop(self._steps))
                for due_s, strike in sorted(struck, key=_when):
                    if strikes == STRIKES_A_TURN:
                        await trio.lowlevel.checkpoint()
                        strikes = 0
                    strike(now_s)
                    strikes += 1
                    looks = 0 if now_s - due_s < LATE_S else LOOKS_A_STRIKE
                    while looks < LOOKS_A_STRIKE and self.look():
                        await trio.lowlevel.checkpoint()
                        looks, strikes, now_s = looks + 1, 0, trio.current_time()

    def _next_s(self) -> float:
        return self._steps[0] * GRID_S if self._steps else math.inf


def _when(strike: tuple[float, Strike]) -> float:
    return strike[0]


def _nothing() -> bool:
    return False
