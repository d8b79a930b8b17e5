"""One socket of a bot: it introduces itself, is lent to its meeting, and is closed."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from trio_bridge.config import Settings
from trio_bridge.edge.passing import Carrier, Onward
from trio_bridge.edge.socket import Socket
from trio_bridge.errors import (
    AgentFailedError,
    HandshakeError,
    SessionEndedError,
    SocketClosedError,
)
from trio_bridge.log import Throttle
from trio_bridge.registry import Registry
from trio_bridge.routes import Route
from trio_bridge.wire.commands import Ack
from trio_bridge.wire.hello import Hello, parse_hello

log = logging.getLogger(__name__)

POLICY, FAILED = 1008, 1011


async def serve_channel(
    socket: Socket,
    route: Route,
    registry: Registry,
    settings: Settings,
    refusals: Throttle,
    claim: Callable[[str], Carrier | None],
    release: Callable[[str], None],
    check_bot: Callable[[str], None],
) -> Onward | None:
    """Serve one accepted WebSocket until it or its meeting ends, and close it accordingly.

    A first message that is no good closes it with 1003 or 1008 and makes no session; so does
    one of a bot that ``check_bot`` refuses with a `HandshakeError`. A good one of a bot that
    ``claim`` has another process for is given back, untouched, to go there; else the bot is
    ours until ``release``.
    """
    hello = await _introduced(socket, route, settings, refusals, claim, check_bot)
    if not isinstance(hello, Hello):
        return hello
    try:
        await _serve(socket, route, registry, settings, hello.bot_id)
    finally:
        release(hello.bot_id)
    return None


async def _serve(
    socket: Socket, route: Route, registry: Registry, settings: Settings, bot_id: str
) -> None:
    try:
        if settings.ack:
            await socket.send(Ack(route.kind).encode(bot_id))
        while True:
            session = registry.join(bot_id)
            try:
                verdict = await session.serve_channel(route.kind, socket)
                break
            except SessionEndedError:  # it ended in this very moment: look again
                await trio.lowlevel.checkpoint()
        del session  # it has ended, or has another socket: saying goodbye takes seconds
        await socket.close(*verdict)
    except AgentFailedError as error:
        await socket.close(FAILED, str(error))
    except HandshakeError as error:  # draining: no new meetings
        await socket.close(error.close_code, error.reason)
    except SocketClosedError:  # between the hello and the meeting; a retry will come
        pass


async def _introduced(
    socket: Socket,
    route: Route,
    settings: Settings,
    refusals: Throttle,
    claim: Callable[[str], Carrier | None],
    check_bot: Callable[[str], None],
) -> Hello | Onward | None:
    """Who is there, or what to do instead; None: nothing, the socket is closed."""
    try:
        first = await read_first(socket, settings.hello_s)
        hello = read_hello(first, route.bot_id)
        check_bot(hello.bot_id)
    except SocketClosedError:
        return None
    except HandshakeError as error:
        if refusals.admits(trio.current_time()):
            more = refusals.take_suppressed()
            fields = {"reason": error.reason, "peer": socket.request.peer, "more_before": more}
            log.warning("channel refused", extra=fields)
        await socket.close(error.close_code, error.reason)
        return None
    carrier = claim(hello.bot_id)
    if carrier is not None and isinstance(first, str):  # a hello always is
        return Onward(carrier, first)
    return hello


async def read_first(socket: Socket, deadline_s: float) -> str | bytes:
    """Receive the first message within ``deadline_s``.

    Raises:
        HandshakeError: silence past the deadline.
        SocketClosedError: the peer left.
    """
    try:
        with trio.fail_after(deadline_s):
            return await socket.receive()
    except trio.TooSlowError as exc:
        raise HandshakeError(f"no ready message in {deadline_s:g} s", POLICY) from exc


def read_hello(first: str | bytes, path_id: str | None) -> Hello:
    """Parse the first message and check it against the path's id.

    Raises:
        HandshakeError: a bad message, or another id than the path's.
    """
    hello = parse_hello(first)
    if path_id is not None and path_id != hello.bot_id:
        raise HandshakeError("bot_id is not the one in the path", POLICY)
    return hello
