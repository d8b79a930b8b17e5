"""Which sockets a meeting has, and what it means when they are gone."""

from __future__ import annotations

from typing import Literal, Protocol

import attrs
import trio

from trio_bridge.edge.frames import OnAudio, OnText

Kind = Literal["audio", "control"]

NORMAL = 1000
"""The close code of a bot that leaves because it is done (RFC 6455 §7.4.1)."""


class Socket(Protocol):
    """The part of a WebSocket that a meeting needs; see `edge.socket.Socket`."""

    def arm(
        self,
        *,
        max_message_bytes: int,
        on_audio: OnAudio | None = None,
        on_text: OnText | None = None,
    ) -> None: ...

    async def receive(self) -> str | bytes: ...

    async def send(self, text: str) -> None: ...


@attrs.define(eq=False)
class Link:
    """A socket that was lent to the meeting, until one of the two has enough."""

    kind: Kind
    socket: Socket
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    """Cancels the reading, never a write."""
    done: bool = attrs.field(default=False, init=False)
    """Nobody reads it any more: its verdict stands."""
    bad: int = attrs.field(default=0, init=False)
    """Commands in a row that were none, up to the last one."""
    verdict: tuple[int, str] = attrs.field(default=(NORMAL, ""), init=False)
    """What our Close says."""

    def end(self, code: int, reason: str) -> None:
        """Stop reading and give the socket back, to be closed with ``code``."""
        if not self.done:
            self.verdict = (code, reason)
            self.scope.cancel()


@attrs.define(eq=False)
class Attendance:
    """The links of one meeting: the newest of each kind wins, and a late end of an older one
    changes nothing."""

    grace_s: float
    grace_ends_s: float | None = attrs.field(default=None, init=False)
    """When a meeting that nobody attends is over; None while somebody does."""
    _links: dict[Kind, Link] = attrs.field(factory=dict, init=False)
    _left_with: dict[Kind, int] = attrs.field(factory=dict, init=False)

    def __contains__(self, kind: object) -> bool:
        return kind in self._links

    def holds(self, link: Link) -> bool:
        """``link`` has not been replaced and has not left."""
        return self._links.get(link.kind) is link

    def join(self, link: Link) -> bool:
        """Let ``link`` in; True if it replaced another, which is told 1000."""
        older = self._links.get(link.kind)
        self._links[link.kind] = link
        self._left_with.pop(link.kind, None)
        self.grace_ends_s = None
        if older is not None:
            older.end(NORMAL, "replaced by a newer connection")
        return older is not None

    def leave(self, link: Link, code: int, now_s: float) -> bool:
        """``link`` ended with ``code``; True when the meeting is over by it.

        It is when both channels were there and said 1000. Otherwise, with nobody left, the
        grace begins.
        """
        if not self.holds(link):
            return False
        del self._links[link.kind]
        self._left_with[link.kind] = code
        if self._links:
            return False
        if self._left_with == {"audio": NORMAL, "control": NORMAL}:
            return True
        self.grace_ends_s = now_s + self.grace_s
        return False

    def dismiss(self, code: int, reason: str) -> None:
        """Give every socket back, to be closed with ``code``."""
        for link in list(self._links.values()):
            link.end(code, reason)
