"""A connection on its way to another process: what goes along, and the step that gives it away.

Knows neither who the other process is nor why it should have the connection. The bytes of a
stranger that were read but not used go along; what the kernel still holds, it keeps.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

import attrs
import trio

from trio_bridge.edge.head import Request
from trio_bridge.edge.transport import RawStream
from trio_bridge.errors import BridgeError


class HandOverError(BridgeError):
    """A connection could not be given to another process; the text says why."""


@attrs.frozen
class Passage:
    """What the next owner of a connection must know. Its ``repr`` shows nothing secret."""

    request: Request
    upgraded: bool
    """The 101 is out: the next owner must not send another."""
    unread: bytes = attrs.field(repr=False)
    """What the peer sent behind its head and nobody has used, the first message included."""


class Offer(Protocol):
    """The other process would take the connection, and waits for it."""

    def commit(self) -> None:
        """Give it away; at once and for good.

        Raises:
            HandOverError: the other process is gone; the connection is still ours.
        """

    def close(self) -> None:
        """Forget about it; without a `commit` the other process drops its copy."""


Carrier = Callable[[socket.socket, Passage], Awaitable[Offer]]
"""Offers a connection to another process, within a deadline of its own, or raises
`HandOverError`."""


@attrs.frozen
class Onward:
    """What an ``on_socket`` returns that has read a first message meant for another process."""

    carrier: Carrier
    first: str


async def pass_on(
    carrier: Carrier,
    passage: Passage,
    inner: trio.abc.Stream,
    holder: trio.abc.AsyncResource,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Give the connection ``inner`` away and close our copy of it, by way of ``holder``.

    Nobody may read or write it meanwhile, save one who then lets ``is_over`` say True.

    Raises:
        HandOverError: it is still ours, and whole.
    """
    if not isinstance(inner, RawStream):
        raise HandOverError("only a plain TCP connection can be handed over")
    with contextlib.closing(await carrier(inner.socket, passage)) as offer:
        if is_over():
            raise HandOverError("it ended meanwhile")
        offer.commit()
        # No checkpoint since: from now on each byte is another's to read and to write. Closing
        # is no shutdown, so the peer notices nothing. (What is left of it in this process's
        # epoll is disarmed, and goes with the connection.)
        await trio.aclose_forcefully(holder)
