"""The accept path: caps, isolation, drain. What a connection does stays in its own task."""

from __future__ import annotations

import errno
import logging
import select
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import h11
import trio
from trio_websocket import ConnectionClosed

from trio_bridge.clock import Clock
from trio_bridge.edge.frames import text_frame
from trio_bridge.edge.gate import Gate
from trio_bridge.edge.head import Refused, Request, judge_upgrade, read_request
from trio_bridge.edge.http import OnHttp, send_refusal, serve_request
from trio_bridge.edge.hub import Hub, HubStream
from trio_bridge.edge.limits import DEFAULT_LIMITS, EdgeLimits
from trio_bridge.edge.lobby import Lobby, PeerLog
from trio_bridge.edge.passing import Carrier, HandOverError, Onward, Passage, pass_on
from trio_bridge.edge.socket import Socket, accept, forget_frames
from trio_bridge.edge.tick import TickingHub
from trio_bridge.edge.transport import RawStream, peer_address
from trio_bridge.errors import SocketClosedError

_log = logging.getLogger("trio_bridge.edge")

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_GONE = (
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
    ConnectionClosed,
    ssl.SSLError,
)
_GOING_AWAY = Refused(503, "going away", (("retry-after", "10"),))
_NOT_TAKEN = Refused(503, "try again", (("retry-after", "1"),))
_TRY_AGAIN = 1013
"""The same once the 101 is out (IANA's registry of close codes)."""

Leave = Callable[[], None]
Greet = Callable[[trio.abc.Stream, str], Awaitable[tuple[Gate, Request] | None]]


