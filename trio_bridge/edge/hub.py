"""One reader for all audio sockets: their own epoll, awaited through its descriptor.

A task of its own for each frame costs Trio a re-armed descriptor and a task switch. Here every
socket that has bytes is read, and its frames are handed on, in the hook that Trio calls right
after its wait for I/O: whoever is woken by a frame then runs in this turn of the loop and not
in the next. A connection's own task runs only when something is not plain audio. With a tick
frames gather for so long before anybody looks, which costs latency and saves wake-ups.

Only for cleartext sockets, and only where there is epoll (Linux).
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
from collections.abc import Callable

import outcome
import trio

from trio_bridge.bell import Bell
from trio_bridge.edge.transport import READ_BYTES, RawStream

BATCH = 16
"""Sockets read before other tasks get their turn: some 0.5 ms; with a long tick five frames
each, 1 ms."""
FEW, LONGEST_WAIT_S = 8, 0.0035
"""While fewer sockets a tick have something (80 bots send 8), it is twice as long, up to this:
a wake-up costs some 70 us before its first frame is heard, and few frames must not pay for many
of them."""
QUIET_TICKS = 20
"""Ticks without a byte after which the hub sleeps until there is one."""

Sink = Callable[[bytes], bool]


class HubStream(RawStream):
    """A raw socket whose `read_into` is done by a `Hub`."""

    __slots__ = ("_hub", "_sink", "_task", "max_bytes")

    def __init__(self, stream: trio.SocketStream, hub: Hub) -> None:
        super().__init__(stream)
        self.max_bytes = 0
        self._hub = hub
        self._sink: Sink | None = None
        self._task: trio.lowlevel.Task | None = None

    async def read_into(self, sink: Sink, max_bytes: int) -> bool:
        self._check_open()
        self._hub.watch(self)
        self._acknowledge_later()
        self._sink, self.max_bytes = sink, min(max_bytes, READ_BYTES)
        self._task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._leave()
            return trio.lowlevel.Abort.SUCCEEDED

        alive: bool = await trio.lowlevel.wait_task_rescheduled(abort)
        return alive

    def serve(self) -> None:
        """Read what there is and hand it on. Called by the hub; never waits.

        What the sink raises is its own reader's, unless it is no `Exception`.
        """
        sink = self._sink
        if sink is None:
            return
        try:
            room = self._hub.room
            size = self.socket.recv_into(room, self.max_bytes)
            if not size:
                self._finish(outcome.Value(False))
            elif not sink(bytes(room[:size])):
                self._finish(outcome.Value(True))
        except BlockingIOError:  # readiness can be spurious
            return
        except OSError as exc:
            self._finish(outcome.Error(trio.BrokenResourceError(str(exc))))
        except Exception as exc:  # one connection's fault must not end the hub
            self._finish(outcome.Error(exc))

    async def aclose(self) -> None:
        if self._sink is not None:
            self._finish(outcome.Error(trio.ClosedResourceError()))
        await super().aclose()

    def _acknowledge_later(self) -> None:
        """Let the kernel acknowledge audio as it comes, not each time that it is read.

        On a socket that only reads, every ``recv`` sends an acknowledgement of its own: 3 of
        its 4.5 us on loopback, where a proxy in front also is. The kernel goes back to that by
        itself when a sender turns out to wait for one (measured: one stall of 20 ms, once).
        """
        with contextlib.suppress(OSError, AttributeError):  # not TCP, gone, or not Linux
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)

    def _finish(self, result: outcome.Outcome[bool]) -> None:
        task = self._task
        if task is None:  # the sink has cancelled its own reader
            return
        self._leave()
        trio.lowlevel.reschedule(task, result)

    def _leave(self) -> None:
        self._hub.unwatch(self)
        self._sink = self._task = None


class Hub(trio.abc.Instrument):
    """Reads the sockets of every `HubStream` that waits in `read_into`."""

    def __init__(self, tick_s: float = 0.0, poll_s: float = 0.0) -> None:
        """``tick_s``: how long frames may gather before they are read, 0 for not at all; then
        ``poll_s`` is how long the loop does not sleep after one came (busy polling)."""
        self.room = memoryview(bytearray(READ_BYTES))
        """Where bytes arrive, of one socket at a time. ``recv`` makes room for the most there
        could be, each time, and gives back what was too much: small things that live longer
        settle behind, and the heap grows for ever."""
        self._tick_s, self._poll_s = tick_s, poll_s
        self._epoll = select.epoll()
        self._streams: dict[int, HubStream] = {}
        self._due_s = math.inf if tick_s else -math.inf
        """When the hook is to read next."""
        self._ready: list[tuple[int, int]] = []
        """Descriptors that had bytes at this tick and were not read yet."""
        self._looked_s = -math.inf
        """When the last tick was."""
        self._long_s = max(tick_s, min(2 * tick_s, LONGEST_WAIT_S))
        """A tick while few sockets have something."""
        self._quiet = 0
        """Ticks that found nothing, since one that did."""
        self._alarm = trio.CancelScope()
        """Has the deadline that ends the loop's wait for the next tick."""
        self._bell = Bell()
        """Wakes the hub's task: there is more to read at once, or nothing for a while."""
        self._fault: BaseException | None = None
        """What ended the reading."""
        self._awake_until_s = -math.inf
        """The loop does not sleep before."""

    def watch(self, stream: HubStream) -> None:
        """Read ``stream`` from now on.

        Raises:
            trio.ClosedResourceError: the hub is over.
        """
        if self._epoll.closed:
            raise trio.ClosedResourceError("nobody reads any more")
        descriptor = stream.socket.fileno()
        self._epoll.register(descriptor, select.EPOLLIN)
        self._streams[descriptor] = stream

    def unwatch(self, stream: HubStream) -> None:
        """Leave ``stream`` alone; it must be done before its socket is closed."""
        descriptor = stream.socket.fileno()
        self._streams.pop(descriptor, None)
        if self._epoll.closed:
            return
        # Unregistered, not masked: epoll reports a hang-up of masked descriptors for ever.
        self._epoll.unregister(descriptor)

    async def run(self) -> None:
        """Have the hook read until cancelled; what waits then is left to its own task's end.

        Raises:
            BaseException: what went wrong in the hook, which Trio would only log.
        """
        trio.lowlevel.add_instrument(self)
        try:
            while self._fault is None:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                if self._tick_s:
                    await self._tick()
                while self._awake_until_s > trio.current_time():
                    await trio.lowlevel.checkpoint()
            raise self._fault
        finally:
            trio.lowlevel.remove_instrument(self)
            self._epoll.close()

    def after_io_wait(self, timeout: float) -> None:
        """Called by Trio, in the loop's thread; what it raised would end the reading unseen."""
        try:
            self._read_what_is_due()
        except BaseException as exc:  # `run` raises it
            self._fault = exc
            self._ready = []
            self._stop_ticking()

    def _read_what_is_due(self) -> None:
        """Read `BATCH` sockets at most."""
        ready = self._ready
        if not ready:
            if self._due_s > (now_s := trio.current_time()):
                return
            if not self._tick_s:
                ready = self._epoll.poll(0, BATCH)
                if ready and self._poll_s:
                    self._awake_until_s = now_s + self._poll_s
                self._serve(ready)
                return
            ready = self._epoll.poll(0, max(1, len(self._streams)))
            self._set_next_tick(len(ready), now_s)
        self._ready = ready[BATCH:]
        if self._ready:
            self._bell.ring()
        self._serve(ready[:BATCH])

    async def _tick(self) -> None:
        """Have the hook read now, and then every tick until there is nothing for a while.

        A re-armed descriptor and a wake-up of its own for each frame are what a tick saves. It
        is a deadline that ends Trio's wait but rarely a task's: the hook comes first and puts
        it off. A socket is read once a tick: what comes while the others are read waits for the
        next.
        """
        self._due_s, self._quiet = trio.current_time(), 0
        while self._due_s < math.inf:
            with trio.CancelScope(deadline=self._due_s) as self._alarm:
                while self._due_s < math.inf:
                    if self._ready:
                        await trio.lowlevel.checkpoint()
                    else:
                        await self._bell.wait()

    def _set_next_tick(self, found: int, now_s: float) -> None:
        gathered_s, self._looked_s = now_s - self._looked_s, now_s
        self._quiet = 0 if found else self._quiet + 1
        if self._quiet == QUIET_TICKS:
            self._stop_ticking()
            return
        # A tick that comes late is followed by another at once, which finds little and says
        # nothing of how many frames come.
        tick_s = self._tick_s
        few = gathered_s >= tick_s and found * tick_s < FEW * gathered_s
        self._due_s = max(self._due_s + (self._long_s if few else tick_s), now_s)
        self._alarm.deadline = self._due_s

    def _stop_ticking(self) -> None:
        self._due_s = math.inf
        self._bell.ring()

    def _serve(self, ready: list[tuple[int, int]]) -> None:
        for descriptor, _ in ready:
            stream = self._streams.get(descriptor)
            if stream is not None:  # else its neighbour's frame has just ended it
                stream.serve()
