"""One task that keeps the time of all meetings and sockets.

A timer of its own wakes the process for each meeting several times a second, which costs more
than what it is for: at 200 meetings 2 us of every frame. Here the times that fall together are
struck together, each in some microseconds.

Even so a grid step of 200 meetings takes 0.1 ms, and since it is as long as the frames of most
bots, it would be the same bots' frames that came in the midst of it, time and again. So where
the loop polls for audio, its reader strikes when it finds none (see `Clock.left_to_another`).
"""

from __future__ import annotations

import contextvars
import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

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
"""Is told the time; must not wait nor need a task, and what it raises ends who called it."""


class Clock:
    """Calls back at times asked for, to the next `GRID_S`."""

    def __init__(self) -> None:
        self.look: Callable[[], bool] = _nothing
        """Looks for what is more urgent than a strike; whether that has woken a task."""
        self.next_s = math.inf
        """When `strike_one` will have something to do."""
        # By grid step: a heap of all strikes is ten comparisons for each, of numbers that have
        # left the processor's caches since.
        self._strikes: dict[int, list[tuple[float, Strike]]] = {}
        self._steps: list[int] = []
        """A heap of the same steps."""
        self._due: deque[tuple[float, Strike]] = deque()
        """What is left of the steps that have come."""
        self._slack_s = 0.0
        self._context = contextvars.copy_context()
        """Of `run`: in it whatever is struck runs, whoever strikes."""
        self._alarm = trio.CancelScope()
        """Around the sleep of `run`."""

    def at(self, due_s: float, strike: Strike) -> None:
        """Call ``strike`` once at ``due_s`` on Trio's clock, or up to `GRID_S` later (and the
        slack of `left_to_another`); never if that is infinite, as a limit of who embeds us may
        be."""
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
            self._set_next()

    def strike_one(self, now_s: float) -> float:
        """Strike what has been due longest at ``now_s``, where something is (see `next_s`);
        returns when it was due."""
        due = self._due
        if not due:
            struck = self._strikes.pop(heapq.heappop(self._steps))
            due.extend(sorted(struck, key=_when))
        due_s, strike = due.popleft()
        try:
            self._context.run(strike, now_s)
        finally:
            if not due:
                self._set_next()
        return due_s

    @contextmanager
    def left_to_another(self, slack_s: float) -> Iterator[None]:
        """Who enters this calls `strike_one` when he has nothing better to do; `run` does only
        for what would be later than ``slack_s``. It spares the loop what a task's wake-up by a
        deadline costs, and whoever comes in the midst of a grid step waits for one strike."""
        self._slack_s = slack_s
        self._set_next()
        try:
            yield
        finally:
            self._slack_s = 0.0
            self._set_next()

    async def run(self) -> None:
        """Strike until cancelled."""
        self._context = contextvars.copy_context()
        while True:
            with trio.CancelScope() as self._alarm:
                self._alarm.deadline = self.next_s + self._slack_s
                await trio.sleep_forever()
            now_s, strikes = trio.current_time(), 0
            while self.next_s <= now_s:
                if strikes == STRIKES_A_TURN:
                    await trio.lowlevel.checkpoint()
                    strikes = 0
                    continue  # another may have struck the last one
                due_s = self.strike_one(now_s)
                strikes += 1
                looks = 0 if now_s - due_s < LATE_S else LOOKS_A_STRIKE
                while looks < LOOKS_A_STRIKE and self.look():
                    await trio.lowlevel.checkpoint()
                    looks, strikes, now_s = looks + 1, 0, trio.current_time()

    def _set_next(self) -> None:
        if not self._due:
            self.next_s = self._steps[0] * GRID_S if self._steps else math.inf
        self._alarm.deadline = self.next_s + self._slack_s


def _when(strike: tuple[float, Strike]) -> float:
    return strike[0]


def _nothing() -> bool:
    return False
