"""A clock for `trio.run` in whose loop audio ends a sleep without waking a task."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

Wait = Callable[[float, float], None]
"""Is told the time and in how many seconds something else is due, while no task can run. May
wait for so long at most, and wake tasks; then the loop looks at everything else. Must not
raise: that would end the loop."""


class AudioClock(trio.abc.Clock):
    """Keeps the time, and lets one bridge of the loop wait for audio.

    Trio asks its clock how long it may sleep when no task can run. In that very call the hub
    of a bridge waits for audio and reads it, so a frame wakes nobody but the agent: no task of
    the hub's, and no descriptor is armed again. What that is for is busy polling, which turns a
    loop of three lines and not Trio's. What else there is to do, another bridge's audio too,
    may wait for 2 ms meanwhile.
    Without a hub this is a clock like any other. Not for guest mode: the host would wait too.
    """

    def __init__(self) -> None:
        self.wait: Wait | None = None
        """Of the hub to which audio flows, until it stops; None: nobody waits for audio."""
        self.ticks: dict[object, float] = {}
        """Who has something to do outside any task, and when: the loop sleeps until then at
        most. As deadlines of Trio's they would cost more than the tick."""

    def start_clock(self) -> None:
        """There is nothing to start."""

    def current_time(self) -> float:
        """`time.perf_counter`, without the offset of Trio's own: `Hub` looks at both."""
        return time.perf_counter()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """How many seconds the loop may sleep now."""
        now_s = time.perf_counter()
        wait = self.wait
        if self.ticks:
            deadline = min(deadline, *self.ticks.values())
        if wait is None or deadline <= now_s:
            return deadline - now_s
        wait(now_s, deadline - now_s)
        return 0.0
