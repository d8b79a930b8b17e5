"""The WebSocket as the rest of the bridge sees it, and the clocks that watch over it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream
from wsproto import ConnectionType, WSConnection

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
        self._pause = trio.CancelScope()
        """Ends when the next ping is due."""

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
        the socket with 1011. All others come from `receive`.
        """
        self._gate.arm(max_message_bytes, on_audio, on_text)
        self._on_armed()

    async def send(self, text: str) -> None:
        """Send one text message.

        On `Cancelled` before a byte was written the socket lives on; half a message ends it.

        Raises:
            SocketClosedError: closed, gone, or stalled for ``write_s``.
        """
        try:
            await self._ws.send_message(text)
        except ConnectionClosed as exc:
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

    # -- the warden --------------------------------------------------------------------------

    async def watch(self, nursery: trio.Nursery) -> None:
        """Hold the peer, and whoever uses this socket, to every deadline until it is closed.

        That is ``hello_s``, then ``ping_s`` with each ping in ``nursery``, then ``close_s``.
        """
        gate, limits = self._gate, self._limits
        with trio.move_on_after(limits.hello_s):
            await gate.admitted.wait()
        if not gate.admitted.is_set():
            await self.close(1008, "no hello in time")
        ping_at_s = trio.current_time() + limits.ping_s  # before, nobody would see the pong
        while not gate.ending.is_set():
            with trio.CancelScope(deadline=ping_at_s) as self._pause:
                await gate.ending.wait()
            if self._pause.cancelled_caught:
                nursery.start_soon(self._ping)
                ping_at_s = math.inf
        if not gate.torn:
            with trio.move_on_after(limits.close_s + limits.linger_s):
                await gate.done.wait()
        await self.cut()

    async def _ping(self) -> None:
        """Ping once; cut the connection when ``pong_s`` pass without an answer."""
        with trio.move_on_after(self._limits.pong_s) as scope:
            try:
                await self._ws.ping()
            except ConnectionClosed:
                return
        if scope.cancelled_caught:
            await self.cut()
        else:
            self._pause.deadline = trio.current_time() + self._limits.ping_s

    def _ended(self) -> SocketClosedError:
        if self._said is not None:
            return SocketClosedError(*self._said)
        closed = self._ws.closed
        if closed is None:  # torn: trio-websocket has not been told yet
            return SocketClosedError(VANISHED)
        return SocketClosedError(int(closed.code), closed.reason or "")


async def accept(
    nursery: trio.Nursery,
    gate: Gate,
    request: Request,
    limits: EdgeLimits,
    on_armed: Callable[[], None],
) -> Socket:
    """Answer 101 and return the socket; its reader and its clocks run in ``nursery``.

    ``nursery`` must belong to this connection alone: an error of the reader ends it.

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
    nursery.start_soon(socket.watch, nursery)
    return socket


def _forget_handshake(ws: WebSocketConnection) -> None:
    """Drop what wsproto keeps of the handshake, an h11 connection and the request: 2 KiB.

    It is looked at only until the connection exists. Where a release of trio-websocket has its
    wsproto elsewhere, nothing is dropped.
    """
    proto = getattr(ws, "_wsproto", None)
    if isinstance(proto, WSConnection) and proto.connection is not None:
        proto.handshake = _HANDSHAKE
