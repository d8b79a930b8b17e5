"""The WebSocket as the rest of the bridge sees it, and the warden that watches over it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Generator

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream
from wsproto import ConnectionType, WSConnection

from trio_bridge.clock import Clock
from trio_bridge.edge.frames import OnAudio, OnText
from trio_bridge.edge.gate import Gate
from trio_bridge.edge.head import Request
from trio_bridge.edge.limits import EdgeLimits
from trio_bridge.errors import SocketClosedError

_HANDSHAKE = WSConnection(ConnectionType.SERVER).handshake
"""Stands for every one that is over: it has no events, and nothing else is asked of it."""

VANISHED = 1006
"""RFC 6455 §7.4.1: the connection ended without a Close."""


class Socket:
    """An accepted WebSocket. Any task may send or close; one task receives.

    Made by `accept`; the edge closes it when its ``on_socket`` returns.
    """

    def __init__(
        self,
        request: Request,
        ws: WebSocketConnection,
        gate: Gate,
        limits: EdgeLimits,
        on_armed: Callable[[], None],
    ) -> None:
        self.request = request
        self._ws = ws
        self._gate = gate
        self._limits = limits
        self._on_armed = on_armed
        self._said: tuple[int, str] | None = None

    @property
    def closed(self) -> bool:
        """It is closed, or either side has begun to close it: nothing can be sent any more."""
        return self._ws.closed is not None or self._gate.torn or self._gate.done.is_set()

    @property
    def armed(self) -> bool:
        return self._gate.armed

    async def receive(self) -> str | bytes:
        """Return the next message that went to no callback.

        Before `arm` it is the only one, at most ``hello_bytes`` long. On `Cancelled` no message
        is lost.

        Raises:
            SocketClosedError: with the peer's close code, ours if we closed first, 1005 for a
                Close without a code, 1006 if the peer vanished.
        """
        try:
            return await self._ws.get_message()
        except ConnectionClosed as exc:
            raise self._ended() from exc

    def arm(
        self,
        *,
        max_message_bytes: int,
        on_audio: OnAudio | None = None,
        on_text: OnText | None = None,
    ) -> None:
        """The peer has said who it is: read on, with messages of ``max_message_bytes``.

        A message that came in one frame is given to ``on_audio`` (binary) or ``on_text``, where
        there is one, at once and by whoever reads: it must not block, and what it raises ends
        the socket with 1011. All others come from `receive`. Of the request only the peer's
        address is kept.
        """
        self.request.forget()
        self._gate.arm(max_message_bytes, on_audio, on_text)
        self._on_armed()

    async def send(self, text: str) -> None:
        """Send one text message.

        On `Cancelled` before a byte was written the socket lives on; half a message ends it.

        Raises:
            SocketClosedError: closed, gone, or stalled for ``write_s``.
        """
        if self._ws.closed is not None:
            raise self._ended()
        try:
            await self._gate.send_text(text)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self._ended() from exc

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a Close, give the peer ``close_s`` to answer it, then cut the connection.

        The first call decides the code; any other waits for the same end. Not cancellable, and
        never longer than ``close_s`` (plus one scheduler turn).
        """
        gate, ws = self._gate, self._ws
        with trio.move_on_after(self._limits.close_s, shield=True):
            if ws.closed is None and self._said is None:
                self._said = (code, reason)
                await ws.aclose(code, reason or None)
            elif self._said or (ws.closed is not None and ws.closed.code != VANISHED):
                await gate.done.wait()  # under way: the peer's Close, a violation, another task
        await self.cut()

    async def cut(self) -> None:
        """Close the connection now, without a word."""
        await trio.aclose_forcefully(self._gate)

    async def ping(self) -> None:
        """Ping, and wait for the pong.

        Raises:
            SocketClosedError: it ended meanwhile.
        """
        try:
            await self._ws.ping()
        except ConnectionClosed as exc:
            raise self._ended() from exc

    def _ended(self) -> SocketClosedError:
        if self._said is not None:
            return SocketClosedError(*self._said)
        closed = self._ws.closed
        if closed is None:  # torn: trio-websocket has not been told yet
            return SocketClosedError(VANISHED)
        return SocketClosedError(int(closed.code), closed.reason or "")


