"""Byte streams below the gate: the raw socket, the peer's address, a polite last moment."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable

import trio

from trio_bridge.edge.follower import Follower
from trio_bridge.edge.limits import EdgeLimits

UNKNOWN = "?"
"""The address of a peer that was gone before it could be asked for."""

READ_BYTES = 16 << 10
"""The most that one read of a plain socket takes: eight frames of 20 ms. What has piled up in a
stall comes in several reads, so that its memory fits where frames' memory was before: stalls of
300 ms brought the heap of a hundred meetings to 57.7 MiB with 64 KiB, and to 55.5 with 16."""
_SENDS_PER_CHECKPOINT = 8


class _Mine(threading.local):
    """A thread's own."""

    def __init__(self) -> None:
        self.room = memoryview(bytearray(READ_BYTES))


_mine = _Mine()


def read_now(source: socket.socket, max_bytes: int) -> bytes:
    """What ``source`` has, `READ_BYTES` at most; ``b""`` at the end of the stream.

    It arrives in memory that a thread's sockets share. ``recv`` makes room for the most there
    could be, each time, and gives back what was too much: small things that live longer settle
    behind, and the heap grows for ever.

    Raises:
        OSError: as from ``recv``; `BlockingIOError` when there is nothing.
    """
    room = _mine.room[:max_bytes]
    return bytes(room[: source.recv_into(room)])


class RawStream(trio.abc.HalfCloseableStream):
    """A connected socket that is read only once it is readable.

    `trio.SocketStream` tries ``recv`` first; with a stream of small frames that first try
    nearly always fails, and costs a system call each time.
    """

    __slots__ = ("_sends", "socket")

    def __init__(self, stream: trio.SocketStream) -> None:
        """Take the socket over; ``stream`` must not be used any more."""
        self.socket = socket.socket(fileno=stream.socket.detach())
        self.socket.setblocking(False)
        self._sends = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes; ``b""`` at the end of the stream.

        Raises:
            trio.ClosedResourceError: closed by us, also while waiting.
            trio.BrokenResourceError: the connection was reset.
        """
        while True:
            self._check_open()
            await trio.lowlevel.wait_readable(self.socket)
            try:
                return read_now(self.socket, max_bytes or READ_BYTES)
            except BlockingIOError:  # readiness can be spurious
                continue
            except OSError as exc:
                raise trio.BrokenResourceError(str(exc)) from exc

    async def read_into(self, sink: Callable[[bytes], bool], max_bytes: int) -> bool:
        """Give ``sink`` what comes, ``max_bytes`` at a time, for as long as it says True.

        Returns True when it said False, and False at the end of the stream. On `Cancelled`
        nothing is lost: what was read has been given.

        Raises:
            trio.ClosedResourceError: closed by us, also while waiting.
            trio.BrokenResourceError: the connection was reset.
        """
        while data := await self.receive_some(max_bytes):
            if not sink(data):
                return True
        return False

    def follow(self, follower: Follower, frame_bytes: int, most: int) -> None:
        """Give the next ``most`` reads, those that are ``frame_bytes`` long, to ``follower``
        first, and to the sink only what he does not take. A stream need not do so."""

    def unfollow(self) -> int:
        """Give every read to the sink again; returns how many the follower took."""
        return 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write everything; on `Cancelled` any part of it may have been written.

        Gives way to other tasks only when the kernel's buffer is full, and every few calls.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                try:
                    sent += self.socket.send(view[sent:])
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self.socket)
                except OSError as exc:
                    raise trio.BrokenResourceError(str(exc)) from exc
        self._sends += 1
        if self._sends % _SENDS_PER_CHECKPOINT == 0:
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        self._check_open()
        await trio.lowlevel.wait_writable(self.socket)

    async def send_eof(self) -> None:
        self._check_open()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise trio.BrokenResourceError(str(exc)) from exc
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            with contextlib.suppress(OSError):  # the kernel may still report the peer's reset
                self.socket.close()
        await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self.socket.fileno() < 0:
            raise trio.ClosedResourceError


async def linger(stream: trio.abc.Stream, limits: EdgeLimits) -> None:
    """Say no more, and read and drop for a moment; the caller then closes ``stream``.

    Closing with unread input makes the kernel send a reset, which can destroy our last words
    in the peer's receive buffer. Bounded by ``linger_s`` and ``linger_bytes``; never raises
    because of the peer.
    """
    left = limits.linger_bytes
    with (
        trio.move_on_after(limits.linger_s),
        contextlib.suppress(
            trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError
        ),
    ):
        if isinstance(stream, trio.abc.HalfCloseableStream):
            await stream.send_eof()
        while left > 0 and (data := await stream.receive_some(65536)):
            left -= len(data)


def peer_address(stream: trio.abc.Stream) -> str:
    """Return the peer's IP address, or `UNKNOWN` when it is already gone or never had one.

    Ask before anything wraps the stream: after a reset, ``getpeername`` raises.
    """
    if not isinstance(stream, trio.SocketStream):
        return UNKNOWN
    try:
        name = stream.socket.getpeername()
    except OSError:
        return UNKNOWN
    return str(name[0]) if isinstance(name, tuple) else UNKNOWN


def address_group(peer: str) -> str:
    """Return what one customer of a provider holds: an IPv4 address or an IPv6 /64."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        packed = address.packed[:8] + bytes(8)
        return f"{ipaddress.IPv6Address(packed)}/64"
    return peer
