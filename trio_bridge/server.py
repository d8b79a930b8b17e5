"""The server: one port, one nursery of connections and one of meetings, and their end."""

from __future__ import annotations

import errno
import ipaddress
import json
import logging
from collections.abc import Sequence

import attrs
import trio

from trio_bridge.channel import serve_channel
from trio_bridge.config import Settings
from trio_bridge.edge.head import Refused, Request
from trio_bridge.edge.http import Response
from trio_bridge.edge.limits import EdgeLimits
from trio_bridge.edge.listener import Edge
from trio_bridge.edge.socket import Socket
from trio_bridge.errors import HandshakeError, SettingsError
from trio_bridge.log import Throttle
from trio_bridge.meeting import Agent
from trio_bridge.registry import Registry
from trio_bridge.routes import read_route, shown_token, token_is_good
from trio_bridge.session import GOING_AWAY, Session

log = logging.getLogger(__name__)

Listener = trio.abc.Listener[trio.SocketStream]

HELLO_SLACK_S = 2.0
"""Between our own deadline for the hello, which can say why, and the edge's, which cannot."""
UPGRADE = (("upgrade", "websocket"), ("connection", "upgrade"))
GOODBYE_S = 3.0
"""What is left of a cancelled server: time to say Close 1001 to every socket."""


@attrs.frozen
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """``http://HOST:PORT``; a bot connects to the same with ``ws``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@attrs.define(eq=False)
class Server:
    """A bridge that can be started in a nursery, asked how it is, and told to stop."""

    agent: Agent
    settings: Settings = attrs.field(factory=Settings)
    edge: Edge = attrs.field(init=False)
    registry: Registry = attrs.field(init=False)
    draining: bool = attrs.field(default=False, init=False)
    served: int = attrs.field(default=0, init=False)
    """Meetings begun so far."""
    stopped: trio.Event = attrs.field(factory=trio.Event, init=False)
    """`run` is over."""
    _refusals: Throttle = attrs.field(factory=Throttle, init=False)
    _stop: trio.Event = attrs.field(factory=trio.Event, init=False)
    _draining_scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    def __attrs_post_init__(self) -> None:
        settings = self.settings
        self.edge = Edge(
            on_http=self._answer,
            on_socket=self._serve_socket,
            admit=self._admit,
            tick_s=settings.audio_tick_ms / 1000,
            limits=EdgeLimits(
                hello_s=settings.hello_s + HELLO_SLACK_S,
                allowed_origins=frozenset(settings.allowed_origin),
            ),
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
        `GOODBYE_S`, and every meeting's tasks are gone when it returns.

        Raises:
            SettingsError: the address cannot be listened on.
        """
        if listeners is None:
            listeners = await _listen(self.settings.host, self.settings.port)
        try:
            async with trio.open_nursery() as nursery:
                self.registry = Registry(nursery, self._make_session)
                await nursery.start(self.edge.serve, listeners)
                address = _address_of(listeners[0])
                log.info("listening", extra={"host": address.host, "port": address.port})
                self._warn_when_open(address)
                task_status.started(address)
                try:
                    await self._stop.wait()
                    await self._drain()
                finally:
                    self.draining = True
                    with trio.move_on_after(GOODBYE_S, shield=True):
                        await self._say_goodbye()
                    nursery.cancel_scope.cancel()
        finally:
            log.info("stopped", extra={"meetings": self.served})
            self.stopped.set()

    def stop(self, drain_s: float = 0.0) -> None:
        """Begin to stop: no new meetings; those that run have ``drain_s`` to end by themselves.

        Said again, the shorter time counts.
        """
        until_s = trio.current_time() + drain_s
        self._draining_scope.deadline = min(self._draining_scope.deadline, until_s)
        self.draining = True
        self._stop.set()

    async def _drain(self) -> None:
        log.info("draining", extra={"meetings": len(self.registry)})
        with self._draining_scope:
            await self.registry.empty()

    async def _say_goodbye(self) -> None:
        for session in self.registry:
            session.end(GOING_AWAY, "going away")
        await self.edge.drain(GOING_AWAY, "going away")
        await self.registry.empty()

    def _make_session(self, bot_id: str) -> Session:
        if self.draining:  # it connected before, and introduces itself only now
            raise HandshakeError("going away", GOING_AWAY)
        self.served += 1
        return Session(bot_id, self.agent, self.settings)

    def _admit(self, request: Request) -> None:
        route = read_route(request.path)
        if route is None:
            raise Refused(404, "no such channel: /bridge and /bridge/audio are")
        authorization = request.get(b"authorization")
        shown = shown_token(
            route, request.query, authorization.decode("latin-1") if authorization else None
        )
        if not token_is_good(shown, self.settings.token):
            raise Refused(401, "a token is needed", (("www-authenticate", "Bearer"),))
        if self.draining:
            raise Refused(503, "going away")

    async def _serve_socket(self, socket: Socket) -> None:
        route = read_route(socket.request.path)
        assert route is not None  # _admit refused it otherwise
        await serve_channel(socket, route, self.registry, self.settings, self._refusals)

    async def _answer(self, request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        if read_route(request.path) is not None:
            return Response(426, b"a bot connects here with a WebSocket\n", headers=UPGRADE)
        if request.path not in ("/health", "/ready"):
            return Response(404, b"try /health; bots connect to /bridge and /bridge/audio\n")
        if request.method not in ("GET", "HEAD"):
            return Response(405, b"GET only\n", headers=(("allow", "GET, HEAD"),))
        ready = not self.draining
        state = {
            "status": "ok" if ready else "draining",
            "meetings": len(self.registry),
            "meetings_begun": self.served,
        }
        status = 200 if ready or request.path == "/health" else 503
        return Response(status, json.dumps(state).encode() + b"\n", "application/json")

    def _warn_when_open(self, address: Address) -> None:
        if self.settings.token or not address.port:
            return
        if not ipaddress.ip_address(address.host.split("%")[0]).is_loopback:
            log.warning(
                "everybody who reaches this address may use the agent: set --token",
                extra={"host": address.host},
            )


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
        SettingsError: the address cannot be listened on.
    """
    settings = settings or Settings()
    if agent is None:
        from trio_bridge.agents import find_agent  # those who bring an agent need not load ours

        agent = find_agent(settings.agent).agent
    server = Server(agent, settings)
    await server.run(task_status=task_status)


def _address_of(listener: Listener) -> Address:
    if not isinstance(listener, trio.SocketListener):
        return Address("", 0)
    name = listener.socket.getsockname()
    return Address(*name[:2]) if isinstance(name, tuple) else Address(str(name), 0)


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except UnicodeError as exc:
        raise SettingsError(f"{host!r} is not a host name: choose another --host") from exc
    except OSError as exc:
        known = {
            errno.EADDRINUSE: "is in use: stop what listens there or choose another --port",
            errno.EACCES: "needs more rights: choose a --port above 1023",
            errno.EADDRNOTAVAIL: "is not an address of this machine: choose another --host",
        }
        why = known.get(exc.errno or 0, f"cannot be listened on: {exc.strerror or exc}")
        raise SettingsError(f"{host}:{port} {why}") from exc
    if port:
        return listeners
    for other in listeners[1:]:  # each address would have a port of its own
        await other.aclose()
    return listeners[:1]
