"""One bot of the soak: streams, plays what it is sent, and now and then loses a socket.

Every socket that goes is read to its end, so what the server wrote is counted to the sample,
and what it read can be compared with what was sent to the frame.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Literal

import attrs

from benchmarks.playback import Playback
from benchmarks.stamps import bot_id_of
from benchmarks.wsclient import Link, LinkError

Kind = Literal["audio", "control"]
Way = Literal["close", "vanish", "take over", "leave"]
"""Close frame 1001; FIN without one; the new socket before the old one is gone; Close 1000 on
both, which ends the meeting, so that a new one begins."""
WAYS: tuple[Way, ...] = ("close", "vanish", "take over", "leave")

PATHS: dict[Kind, str] = {"audio": "/bridge/audio", "control": "/bridge"}
UNREAD = 10
"""Frames just before a socket is taken over that may be left unread: 200 ms."""
CLOSING_S = 5.0
"""The server has this long to end a socket that said goodbye."""


@attrs.define(eq=False)
class SoakBot:
    """Both sockets, either of which may be away. Times are seconds of `time.monotonic`."""

    index: int
    port: int
    playback: Playback
    frames: int = attrs.field(default=0, init=False)
    """Sent, over all sockets."""
    perhaps_unread: int = attrs.field(default=0, init=False)
    """Of those, at most this many were on a socket that was taken over right then."""
    faults: list[str] = attrs.field(factory=list, init=False)
    """What the server should not have done."""
    links: dict[Kind, Link] = attrs.field(factory=dict, init=False)
    parting: dict[Link, float] = attrs.field(factory=dict, init=False)
    """Sockets that are read to their end, and since when."""
    _leaving: bool = attrs.field(default=False, init=False)
    _pause_s: float = attrs.field(default=0.0, init=False)
    _back_s: dict[Kind, float] = attrs.field(factory=dict, init=False)
    """When a socket that is gone comes back."""
    _whose: dict[Link, Kind] = attrs.field(factory=dict, init=False)

    @property
    def whole(self) -> bool:
        """Both sockets are there, and no old one is left."""
        return len(self.links) == len(PATHS) and not self.parting

    def open(self, kind: Kind) -> Link:
        """Connect one socket, which takes a few ms.

        Raises:
            LinkError, OSError: the server does not take it.
        """
        hello = json.dumps({"type": "ready", "bot_id": bot_id_of(self.index), "message": "Hi"})
        heard = self._on_command if kind == "control" else None
        link = self.links[kind] = Link(self.port, PATHS[kind], hello, None, heard)
        self._back_s.pop(kind, None)
        return link

    def stream(self, frame: bytes) -> None:
        """Send one frame, if there is a socket for it.

        Raises:
            LinkError: the socket is gone.
        """
        link = self.links.get("audio")
        if link is not None:
            link.send(frame)
            self.frames += 1

    def lose(self, kinds: tuple[Kind, ...], way: Way, pause_s: float, now_s: float) -> None:
        """Give up sockets; those come back ``pause_s`` after their end. Not for "take over"."""
        self._pause_s = pause_s
        self._leaving = way == "leave"
        for kind in kinds:
            link = self._part(kind, now_s)
            try:
                if way == "vanish" and not link.waiting:
                    link.end_sending()
                else:
                    link.say_close(1000 if way == "leave" else 1001)
            except LinkError as error:
                self.faults.append(f"{kind} socket of {bot_id_of(self.index)}: {error}")
                self._ended(link, now_s, str(error))

    def take_over(self, kind: Kind, now_s: float) -> Link:
        """A new socket while the old one is open. Raises as `open` does."""
        old = self._part(kind, now_s)
        del self._whose[old]  # nothing is to come back at its end
        if kind == "audio":
            self.perhaps_unread += min(UNREAD, self.frames)
        self._back_s[kind] = now_s  # if it is refused
        return self.open(kind)

    def read(self, link: Link, now_s: float) -> bool:
        """Read what has come; False when that was the end of ``link``."""
        try:
            link.drain()
            link.flush()
        except LinkError as error:
            self._ended(link, now_s, str(error))
            return False
        return True

    def lost(self, link: Link, now_s: float, why: str) -> None:
        """``link`` broke while something was sent."""
        self._ended(link, now_s, why)

    def due_back(self, now_s: float) -> list[Kind]:
        """The sockets whose time has come; also notices what the server did not end."""
        for link, since_s in list(self.parting.items()):
            if now_s - since_s > CLOSING_S:
                self._ended(link, now_s, f"not ended by the server within {CLOSING_S:g} s")
                self.faults.append("a socket that said goodbye was not ended")
        if self._whose.keys() & self.parting.keys():
            return []  # both sockets leave, then both come back
        return [kind for kind, at_s in self._back_s.items() if at_s <= now_s]

    def _part(self, kind: Kind, now_s: float) -> Link:
        link = self.links.pop(kind)
        self.parting[link] = now_s
        self._whose[link] = kind
        return link

    def _ended(self, link: Link, now_s: float, why: str) -> None:
        link.socket.close()
        kind = self._whose.pop(link, None)
        if self.parting.pop(link, None) is None:
            kind = next((k for k, one in self.links.items() if one is link), None)
            if kind is None:
                return
            del self.links[kind]
            self._pause_s = 0.0
            self.faults.append(f"{kind} socket of {bot_id_of(self.index)}: {why}")
        if self._leaving and not self.parting and not self.links:
            self._leaving = False
            self.playback.end()
        if kind is not None:
            self._back_s[kind] = now_s + self._pause_s
            if kind == "control" and self._pause_s:
                self.playback.absences.add(now_s, now_s + self._pause_s)

    def _on_command(self, message: bytes) -> None:
        fields = json.loads(message)
        if fields.get("command") == "sendaudio":
            size = len(base64.b64decode(fields["audiochunk"]))
            self.playback.arrive(time.monotonic(), size // 2)
