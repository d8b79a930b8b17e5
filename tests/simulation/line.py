"""A TCP connection in memory whose client end needs no task: calls act at once.

So a step of a simulated bot is a plain function, any number of them happen in one instant, and
nothing but the server (and its agents) is ever scheduled.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from trio_bridge.edge.transport import RawStream


class Line:
    """One connection; the bot calls these, the server has one of the two ends below."""

    def __init__(
        self, on_bytes: Callable[[bytes], None], segment_bytes: int, owner: object = None
    ) -> None:
        self.owner = owner
        self.closed_by_server_s: float | None = None
        """When the server closed its end."""
        self.reading = True
        self._on_bytes = on_bytes
        self._segment_bytes = segment_bytes
        self._inbound = bytearray()
        self._finished = False
        self._reset = False
        self._hangs = False
        self._room_bytes = 0
        self._waiting: list[trio.lowlevel.Task] = []

    # -- the bot's end ---------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send ``data``, unless the bot has ended its side."""
        if not (self._finished or self._reset):
            self._inbound += data
            self._wake()

    def finish(self) -> None:
        """End our side only, as FIN does; what the server still says is heard."""
        self._finished = True
        self._wake()

    def reset(self) -> None:
        """End both sides at once, as RST does: what we said and it has not read is lost."""
        self._reset = True
        self._inbound.clear()
        self._wake()

    def freeze(self, room_bytes: int) -> None:
        """Read no more: so much is still taken, then the server's writes wait.

        What is taken is looked at as if it were read: the server cannot know better.
        """
        self.reading = False
        self._room_bytes = room_bytes

    def hang(self) -> None:
        """From now on whatever waits here waits until the server closes its end."""
        self._hangs = True

    def thaw(self) -> None:
        """Read again."""
        if not self.reading:
            self.reading = True
            self._wake()

    def refuse(self) -> None:
        """Nobody accepts it."""
        self.closed_by_server_s = trio.current_time()

    @property
    def open(self) -> bool:
        """Neither side has closed it for good."""
        return not self._reset and self.closed_by_server_s is None

    # -- the server's end ------------------------------------------------------------------

    async def read(self, at_most: int) -> bytes:
        """As a socket does: `BrokenResourceError` after a reset, ``b""`` at the end."""
        await trio.lowlevel.checkpoint()
        while not self._inbound:
            self._check()
            if self._finished:
                return b""
            await self._wait()
        self._check()
        size = min(at_most, self._segment_bytes)
        data = bytes(self._inbound[:size])
        del self._inbound[:size]
        return data

    async def put(self, data: bytes | bytearray | memoryview) -> None:
        """Write everything; on `Cancelled` any part of it may be out."""
        await trio.lowlevel.checkpoint_if_cancelled()
        rest = bytes(data)
        while rest:
            self._check()
            if self.reading:
                self._on_bytes(rest)
                return
            taken, rest = rest[: self._room_bytes], rest[self._room_bytes :]
            self._room_bytes -= len(taken)
            if taken:
                self._on_bytes(taken)
            if rest:
                await self._wait()

    async def close(self) -> None:
        if self.closed_by_server_s is None:
            self.closed_by_server_s = trio.current_time()
            self._wake()
        await trio.lowlevel.checkpoint()

    def _check(self) -> None:
        if self.closed_by_server_s is not None:
            raise trio.ClosedResourceError
        if self._reset:
            raise trio.BrokenResourceError("connection reset by peer")

    def _wake(self) -> None:
        if self._hangs and self.closed_by_server_s is None:
            return
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            trio.lowlevel.reschedule(task)

    async def _wait(self) -> None:
        task = trio.lowlevel.current_task()
        self._waiting.append(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._waiting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)


class PlainEnd(trio.abc.HalfCloseableStream):
    """What the gate sees of TLS: a stream that is no raw socket."""

    def __init__(self, line: Line) -> None:
        self.line = line

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self.line.read(max_bytes or 65_536)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.line.put(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self.line.close()


class RawEnd(RawStream):
    """What it sees of plain TCP, where audio is cut as it is read."""

    def __init__(self, line: Line) -> None:
        self.line = line

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self.line.read(max_bytes or 65_536)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.line.put(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self.line.close()
