"""Clients of the edge that write their own bytes, so that they can be wrong on purpose."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import attrs
import trio
from trio.testing import memory_stream_pair
from trio_websocket import WebSocketConnection, wrap_client_stream

from trio_bridge.clock import Clock
from trio_bridge.edge import Edge, EdgeLimits, Request, Response, Socket
from trio_bridge.errors import SocketClosedError

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
"""The sample nonce of RFC 6455 §1.3."""
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def head(*extra: bytes, target: bytes = b"/bridge", key: bytes = KEY) -> bytes:
    """Write the handshake of a well-behaved bot, plus ``extra`` header lines."""
    lines = [
        b"GET " + target + b" HTTP/1.1",
        b"Host: bridge.example",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: " + key,
        *extra,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bytes = b"\x11\x22\x33\x44"
) -> bytes:
    """Write one masked client frame; any ``opcode`` up to 127 (reserved bits included)."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = b"\xfe" + struct.pack("!H", size)
    else:
        length = b"\xff" + struct.pack("!Q", size)
    keys = (mask * (size // 4 + 1))[:size]  # as two numbers, or a mebibyte takes a second
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")).to_bytes(
        size, "big"
    )
    return bytes([(0x80 if fin else 0) | opcode]) + length + mask + masked


def close_payload(code: int, reason: bytes = b"") -> bytes:
    return struct.pack("!H", code) + reason


class Peer:
    """One end of a connection to the edge."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, *data: bytes) -> None:
        await self.stream.send_all(b"".join(data))

    async def upgrade(self, request: bytes | None = None) -> None:
        await self.send(head() if request is None else request)
        status, headers, _ = await self.answer()
        assert status == 101
        assert b"sec-websocket-extensions" not in headers

    async def answer(self, *, bodiless: bool = False) -> tuple[int, dict[bytes, bytes], bytes]:
        """Read one HTTP answer."""
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
        top, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status, *lines = top.split(b"\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        size = 0 if bodiless else int(headers.get(b"content-length", b"0"))
        return int(status.split(b" ")[1]), headers, await self._take(size)

    async def read(self) -> tuple[int, bytes]:
        """Read one frame of the server: opcode and payload."""
        first, size = await self._take(2)
        assert first & 0x70 == 0
        assert size < 0x80, "a server must not mask"
        if size == 126:
            size = int.from_bytes(await self._take(2), "big")
        elif size == 127:
            size = int.from_bytes(await self._take(8), "big")
        return first & 0x0F, await self._take(size)

    async def close_code(self) -> int:
        """Skip to the server's Close and return its code (1005 if it has none)."""
        while True:
            opcode, payload = await self.read()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big") if payload else 1005

    async def at_end(self) -> bool:
        """Wait for the end of the stream; False if a byte came instead."""
        try:
            return not self._buffer and not await self.stream.receive_some(1)
        except trio.BrokenResourceError:
            return True

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._more()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    async def _more(self) -> None:
        data = await self.stream.receive_some(65536)
        if not data:
            raise EOFError
        self._buffer += data


@attrs.define(eq=False)
class Pipe(trio.abc.Stream):
    """A transport that stalls, tears a write, or is reset on command."""

    inner: trio.abc.Stream
    stalled: bool = False
    reset: bool = False
    written: int = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.stalled:
            await self.inner.send_all(bytes(data[:1]))  # half a message is out
            await trio.sleep_forever()
        self.written += len(data)
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.reset:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError
        return await self.inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.inner.aclose()


class App:
    """What stands behind the edge: arms after the first message and records the rest."""

    def __init__(self, *, max_message_bytes: int = 1 << 20) -> None:
        self.max_message_bytes = max_message_bytes
        self.audio: list[bytes] = []
        self.messages: list[str | bytes] = []
        self.sockets: list[Socket] = []
        self.requests: list[Request] = []
        self.ends: list[tuple[int, str]] = []

    async def on_socket(self, socket: Socket) -> None:
        self.sockets.append(socket)
        try:
            self.messages.append(await socket.receive())
            socket.arm(max_message_bytes=self.max_message_bytes, on_audio=self.audio.append)
            while True:
                message = await socket.receive()
                self.messages.append(message)
                if isinstance(message, str):
                    await socket.send(f"echo {message}")
        except SocketClosedError as exc:
            self.ends.append((exc.code, exc.reason))
            raise

    async def on_http(self, request: Request) -> Response:
        self.requests.append(request)
        return Response(body=b"ok\n")

    def admit(self, request: Request) -> None:
        self.requests.append(attrs.evolve(request))  # what it shows is forgotten later

    def edge(
        self,
        limits: EdgeLimits | None = None,
        *,
        on_socket: Callable[[Socket], Awaitable[None]] | None = None,
        on_http: Callable[[Request], Awaitable[Response]] | None = None,
        admit: Callable[[Request], None] | None = None,
    ) -> Edge:
        return Edge(
            on_http=on_http or self.on_http,
            on_socket=on_socket or self.on_socket,
            admit=admit or self.admit,
            clock=Clock(),
            limits=limits or EdgeLimits(),
        )


async def serve_one(edge: Edge, stream: trio.abc.Stream) -> None:
    """Serve one connection, with the clock beside it that `Edge` asks for."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(edge.clock.run)
        await edge.connection(stream)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def in_memory(edge: Edge) -> AsyncIterator[Peer]:
    """Give a peer whose connection is in memory: no socket, so it works on a virtual clock."""
    async with trio.open_nursery() as nursery:
        client, server = memory_stream_pair()
        nursery.start_soon(serve_one, edge, server)
        yield Peer(client)
        nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class Loopback:
    """A port of 127.0.0.1 and the peers that dialled it."""

    port: int
    peers: list[Peer] = attrs.field(factory=list)

    async def dial(self) -> Peer:
        peer = Peer(await trio.open_tcp_stream("127.0.0.1", self.port))
        self.peers.append(peer)
        return peer

    @asynccontextmanager
    async def websocket(self, path: str) -> AsyncIterator[WebSocketConnection]:
        """Connect trio-websocket's client; its socket is ours, because it can leak it.

        (It never closes it after a Close or a refusal that came from the server.)
        """
        peer = await self.dial()
        async with trio.open_nursery() as nursery:
            stream = cast("trio.SocketStream", peer.stream)
            ws = await wrap_client_stream(nursery, stream, "127.0.0.1", path)
            yield ws
            await ws.aclose()


@asynccontextmanager
async def on_loopback(edge: Edge, *, deadline_s: float = 5.0) -> AsyncIterator[Loopback]:
    """Serve on a real port, ``deadline_s`` at most; at the end all peers hang up."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    net = Loopback(listeners[0].socket.getsockname()[1])
    with trio.fail_after(deadline_s):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(edge.clock.run)
            await nursery.start(edge.serve, listeners)
            try:
                yield net
            finally:
                for peer in net.peers:
                    await trio.aclose_forcefully(peer.stream)
                nursery.cancel_scope.cancel()
