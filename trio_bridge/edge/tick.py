"""A reader of audio sockets that lets frames gather: more latency, and fewer wake-ups.

Every tick the sockets that have bytes are read in the hook that Trio calls right after its wait
for I/O: whoever is woken by a frame then runs in this turn of the loop and not in the next. An
`AudioClock` is told when the next tick is; of any other clock's loop it is a deadline that ends
the wait but rarely a task's.
"""

from __future__ import annotations

import math

import trio

from trio_bridge.bell import Bell
from trio_bridge.clock import STRIKES_A_TURN, Clock
from trio_bridge.edge.audio_clock import AudioClock
from trio_bridge.edge.hub import BATCH, RESTLESS_S, Hub

FEW, LONGEST_TICK_S = 8, 0.004
"""While fewer sockets a tick have something (80 bots send 8), it is twice as long, up to this:
a wake-up costs some 70 us besides its frames, and few frames must not pay for many of them.
Audio is in the agent's hands within 4.9 ms at p99 then: the process sleeps whole milliseconds,
so a tick may come up to one of them late, and a crowd's takes half a millisecond."""
QUIET_TICKS = 20
"""Ticks without a byte after which the hub sleeps until there is one."""


class TickingHub(Hub, trio.abc.Instrument):
    """Reads the sockets of every `HubStream` that waits in `read_into`, once a tick.

    What comes while the others are read waits for the next; but of what has come everything is
    read, however much. The clock is not asked here to wait for audio.
    Behind that it strikes what is due: of 200 bots with frames of 100 ms a wake-up for the
    meetings' clock alone, 50 times a second, took 3 % of the CPU.
    """

    def __init__(self, tick_s: float, clock: Clock | None = None) -> None:
        """``tick_s``: how long frames may gather before they are read; what is due by ``clock``
        is struck then, too."""
        super().__init__(clock=clock)
        self._tick_s = tick_s
        self._due_s = math.inf
        """When the hook is to read next."""
        self._ready: list[tuple[int, int]] = []
        """Descriptors that had bytes at this tick, of which not all were read yet."""
        self._looked_s = -math.inf
        """When the last tick was."""
        self._long_s = max(tick_s, min(2 * tick_s, LONGEST_TICK_S))
        """A tick while few sockets have something."""
        self._quiet = 0
        """Ticks that found nothing, since one that did."""
        self._bell = Bell()
        """Wakes the hub's task: there is nothing for a while, or more to read at once and no
        clock that could be told."""
        self._loops: AudioClock | None = None
        """The loop's own clock."""

    def look(self) -> bool:
        """Nothing is read: the hook does that, tick by tick, whether a task can run or not."""
        return False

    async def _read(self) -> None:
        clock = trio.lowlevel.current_clock()
        self._loops = clock if isinstance(clock, AudioClock) else None
        trio.lowlevel.add_instrument(self)
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                with self._others.left_to_another(slack_s=RESTLESS_S):
                    await self._tick()
        finally:
            trio.lowlevel.remove_instrument(self)
            if self._loops is not None:
                self._loops.ticks.pop(self, None)

    async def _tick(self) -> None:
        """Have the hook read now, and then every tick until there is nothing for a while."""
        self._due_s, self._quiet = trio.current_time(), 0
        if self._loops is not None:
            self._loops.ticks[self] = self._due_s
            while self._due_s < math.inf:
                await self._bell.wait()
            return
        while self._due_s < math.inf:
            deadline_s = math.inf if self._ready else self._due_s
            # Here its deadline is the next tick's, which ends the loop's wait.
            with trio.CancelScope(deadline=deadline_s) as self._alarm:
                while self._due_s < math.inf:
                    if self._ready:
                        await trio.lowlevel.checkpoint()
                    else:
                        await self._bell.wait()

    def after_io_wait(self, timeout: float) -> None:
        """Called by Trio, in the loop's thread; for what it raised Trio would drop us."""
        if self._due_s == math.inf and not self._ready:
            return
        now_s = trio.current_time()
        try:
            if self._ready or self._due_s <= now_s:
                self._read_what_is_due(now_s)
            if not self._ready:
                self._strike_what_is_due(trio.current_time())
        except BaseException as exc:  # `run` raises it
            self._ready, self._due_s = [], math.inf
            self._fail(exc)

    def _read_what_is_due(self, now_s: float) -> None:
        """Read `BATCH` sockets at most."""
        ready = self._ready
        if not ready:
            ready = self._epoll.poll(0, max(1, len(self._streams)))
            self._set_next_tick(len(ready), now_s)
        self._ready = rest = ready[BATCH:]
        rest += self._serve(ready[:BATCH], now_s)
        if self._loops is not None:  # told, it spares the hub's task a turn, some 30 us
            self._loops.ticks[self] = now_s if rest else self._due_s
            return
        self._alarm.deadline = math.inf if rest else self._due_s
        if rest:
            self._bell.ring()

    def _strike_what_is_due(self, now_s: float) -> None:
        others = self._others
        for _ in range(STRIKES_A_TURN):
            if others.next_s > now_s:
                return
            others.strike_one(now_s)

    def _set_next_tick(self, found: int, now_s: float) -> None:
        gathered_s, self._looked_s = now_s - self._looked_s, now_s
        self._quiet = 0 if found else self._quiet + 1
        if self._quiet == QUIET_TICKS:
            self._due_s = math.inf
            self._bell.ring()
            return
        # A tick that comes late is followed by another at once, which finds little and says
        # nothing of how many frames come.
        tick_s = self._tick_s
        few = gathered_s >= tick_s and found * tick_s < FEW * gathered_s
        self._due_s = max(self._due_s + (self._long_s if few else tick_s), now_s)
