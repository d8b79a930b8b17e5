"""The server: one port, one nursery of connections and one of meetings, and their end."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import attrs
import trio

from trio_bridge.address import Address, Listener, address_of, open_listeners, warn_when_open
from trio_bridge.admission import RETRY_S, Admission, Lag, Reason, late_limit_ms
from trio_bridge.channel import serve_channel
from trio_bridge.clock import Clock
from trio_bridge.config import Settings
from trio_bridge.door import Door, edge_limits
from trio_bridge.edge.head import Refused, Request
from trio_bridge.edge.http import Response
from trio_bridge.edge.listener import Edge
from trio_bridge.edge.passing import Carrier, Onward
from trio_bridge.edge.socket import Socket
from trio_bridge.errors import HandshakeError, SettingsError
from trio_bridge.heap import GIVE_BACK_S, Heap
from trio_bridge.log import Throttle
from trio_bridge.meeting import Agent
from trio_bridge.pulse import measure
from trio_bridge.registry import FAILURE_PAUSE_S, Registry
from trio_bridge.routes import read_route
from trio_bridge.session import GOING_AWAY, Session
from trio_bridge.tls import renewed_context, server_context
from trio_bridge.watchdog import watching

log = logging.getLogger(__name__)

TRY_AGAIN = 1013
"""The close code that asks for another try later (IANA's registry; RFC 6455 has none)."""
_GOING = "going away"
UPGRADE = (("upgrade", "websocket"), ("connection", "upgrade"))
GOODBYE_SLACK_S = 1.0
"""What is left of a cancelled server on top of ``close_s``: time to say Close 1001 to every
socket, and for its tasks to end."""


class Siblings(Protocol):
    """The other worker processes of the same port; see `fleet`."""

    def carrier(self, bot_id: str) -> Carrier | None:
        """The way to the worker that has the bot, or is to begin its meeting; None: it is ours,
        if only to be refused because nobody takes it."""

    def claim(self, bot_id: str, *, stay: bool) -> Carrier | None:
        """The same, and if it is ours nobody else takes it until `release` has been called as
        often. With ``stay`` it is ours if nobody has it: it was sent here."""

    def release(self, bot_id: str) -> None:
        """One of those who claimed it is done with it."""

    def tell(self, taking: bool) -> None:
        """That we are there, how many bots we have, and whether we begin new meetings."""

    @property
    def taken_elsewhere(self) -> bool:
        """Some other worker begins new meetings."""

    async def add_up(self, own: Mapping[str, object]) -> dict[str, object]:
        """Our `Server.state` and theirs as one, in less than a second."""


@attrs.define(eq=False)
class Server:
    """A bridge that can be started in a nursery, asked how it is, and told to stop.

    Raises:
        SettingsError: a TLS file cannot be used (they are read when it is made), or the
            settings ask for several workers and this is not one of them.
    """

    agent: Agent
    settings: Settings = attrs.field(factory=Settings)
    siblings: Siblings | None = None
    wall_clock: Callable[[], float] = time.time
    """Seconds since 1970, for tokens that expire."""
    edge: Edge = attrs.field(init=False)
    admission: Admission = attrs.field(init=False)
    registry: Registry = attrs.field(init=False)
    draining: bool = attrs.field(default=False, init=False)
    served: int = attrs.field(default=0, init=False)
    """Meetings begun so far."""
    stopped: trio.Event = attrs.field(factory=trio.Event, init=False)
    """`run` is over."""
    _heap: Heap = attrs.field(factory=Heap, init=False)
    _clock: Clock = attrs.field(factory=Clock, init=False)
    _door: Door = attrs.field(init=False)
    _refusals: Throttle = attrs.field(factory=Throttle, init=False)
    _closed_door: Throttle = attrs.field(factory=Throttle, init=False)
    _stop: trio.Event = attrs.field(factory=trio.Event, init=False)
    _draining_scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    def __attrs_post_init__(self) -> None:
        settings = self.settings
        if settings.workers > 1 and self.siblings is None:
            raise SettingsError(
                "workers: a server inside a program is one process; leave it 1, or end the "
                "program with trio_bridge.run(agent)"
            )
        limit_ms = late_limit_ms(settings.lead_ms, settings.chunk_ms, settings.max_lag_percent)
        self.admission = Admission(settings.max_sessions, Lag(limit_ms))
        self._door = Door(settings.token, settings.token_key, self.wall_clock)
        self.edge = Edge(
            on_http=self._answer,
            on_socket=self._serve_socket,
            admit=self._admit,
            elsewhere=self._elsewhere,
            clock=self._clock,
            tick_s=settings.audio_tick_ms / 1000,
            poll_s=settings.audio_poll_us / 1e6,
            tls=server_context(settings.tls_cert, settings.tls_key),
            limits=edge_limits(settings),
        )

    async def run(
        self,
        listeners: Sequence[Listener] | None = None,
        *,
        task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `stop` or cancellation; ``nursery.start`` returns the bound `Address`.

        ``listeners`` are used and closed instead of the settings' host and port, where
        something else opened them (socket activation, a test's memory).

        Cancelling it is a clean end too: every socket is told Close 1001, within
        ``close_s`` and `GOODBYE_SLACK_S`, and every meeting's tasks are gone when it returns.

        Raises:
            SettingsError: the address cannot be listened on.
        """
        if listeners is None:
            listeners = await open_listeners(self.settings)
        try:
            with watching(self.settings.watchdog_ms):
                await self._serve(listeners, task_status)
        finally:
            log.info("stopped", extra={"meetings": self.served})
            self.stopped.set()

    async def _serve(
        self, listeners: Sequence[Listener], task_status: trio.TaskStatus[Address]
    ) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._clock.run)
            self.registry = Registry(nursery, self._make_session, self._session_ended)
            nursery.start_soon(measure, self.admission.lag, self._tell_siblings)
            self._clock.at(trio.current_time() + GIVE_BACK_S, self._tidy)
            await nursery.start(self.edge.serve, listeners)
            self._tell_siblings()
            address = address_of(listeners[0], self.settings)
            log.info("listening", extra={"host": address.host, "port": address.port})
            if self.siblings is None:  # else once for all of them
                warn_when_open(address, self.settings)
            task_status.started(address)
            try:
                await self._stop.wait()
                await self._drain()
            finally:
                self.draining = True
                self._tell_siblings()
                goodbye_s = self.settings.close_s + GOODBYE_SLACK_S
                with trio.move_on_after(goodbye_s, shield=True):
                    await self._say_goodbye()
                nursery.cancel_scope.cancel()

    def state(self) -> dict[str, object]:
        """What ``/health`` says of this process alone; a ``reason`` while it is not ready."""
        reason = self._closed()
        return {
            "status": "draining" if self.draining else "ok",
            **({} if reason is None else {"reason": reason}),
            "meetings": len(self.registry),
            "meetings_begun": self.served,
            "refused": self.admission.refused.total(),
            "lag_ms": round(self.admission.lag.ms),
        }

    def stop(self, drain_s: float = 0.0) -> None:
        """Begin to stop: no new meetings; those that run have ``drain_s`` to end by themselves.

        Said again, the shorter time counts.
        """
        until_s = trio.current_time() + drain_s
        self._draining_scope.deadline = min(self._draining_scope.deadline, until_s)
        self.draining = True
        self._tell_siblings()
        self._stop.set()

    async def reload(self) -> None:
        """Read the TLS files anew: for connections to come, those that there are go on.

        With a pair that cannot be used the old one stays, and one ERROR says why.
        """
        cert, key = self.settings.tls_cert, self.settings.tls_key
        if cert is None or key is None:
            await trio.lowlevel.checkpoint()
            log.info("nothing to reload", extra={"reason": "no --tls-cert"})
            return
        try:
            renewed = await renewed_context(cert, key)
        except SettingsError as error:
            fields = {"reason": str(error)}
        else:
            self.edge.tls = renewed
            log.info("certificate renewed", extra={"file": cert})
            return
        log.error("certificate not renewed: the old one stays", extra=fields)

    async def _drain(self) -> None:
        log.info("draining", extra={"meetings": len(self.registry)})
        with self._draining_scope:
            await self.registry.empty()

    async def _say_goodbye(self) -> None:
        for session in self.registry:
            session.end(GOING_AWAY, "going away")
        await self.edge.drain(GOING_AWAY, "going away")
        await self.registry.empty()

    def _tidy(self, now_s: float) -> None:
        self._heap.tidy(self._ended)
        self._clock.at(now_s + GIVE_BACK_S, self._tidy)

    @property
    def _ended(self) -> int:
        """Meetings of which no task runs any more, so far."""
        return self.served - self.registry.running

    def _make_session(self, bot_id: str) -> Session:
        reason = self._turned_away()  # a path with its id would have been refused before
        if reason is not None:
            going = reason == "draining"
            text = _GOING if going else f"{reason}: try again later"
            raise HandshakeError(text, GOING_AWAY if going else TRY_AGAIN)
        self._heap.tidy_for_another(self._ended)
        self.served += 1
        session = Session(bot_id, self.agent, self.settings, self._clock)
        self._tell_siblings(beginning=1)
        elsewhere = self._claim(bot_id, stay=True)  # until `_session_ended`
        assert elsewhere is None, "its socket has claimed it before"
        return session

    def _session_ended(self, session: Session) -> None:
        self._tell_siblings()
        if session.failed and self.siblings is not None:
            # Whoever comes back at once must come here, to be refused; and an agent that fails
            # each time must not make this the emptiest worker.
            release = partial(self._release, session.bot_id)
            self._clock.at(trio.current_time() + FAILURE_PAUSE_S, lambda _: release())
        else:
            self._release(session.bot_id)

    def _tell_siblings(self, beginning: int = 0) -> None:
        """Whether we begin new meetings, beside those that are ``beginning``."""
        if self.siblings is not None:
            running = 0 if self.draining else self.registry.running + beginning
            closed = self.admission.closed(running, draining=self.draining)
            self.siblings.tell(closed is None)

    def _admit(self, request: Request) -> None:
        route = read_route(request.path)
        if route is None:
            raise Refused(404, "no such channel: /bridge and /bridge/audio are")
        self._door.let_in(request, route)
        alone = self.siblings is None or not self.siblings.taken_elsewhere
        if self.draining and alone:  # running meetings too: they are better off elsewhere
            raise _not_now("draining")
        if route.bot_id is None or route.bot_id in self.registry:
            return
        if self._carrier(route.bot_id) is None and (reason := self._turned_away()):
            raise _not_now(reason)

    def _closed(self) -> Reason | None:
        return self.admission.closed(self.registry.running, draining=self.draining)

    def _turned_away(self) -> Reason | None:
        """Why a new meeting cannot begin now; counted, and logged once a second."""
        reason = self._closed()
        if reason is not None:
            self.admission.refused[reason] += 1
            if self._closed_door.admits(trio.current_time()):
                fields = {"reason": reason, "meetings": self.registry.running}
                more = self._closed_door.take_suppressed()
                lag_ms = round(self.admission.lag.ms)
                log.warning(
                    "new meeting refused",
                    extra={**fields, "lag_ms": lag_ms, "more_before": more},
                )
        return reason

    def _elsewhere(self, request: Request) -> Carrier | None:
        route = read_route(request.path)
        bot_id = None if route is None else route.bot_id
        return None if bot_id is None else self._carrier(bot_id)

    def _carrier(self, bot_id: str) -> Carrier | None:
        return None if self.siblings is None else self.siblings.carrier(bot_id)

    def _claim(self, bot_id: str, *, stay: bool) -> Carrier | None:
        return None if self.siblings is None else self.siblings.claim(bot_id, stay=stay)

    def _release(self, bot_id: str) -> None:
        if self.siblings is not None:
            self.siblings.release(bot_id)

    def _serve_socket(self, socket: Socket) -> Awaitable[Onward | None]:
        route = read_route(socket.request.path)
        assert route is not None  # _admit refused it otherwise
        return serve_channel(
            socket,
            route,
            self.registry,
            self.settings,
            self._refusals,
            partial(self._claim, stay=socket.request.adopted),
            self._release,
            partial(self._door.check_bot, socket.request, route),
        )

    async def _answer(self, request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        if read_route(request.path) is not None:
            return Response(426, b"a bot connects here with a WebSocket\n", headers=UPGRADE)
        if request.path not in ("/health", "/ready"):
            return Response(404, b"try /health; bots connect to /bridge and /bridge/audio\n")
        if request.method not in ("GET", "HEAD"):
            return Response(405, b"GET only\n", headers=(("allow", "GET, HEAD"),))
        state = self.state()
        if self.siblings is not None:
            state = await self.siblings.add_up(state)
        status = 503 if "reason" in state and request.path == "/ready" else 200
        return Response(status, json.dumps(state).encode() + b"\n", "application/json")


def _not_now(reason: Reason) -> Refused:
    text = _GOING if reason == "draining" else f"{reason}: try again later"
    return Refused(503, text, (("retry-after", str(RETRY_S[reason])),))


async def serve(
    agent: Agent | None = None,
    settings: Settings | None = None,
    *,
    task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a bridge whose meetings ``agent`` attends, until cancelled.

    ``trio.run(trio_bridge.serve, agent)`` is a whole program;
    ``address = await nursery.start(trio_bridge.serve, agent)`` embeds it in a larger one. On
    cancellation every bot is told Close 1001 and nothing is left behind.

    Raises:
        SettingsError: the address cannot be listened on, or a TLS file cannot be used.
    """
    settings = settings or Settings()
    if agent is None:
        from trio_bridge.agents import find_agent  # those who bring an agent need not load ours

        agent = find_agent(settings.agent).agent
    server = Server(agent, settings)
    await server.run(task_status=task_status)
