"""One channel of the bot: a WebSocket that opens, says ``ready``, and can be lost and replaced.

Knows nothing of meetings. Every await on the network has a deadline, and no write is ever
cancelled before its deadline: half a frame on the wire would look like the server's fault.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import cast

import attrs
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)

from trio_bridge.simulator.errors import SimulatorError

OPEN_DEADLINE_S = 10.0
SEND_DEADLINE_S = 5.0
CLOSE_DEADLINE_S = 5.0
"""For the server's side of the closing handshake; then the connection is dropped."""

MAX_MESSAGE_BYTES = 16 * 2**20
"""As the bridges in the wild allow; a long ``sendaudio`` is the largest thing there is."""

DIED = 1006
"""RFC 6455 §7.4.1: the connection ended without a Close frame."""

OpenStream = Callable[[], Awaitable[trio.abc.Stream]]
Message = str | bytes


@attrs.define(eq=False)
class _Socket:
    """One connection, and what was known of it when it ended."""

    websocket: WebSocketConnection
    stream: trio.abc.Stream
    ended: trio.Event = attrs.field(factory=trio.Event)
    dropped_by_us: bool = False
    noted: bool = False


@attrs.define(eq=False)
class Link:
    """A channel: at most one socket in use, in a nursery of the owner's."""

    where: str
    """The server, for people; holds no secret."""
    host: str
    resource: str
    headers: tuple[tuple[str, str], ...]
    hello: str
    open_stream: OpenStream
    nursery: trio.Nursery
    on_message: Callable[[Message], None]
    on_closed: Callable[[int, str, bool], None]
    """Called once a socket that was in use: close code, reason, whether we closed it."""
    on_fault: Callable[[str], None]
    returning: bool = attrs.field(default=False, init=False)
    """Lost on purpose, and about to come back."""
    _socket: _Socket | None = attrs.field(default=None, init=False)

    @property
    def up(self) -> bool:
        return self._socket is not None

    async def open(self) -> None:
        """Connect and say ``ready``; the new socket replaces the one in use.

        Raises:
            SimulatorError: no connection, the upgrade refused, or no answer in time.
        """
        try:
            with trio.fail_after(OPEN_DEADLINE_S):
                stream = await self._connect()
                await self.nursery.start(self._hold, stream)
        except trio.TooSlowError:
            raise SimulatorError(
                f"{self.where} did not answer within {OPEN_DEADLINE_S:g} s"
            ) from None
        await self.send(self.hello)

    async def send(self, message: Message) -> bool:
        """Send one message; False if the channel is down, or dies of it."""
        link = self._socket
        if link is None:
            return False
        try:
            with trio.fail_after(SEND_DEADLINE_S):
                await link.websocket.send_message(message)
        except ConnectionClosed:
            return False
        except trio.TooSlowError:  # the server reads no more: what follows would be garbage
            self.on_fault("the server stopped reading")
            await _reset(link.stream)
            return False
        return True

    async def leave(self) -> None:
        """Close with 1000, if there is anything to close, and wait for the server's Close."""
        link, self._socket = self._socket, None
        if link is not None:
            await self._close(link)

    async def lose(self, *, abrupt: bool) -> None:
        """End the connection: with a reset, or properly."""
        link, self._socket = self._socket, None
        if link is None:
            return
        if not abrupt:
            await self._close(link)
            return
        link.dropped_by_us = True
        await _reset(link.stream)

    async def replace(self) -> None:
        """Open a new socket while the old one is still open, then close the old one.

        Raises:
            SimulatorError: as from `open`; the old socket is then still in use.
        """
        old = self._socket
        await self.open()
        if old is not None:
            await self._close(old)

    async def _connect(self) -> trio.abc.Stream:
        try:
            return await self.open_stream()
        except (OSError, ssl.SSLError, trio.BrokenResourceError, UnicodeError) as exc:
            raise SimulatorError(f"cannot reach {self.where}: {_in_words(exc)}") from exc

    async def _hold(
        self,
        stream: trio.abc.Stream,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Own one connection from its upgrade to its end."""
        link: _Socket | None = None
        refused: SimulatorError | None = None
        try:
            async with trio.open_nursery() as nursery:
                websocket = await wrap_client_stream(
                    nursery,
                    cast(trio.SocketStream, stream),
                    self.host,
                    self.resource,
                    extra_headers=[(k.encode(), v.encode()) for k, v in self.headers],
                    message_queue_size=64,
                    max_message_size=MAX_MESSAGE_BYTES,
                    receive_buffer_size=2**16,
                )
                # Before `open` goes on: a server may close at once, and `_note_end` must win.
                self._socket = link = _Socket(websocket, stream)
                task_status.started()
                await self._read(link)
                self._note_end(link)
                # The reader still has a Close to answer or to wait for; not for ever.
                nursery.cancel_scope.deadline = trio.current_time() + CLOSE_DEADLINE_S
        except* ConnectionRejected as group:
            status = _status_of(group)
            refused = SimulatorError(f"{self.where} refused: HTTP {status}{_mend(status)}")
        except* Exception as group:
            # trio-websocket lets some of a peer's nonsense out of its reader.
            if link is None:
                refused = SimulatorError(f"{self.where} is no WebSocket server")
            else:
                self.on_fault(f"transport: {type(group.exceptions[0]).__name__}")
        finally:
            if link is None:
                await trio.aclose_forcefully(stream)
            else:
                self._note_end(link)
                with trio.move_on_after(CLOSE_DEADLINE_S, shield=True):
                    await trio.aclose_forcefully(stream)
                link.ended.set()
        if refused is not None:
            raise refused

    async def _read(self, link: _Socket) -> None:
        """Pass on all that comes; always reading, so that pings are answered."""
        while True:
            try:
                message = await link.websocket.get_message()
            except ConnectionClosed:
                return
            self.on_message(message)

    async def _close(self, link: _Socket) -> None:
        link.dropped_by_us = link.websocket.closed is None
        with trio.move_on_after(CLOSE_DEADLINE_S) as scope:
            await link.websocket.aclose(1000)
        if scope.cancelled_caught:
            self.on_fault("the server did not answer our Close")
        await link.ended.wait()

    def _note_end(self, link: _Socket) -> None:
        if link.noted:
            return
        link.noted = True
        if self._socket is link:  # and not already the one that replaced it
            self._socket = None
        reason = link.websocket.closed
        code = reason.code if reason is not None else DIED
        self.on_closed(code, (reason.reason if reason else None) or "", link.dropped_by_us)


async def open_tcp(host: str, port: int, secure: bool) -> trio.abc.Stream:
    """A connection to the server, with TLS if asked for.

    Raises:
        OSError: no connection. ssl.SSLError or trio.BrokenResourceError: no TLS.
    """
    stream = await trio.open_tcp_stream(host, port)
    if not secure:
        return stream
    try:
        wrapped = trio.SSLStream(
            stream, ssl.create_default_context(), server_hostname=host, https_compatible=True
        )
        await wrapped.do_handshake()
    except BaseException:  # cancelled too: nobody else knows this stream yet
        await trio.aclose_forcefully(stream)
        raise
    return wrapped


async def _reset(stream: trio.abc.Stream) -> None:
    """End a connection as a crash or a lost network does."""
    bottom = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if isinstance(bottom, trio.SocketStream):
        # Linger 0 makes close() a TCP reset, and no half-sent frame follows it.
        bottom.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(bottom)


def _in_words(error: BaseException) -> str:
    """Why there is no connection, and what to look at."""
    root = _root_of(error)
    if isinstance(root, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {root.verify_message}"
    if isinstance(root, ssl.SSLError):
        return "it does not speak TLS: is it ws:// and not wss://?"
    if isinstance(root, UnicodeError):
        return "that is no host name"
    if isinstance(root, socket.gaierror):
        return f"{(root.strerror or str(root)).lower()}: is the host's name right?"
    # Not its own text: there Trio puts a socket address, which the user did not write.
    known = isinstance(root, OSError) and root.errno is not None
    # mypy does not follow ``known`` back to what it proves about ``root``.
    why = os.strerror(root.errno).lower() if known else str(root)  # type: ignore[attr-defined]
    return f"{why}: is the server running there?"


def _mend(status: int) -> str:
    if status != 401:
        return ""
    return (
        ": the server wants a token: give it in the URL (ws://HOST:PORT/t/TOKEN)"
        " or with --header"
    )


def _root_of(error: BaseException) -> BaseException:
    """What really failed: trio hides a group, one error an address, behind one OSError."""
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        return _root_of(cause.exceptions[0])
    return cause or error


def _status_of(group: BaseExceptionGroup[ConnectionRejected]) -> int:
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner.status_code if isinstance(inner, ConnectionRejected) else 0