class Edge:
    """One port for HTTP and WebSocket. Used for one `serve`."""

    def __init__(
        self,
        *,
        on_http: OnHttp,
        on_socket: Callable[[Socket], Awaitable[Onward | None]],
        admit: Callable[[Request], None],
        elsewhere: Callable[[Request], Carrier | None] = lambda _: None,
        limits: EdgeLimits = DEFAULT_LIMITS,
        tls: ssl.SSLContext | None = None,
        clock: Clock,
        tick_s: float = 0.0,
        poll_s: float = 0.0,
    ) -> None:
        """``admit`` judges an upgrade before the 101; it raises `Refused` to answer otherwise.

        ``on_socket`` owns the socket until it returns: 1000. What it raises is logged once and
        closes it with 1011; when cancelled it is closed with 1001. ``clock`` must run as long
        as there are connections. ``tick_s`` is the `TickingHub`'s, without one ``poll_s`` the
        `Hub`'s.

        ``elsewhere`` may name a process that shall have the connection of a request that was
        let in, before the 101; ``on_socket`` may still return one with the first message in its
        hand. What is not taken there is told to try again: 503, or 1013. Not with ``tls``.
        """
        self.counts: Counter[str] = Counter()
        """Events by name since the start; the names are ours, so there are few."""
        self.sockets: set[Socket] = set()
        """Accepted and not ended."""
        self.limits = limits
        self.clock = clock
        self._on_http = on_http
        self._on_socket = on_socket
        self._admit = admit
        self._elsewhere = elsewhere
        self.tls = tls
        """May be replaced (not taken away): whoever connects from then on has the new one."""
        self._lobby = Lobby(limits)
        self._peers = PeerLog()
        self._accepting = trio.CancelScope()
        self._tick_s, self._poll_s = tick_s, poll_s
        self._hub: Hub | None = None
        self._connections: trio.Nursery | None = None
        self._idle: set[trio.CancelScope] = set()
        self._draining = False

    @property
    def pending(self) -> int:
        """Connections that have not been armed."""
        return self._lobby.total

    async def serve(
        self,
        listeners: Sequence[trio.abc.Listener[trio.SocketStream]],
        *,
        task_status: trio.TaskStatus[
            Sequence[trio.abc.Listener[trio.SocketStream]]
        ] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept until cancelled or drained; closes ``listeners``. No peer makes it raise.

        After `drain` it returns once the last connection has ended.

        Raises:
            OSError: a listener is broken for good (being out of file descriptors is not that).
        """
        async with trio.open_nursery() as reading:
            if self.tls is None and hasattr(select, "epoll"):
                self._hub = (
                    TickingHub(self._tick_s, self.clock)
                    if self._tick_s
                    else Hub(self._poll_s, self.clock)
                )
                reading.start_soon(self._hub.run)
                self.clock.look = self._hub.look
            async with trio.open_nursery() as connections:
                self._connections = connections
                task_status.started(listeners)
                with self._accepting:
                    async with trio.open_nursery() as accepting:
                        for listener in listeners:
                            accepting.start_soon(self._accept, listener, connections)
                self._connections = None
            reading.cancel_scope.cancel()

    async def drain(self, code: int = 1001, reason: str = "going away") -> None:
        """Stop accepting and close every socket politely, all at once; ``close_s`` at most.

        Do this before cancelling `serve`: a reader that is cancelled cannot see the answers.
        """
        self._draining = True
        self._accepting.cancel()
        for scope in self._idle:
            scope.cancel()
        async with trio.open_nursery() as nursery:
            for socket in self.sockets:
                nursery.start_soon(socket.close, code, reason)

    def connection(self, stream: trio.abc.Stream) -> Awaitable[None]:
        """Serve one connection to its end and close it. Raises nothing but cancellation."""
        return self._guard(stream, peer_address(stream), self._greet)

    def has_room(self, passage: Passage) -> bool:
        """Whether `adopt` would serve it now."""
        if self._connections is None or self._draining:
            return False
        leave = self._lobby.enter(passage.request.peer)
        if leave is not None:
            leave()
        return leave is not None

    def adopt(self, stream: trio.SocketStream, passage: Passage) -> None:
        """Serve and close a connection that another process has begun to serve, as our own.

        Only while `serve` accepts; the request is judged again, and served here in any case.
        """
        assert self._connections is not None
        peer = passage.request.peer
        self.counts["adopted"] += 1
        self._connections.start_soon(
            self._guard, stream, peer, partial(self._resume, passage), name=f"adopted {peer}"
        )

    async def _guard(self, stream: trio.abc.Stream, peer: str, greet: Greet) -> None:
        leave = self._lobby.enter(peer)
        if leave is None:
            self.counts["over cap"] += 1
            self._peers.say("connection over cap", peer=peer)
            await trio.aclose_forcefully(stream)
            return
        self.counts["connections"] += 1
        try:
            try:
                if isinstance(stream, trio.SocketStream):
                    stream = HubStream(stream, self._hub) if self._hub else RawStream(stream)
                if self.tls is not None:
                    stream = trio.SSLStream(
                        stream, self.tls, server_side=True, https_compatible=True
                    )
                greeted = await greet(stream, peer)
                if greeted is not None:
                    await self._websocket(*greeted, leave)
            finally:
                leave()
                await trio.aclose_forcefully(stream)  # here: what it raises ends nobody else
        except* _GONE:
            self.counts["gone"] += 1
        except* Exception as failures:
            self.counts["error"] += 1
            _log.error("connection failed", extra={"peer": peer}, exc_info=failures)

    async def _accept(
        self, listener: trio.abc.Listener[trio.SocketStream], connections: trio.Nursery
    ) -> None:
        # Not trio.serve_listeners: there an exception of one connection ends the listener.
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as exc:
                    if exc.errno not in _EXHAUSTED:
                        raise
                    self.counts["accept failed"] += 1
                    self._peers.say("accept failed", logging.WARNING, errno=exc.errno)
                    await trio.sleep(self.limits.accept_retry_s)
                else:
                    connections.start_soon(self.connection, stream)

    async def _greet(self, stream: trio.abc.Stream, peer: str) -> tuple[Gate, Request] | None:
        """Answer plain requests until one is an upgrade; None: there was none for us.

        Apart from what comes after, so that nothing of HTTP is kept as long as a meeting.
        """
        conn = h11.Connection(h11.SERVER, max_incomplete_event_size=self.limits.head_bytes)
        try:
            while True:
                request = await self._next_request(stream, conn, peer)
                if request is None:
                    return None
                if request.wants_websocket:
                    head = judge_upgrade(request, self.limits.allowed_origins)
                    self._let_in(request)
                    early = conn.trailing_data[0]
                    if (carrier := self._elsewhere(request)) is not None:
                        await self._send_away(stream, carrier, Passage(request, False, early))
                        return None
                    return Gate(stream, head, early, self.limits), request
                self.counts["requests"] += 1
                if not await serve_request(
                    stream, conn, request, self._on_http, self.limits, self.counts
                ):
                    return None
        except Refused as refusal:
            await self._refuse(stream, conn, refusal, peer)
            return None

    async def _resume(
        self, passage: Passage, stream: trio.abc.Stream, peer: str
    ) -> tuple[Gate, Request] | None:
        """Go on with an upgrade where another process stopped."""
        request = passage.request
        try:
            head = judge_upgrade(request, self.limits.allowed_origins)
            if not passage.upgraded:  # else it was let in where it was answered
                self._let_in(request)
        except Refused as refusal:
            await self._refuse(stream, h11.Connection(h11.SERVER), refusal, peer)
            return None
        gate = Gate(stream, head, passage.unread, self.limits, upgraded=passage.upgraded)
        return gate, request

    async def _refuse(
        self, stream: trio.abc.Stream, conn: h11.Connection, refusal: Refused, peer: str
    ) -> None:
        self.counts[f"refused {refusal.status}"] += 1
        self._peers.say(
            "request refused", peer=peer, status=refusal.status, reason=refusal.reason
        )
        await send_refusal(stream, conn, refusal, self.limits)

    async def _send_away(
        self, stream: trio.abc.Stream, carrier: Carrier, passage: Passage
    ) -> None:
        try:
            await pass_on(carrier, passage, stream, stream)
        except HandOverError as error:
            self._not_taken(error, passage)
            raise _NOT_TAKEN from error
        self.counts["passed on"] += 1

    def _not_taken(self, error: HandOverError, passage: Passage) -> None:
        self.counts["not taken"] += 1
        self._peers.say(
            "hand-over failed", logging.WARNING, peer=passage.request.peer, reason=str(error)
        )

    async def _next_request(
        self, stream: trio.abc.Stream, conn: h11.Connection, peer: str
    ) -> Request | None:
        """Read a head; None: the peer is done or silent for ``head_s``, or we are draining."""
        if self._draining:
            return None
        request = None
        with trio.move_on_after(self.limits.head_s) as scope:
            self._idle.add(scope)
            try:
                request = await read_request(stream, conn, self.limits, peer)
            finally:
                self._idle.discard(scope)
        if scope.cancelled_caught and not self._draining:
            self.counts["head timeout"] += 1
        return request

    def _let_in(self, request: Request) -> None:
        if self._draining:
            raise _GOING_AWAY
        try:
            self._admit(request)
        except Refused:
            raise
        except Exception as exc:  # the judge is its owner's code: closed, not open, on a fault
            self.counts["error"] += 1
            _log.exception("admission failed", extra={"peer": request.peer})
            raise Refused(500, "internal error") from exc

    async def _websocket(self, gate: Gate, request: Request, leave: Leave) -> None:
        """Accept, hand the socket over, see to its end. The nursery is this socket's own."""
        try:
            async with trio.open_nursery() as nursery:
                socket, warden = await accept(
                    nursery, gate, request, self.clock, self.limits, leave
                )
                self.counts["sockets"] += 1
                self.sockets.add(socket)
                try:
                    if self._draining:
                        await socket.close(1001, "going away")
                    else:
                        nursery.start_soon(self._evict, gate, nursery.cancel_scope)
                        await self._use(socket, gate)
                finally:
                    warden.release()
                    self.sockets.discard(socket)
                nursery.cancel_scope.cancel()
        finally:
            self._account(gate, request)
            if gate.ws is not None:
                forget_frames(gate.ws)
                gate.ws = None  # they hold each other: 35 objects that only a collector finds

    def _account(self, gate: Gate, request: Request) -> None:
        """Count and log why *we* ended the socket, if we did; once, also when cancelled."""
        if not gate.armed and not gate.given_away:
            self.counts["never armed"] += 1
        if gate.fault is not None:
            self.counts["error"] += 1
            _log.error(
                "audio callback failed", extra={"peer": request.peer}, exc_info=gate.fault
            )
        elif gate.verdict is not None:
            code, reason = gate.verdict.code, gate.verdict.reason
            self.counts[f"violation {code} {reason}"] += 1
            self._peers.say(
                "peer broke the protocol", peer=request.peer, code=code, reason=reason
            )

    async def _use(self, socket: Socket, gate: Gate) -> None:
        """Run ``on_socket`` and close the socket with the code its end deserves."""
        code, reason = 1001, "going away"  # what is left when it is cancelled
        try:
            onward = await self._on_socket(socket)
            if onward is not None:
                await self._pass_on(socket.request, gate, onward)
            code, reason = 1000, ""
        except* SocketClosedError:
            code, reason = 1000, ""  # it ended while in use: the ordinary way
        except* HandOverError:
            code, reason = _TRY_AGAIN, "try again"
        except* Exception as failures:
            code, reason = 1011, "internal error"
            self.counts["error"] += 1
            _log.error(
                "socket task failed", extra={"peer": socket.request.peer}, exc_info=failures
            )
        finally:
            if not gate.given_away:
                await socket.close(code, reason)

    async def _pass_on(self, request: Request, gate: Gate, onward: Onward) -> None:
        first = text_frame(onward.first, masked=True)  # as its client would send it
        passage = Passage(request, True, first + gate.unread())
        try:
            await pass_on(onward.carrier, passage, gate.inner, gate, lambda: gate.ending)
        except HandOverError as error:
            self._not_taken(error, passage)
            raise
        gate.given_away = True
        self.counts["passed on"] += 1

    async def _evict(self, gate: Gate, scope: trio.CancelScope) -> None:
        """Cancel an ``on_socket`` that neither armed its socket nor noticed that it ended."""
        await gate.admitted.wait()
        if gate.armed:
            return
        await gate.done.wait()
        await trio.sleep(self.limits.close_s)
        if not gate.armed:
            self.counts["evicted"] += 1
            scope.cancel()