class Warden:
    """Holds a socket's peer, and who uses the socket, to every deadline until it is closed.

    That is ``hello_s``, then ``ping_s`` and ``pong_s`` in turn, then ``close_s``. It has no
    task of its own, which would cost each socket 2.5 KiB: a clock strikes for it, late by
    `clock.GRID_S` at most, and what takes time runs in ``nursery``, the connection's own.
    """

    __slots__ = ("_clock", "_due_s", "_limits", "_ward")

    def __init__(
        self,
        socket: Socket,
        gate: Gate,
        nursery: trio.Nursery,
        clock: Clock,
        limits: EdgeLimits,
    ) -> None:
        self._ward: tuple[Socket, Gate, trio.Nursery] | None = socket, gate, nursery
        self._clock = clock
        self._limits = limits
        gate.on_armed, gate.on_ending = self._armed, self._ending
        self._ask(limits.hello_s)

    def release(self) -> None:
        """The socket is closed, and its memory need not wait for the next strike."""
        self._ward = None

    def _ask(self, after_s: float) -> None:
        self._due_s = trio.current_time() + after_s
        self._clock.at(self._due_s, self._strike)

    def _armed(self) -> None:
        self._ask(self._limits.ping_s)  # before, nobody would see the pong

    def _ending(self) -> None:
        if self._ward is None:
            return
        socket, gate, nursery = self._ward
        if gate.torn:
            nursery.start_soon(socket.cut)
        else:
            self._ask(self._limits.close_s + self._limits.linger_s)

    def _strike(self, now_s: float) -> None:
        if self._ward is None or now_s < self._due_s:
            return
        socket, gate, nursery = self._ward
        self._due_s = math.inf
        if gate.ending:
            nursery.start_soon(socket.cut)
        elif gate.armed:
            nursery.start_soon(self._ping, socket, gate)
        elif not gate.admitted.is_set():
            nursery.start_soon(socket.close, 1008, "no hello in time")

    async def _ping(self, socket: Socket, gate: Gate) -> None:
        """Ping once; cut the connection when ``pong_s`` pass without an answer."""
        with trio.move_on_after(self._limits.pong_s) as scope:
            try:
                await socket.ping()
            except SocketClosedError:
                return
        if scope.cancelled_caught:
            await socket.cut()
        elif not gate.ending:
            self._ask(self._limits.ping_s)


async def accept(
    nursery: trio.Nursery,
    gate: Gate,
    request: Request,
    clock: Clock,
    limits: EdgeLimits,
    on_armed: Callable[[], None],
) -> tuple[Socket, Warden]:
    """Answer 101; return the socket and its warden, to be released when it is closed.

    Its reader runs in ``nursery``, which must belong to this connection alone: an error of the
    reader ends it.

    Raises:
        ConnectionClosed: the peer did not wait for the answer.
        trio.TooSlowError: it did not take it.
    """
    with trio.fail_after(limits.hello_s):
        proposal = await wrap_server_stream(
            nursery,
            gate,
            # The gate has bounded every message, in bytes. trio-websocket counts characters,
            # and closes twice when its own limit is hit: it must never be.
            max_message_size=sys.maxsize,
            receive_buffer_size=limits.receive_bytes,
        )
        ws = gate.ws = await proposal.accept()
        _forget_handshake(ws)
    socket = Socket(request, ws, gate, limits, on_armed)
    return socket, Warden(socket, gate, nursery, clock, limits)


def _forget_handshake(ws: WebSocketConnection) -> None:
    """Drop what wsproto keeps of the handshake, an h11 connection and the request: 2 KiB.

    It is looked at only until the connection exists. Where a release of trio-websocket has its
    wsproto elsewhere, nothing is dropped.
    """
    proto = getattr(ws, "_wsproto", None)
    if isinstance(proto, WSConnection) and proto.connection is not None:
        proto.handshake = _HANDSHAKE


def forget_frames(ws: WebSocketConnection) -> None:
    """End wsproto's parser, of a connection that is over.

    It is a generator that its own object holds, and has come to its end only where the peer
    said Close: of every other connection 2 KiB wait for a full collection, which is rare where
    meetings hold many objects. Where a release has its parser elsewhere, they wait.
    """
    connection = getattr(getattr(ws, "_wsproto", None), "connection", None)
    parser = getattr(getattr(connection, "_proto", None), "_parse_more", None)
    if isinstance(parser, Generator):
        parser.close()
