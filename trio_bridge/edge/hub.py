"""One reader for all audio sockets: their own epoll, awaited through its descriptor.

A task of its own for each frame costs Trio a re-armed descriptor and a task switch. Here one
task reads every socket that has bytes and hands them on in the same step; a connection's own
task runs only when something is not plain audio. With a tick it lets frames gather for so
long before it looks, which costs latency and saves wake-ups.

Only for cleartext sockets, and only where there is epoll (Linux).
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable

import outcome
import trio

from trio_bridge.edge.transport import READ_BYTES, RawStream

BATCH = 16
"""Sockets read before other tasks get their turn: some 0.5 ms; with a long tick five frames
each, 1 ms."""
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
        self._sink, self.max_bytes = sink, max_bytes
        self._task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._leave()
            return trio.lowlevel.Abort.SUCCEEDED

        alive: bool = await trio.lowlevel.wait_task_rescheduled(abort)
        return alive

    def serve(self) -> None:
        """Read what there is and hand it on. Called by the hub; never raises, never waits."""
        sink = self._sink
        if sink is None:
            return
        try:
            data = self._read(self.max_bytes)
            if not data:
                self._finish(outcome.Value(False))
            elif not sink(data):
                self._finish(outcome.Value(True))
        except BlockingIOError:  # readiness can be spurious
            return
        except OSError as exc:
            self._finish(outcome.Error(trio.BrokenResourceError(str(exc))))
        except Exception as exc:  # one connection's fault must not end the hub
            self._finish(outcome.Error(exc))

    def _read(self, max_bytes: int) -> bytes:
        # ``recv`` makes room for the most there could be, each time, and gives back what was
        # too much: small things that live longer settle behind, and the heap grows for ever.
        view = self._hub.room
        size = self.socket.recv_into(view, min(max_bytes, len(view)))
        return bytes(view[:size])

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


class Hub:
    """Reads the sockets of every `HubStream` that waits in `read_into`."""

    def __init__(self, tick_s: float = 0.0) -> None:
        """``tick_s``: how long frames may gather before they are read, 0 for not at all."""
        self.room = memoryview(bytearray(READ_BYTES))
        """Where bytes arrive, of one socket at a time."""
        self._tick_s = tick_s
        self._epoll = select.epoll()
        self._streams: dict[int, HubStream] = {}

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
        del self._streams[descriptor]
        if self._epoll.closed:
            return
        # Unregistered, not masked: epoll reports a hang-up of masked descriptors for ever.
        self._epoll.unregister(descriptor)

    async def run(self) -> None:
        """Read until cancelled, then leave everything that waits to its own task's end."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                if self._tick_s:
                    await self._read_by_the_clock()
                else:
                    self._serve(self._epoll.poll(0, BATCH))
        finally:
            self._epoll.close()

    async def _read_by_the_clock(self) -> None:
        """Read now, and then every tick until there is nothing for a while.

        A re-armed descriptor and a wake-up of its own for each frame are what a tick saves. A
        socket is read once a tick: what comes while the others are read waits for the next.
        """
        await self._read_all()
        quiet, next_s = 0, trio.current_time()
        while quiet < QUIET_TICKS:
            next_s = max(next_s + self._tick_s, trio.current_time())
            await trio.sleep_until(next_s)
            quiet = 0 if await self._read_all() else quiet + 1

    async def _read_all(self) -> bool:
        """Read every socket that has bytes now, once; whether there was one."""
        ready = self._epoll.poll(0, max(1, len(self._streams)))
        for start in range(0, len(ready), BATCH):
            if start:
                await trio.lowlevel.checkpoint()
            self._serve(ready[start : start + BATCH])
        return bool(ready)

    def _serve(self, ready: list[tuple[int, int]]) -> None:
        for descriptor, _ in ready:
            stream = self._streams.get(descriptor)
            if stream is not None:  # else its neighbour's frame has just ended it
                stream.serve()
