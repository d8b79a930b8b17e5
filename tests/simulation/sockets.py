"""The bot's end of a WebSocket, without a task: it writes when told to, and reads at once.

Its own reading of RFC 6455, strict where a server must be right (no mask, no reserved bit, no
fragments in what is sent here, minimal lengths), so that half a frame cannot hide.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import attrs

from tests.edge.peers import BINARY, CLOSE, PING, PONG, TEXT, close_payload, head
from tests.simulation.line import Line
from trio_bridge.attendance import Kind
from trio_bridge.session import Session
from trio_bridge.wire.hello import encode_hello

if TYPE_CHECKING:
    from tests.simulation.agents import Run
    from tests.simulation.bots import Bot

_MASK = b"\x5a\x01\xfe\x33"

_ANY = range(1_000, 5_000)
CODES: dict[str, tuple[int, ...] | range] = {
    "left": _ANY,  # an echo of whatever we said
    "replaced": (1_000,),
    "drain": (1_001, 1_013),
    "failed": (1_011,),
    "bad hello": (1_003, 1_008),
    "no hello": (1_008,),
    "crime": (1_002, 1_007, 1_008, 1_009),
    "bad run": (1_003,),
    "cut": _ANY,
    "frozen": _ANY,
    "refused": (),
}
"""What may become of a socket, and the close codes that go with it. A socket that nothing was
done to has no fate, and must live."""

ENDS = {"left", "cut", "replaced", "bad hello", "refused"}


@attrs.define
class Credit:
    """What was sent on a socket to which nothing was done: all of it must have arrived."""

    samples: int = 0
    frames: int = 0
    own: int = 0
    bad: int = 0
    texts: list[str] = attrs.field(factory=list)
    interrupts: int = 0

    def add(self, other: Credit) -> None:
        self.samples += other.samples
        self.frames += other.frames
        self.own += other.own
        self.bad += other.bad
        self.texts += other.texts
        self.interrupts += other.interrupts


@attrs.define(eq=False)
class Record:
    """A session that the server made, and what is known of it from outside."""

    session: Session
    born_s: float
    sure: Credit = attrs.field(factory=Credit)
    run: Run | None = None
    """Its agent, once that was started."""
    alone_since_s: float | None = None
    attended_s: float | None = None
    """When a socket was last seen to be lent to it."""
    ended_as: str | None = None
    received: int | None = None
    """Samples in all, once it has ended."""


class BotSocket:
    """One connection of one bot."""

    def __init__(
        self, bot: Bot, kind: Kind, number: int, segment_bytes: int, opened_s: float
    ) -> None:
        self.bot, self.kind, self.number = bot, kind, number
        self.opened_s = opened_s
        self.line = Line(self._read, segment_bytes, self)
        self.status: int | None = None
        """Of the answer to our upgrade."""
        self.acked = False
        self.greeted = False
        """A good hello was sent on it."""
        self.fates: set[str] = set()
        self.ending_s: float | None = None
        """When something was done to it that it cannot survive, unless it was refused."""
        self.close_seen: tuple[int, str] | None = None
        self.close_said: int | None = None
        self.mute = False
        """It can say nothing any more."""
        self.silent = False
        """The network is gone: nothing is answered any more."""
        self.frozen_since_s: float | None = None
        self.pending = Credit()
        self.record: Record | None = None
        self._buffer = b""
        self._unsaid: list[Callable[[], None]] = []
        """Answers to what it has not read yet."""

    @property
    def solid(self) -> bool:
        """Nothing that is known could keep it from being the one of its kind."""
        return self.status == 101 and self.greeted and not self.fates

    @property
    def gone(self) -> bool:
        return self.line.closed_by_server_s is not None

    @property
    def reading(self) -> bool:
        return self.line.reading and not self.silent and self.line.open

    def meet(self, fate: str, now_s: float) -> None:
        """``fate`` is what may become of it from now on."""
        self.fates.add(fate)
        if self.ending_s is None and fate in ENDS:
            self.ending_s = now_s

    def expire(self, now_s: float) -> None:
        """Whoever has not said hello by its deadline is shown out."""
        deadline_s = self.opened_s + self.bot.world.settings.hello_s
        if not self.greeted and now_s > deadline_s - 0.01:
            self.meet("no hello", now_s)

    # -- what it says ----------------------------------------------------------------------

    def knock(self, *, token: str, prefix: bool, path: str | None = None) -> None:
        """Ask for the upgrade."""
        if path is None:
            path = f"/{self.bot.id}" * prefix + f"/t/{token}" * bool(token)
            path += "/bridge/audio" if self.kind == "audio" else "/bridge"
        self.line.write(head(target=path.encode()))

    def greet(self) -> None:
        self.text(encode_hello(self.bot.id))

    def text(self, text: str) -> None:
        self.frame(TEXT, text.encode())

    def binary(self, payload: bytes) -> None:
        self.frame(BINARY, payload)

    def frame(
        self, opcode: int, payload: bytes, *, bits: int = 0x80, masked: bool = True
    ) -> None:
        """Any frame; ``bits`` are FIN and the reserved ones."""
        if self.close_said is None and not (self.silent or self.mute):
            self.line.write(_frame(bits | opcode, payload, masked))

    def close(self, code: int | None) -> None:
        """Say Close; None: without a code."""
        if self.close_said is None:
            self.frame(CLOSE, b"" if code is None else close_payload(code))
            self.close_said = 1_005 if code is None else code

    # -- what it hears ---------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        buffer = self._buffer + data
        if self.status is None:
            top, end, rest = buffer.partition(b"\r\n\r\n")
            if not end:
                self._buffer = buffer
                return
            self.status = int(top.split(b" ", 2)[1])
            self.bot.world.trace("status", self.bot.id, self.number, self.status)
            buffer = rest
        if self.status != 101:
            self._buffer = b""
            return
        at = 0
        while (end_at := self._take_frame(buffer, at)) is not None:
            at = end_at
        self._buffer = buffer[at:]

    def _take_frame(self, buffer: bytes, at: int) -> int | None:
        """Hear the frame that begins at ``at``; where the next one does, or None."""
        if len(buffer) < at + 2:
            return None
        first, size = buffer[at], buffer[at + 1]
        start = at + 2
        if size == 126:
            start = at + 4
        elif size == 127:
            start = at + 10
        if len(buffer) < start:
            return None
        if start > at + 2:
            size = int.from_bytes(buffer[at + 2 : start], "big")
        if len(buffer) < start + size:
            return None
        opcode, payload = first & 0x0F, buffer[start : start + size]
        blame = self.bot.world.blame
        if first & 0xF0 != 0x80 or opcode not in (TEXT, CLOSE, PING, PONG):
            blame(f"the server wrote no frame: first byte {first:#x}")
        elif buffer[at + 1] & 0x80:
            blame("the server masked a frame")
        elif self.close_seen is not None:
            blame("the server wrote a frame after its Close")
        else:
            self._hear(opcode, payload)
        return start + size

    def _hear(self, opcode: int, payload: bytes) -> None:
        self.bot.world.trace("frame", self.bot.id, self.number, opcode, len(payload))
        if opcode == PING:
            self._answer(partial(self.frame, PONG, payload))
        elif opcode == CLOSE:
            code = int.from_bytes(payload[:2], "big") if payload else 1_005
            self.close_seen = (code, payload[2:].decode())
            self.bot.closed_by_server(self)
            self._answer(partial(self._close_too, payload, code))
        elif opcode == TEXT:
            self._hear_text(payload)

    def _close_too(self, payload: bytes, code: int) -> None:
        if self.close_said is None:
            self.frame(CLOSE, payload)
            self.close_said = code
        self.line.finish()

    def _answer(self, answer: Callable[[], None]) -> None:
        if self.line.reading:
            answer()
        else:
            self._unsaid.append(answer)

    def thaw(self) -> None:
        """Read on, and answer what was there to read."""
        if not self.silent:
            self.line.thaw()
            unsaid, self._unsaid = self._unsaid, []
            for answer in unsaid:
                answer()

    def _hear_text(self, payload: bytes) -> None:
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            self.bot.world.blame("the server wrote a text that is not UTF-8")
            return
        if self.kind == "control":
            self.bot.hear_command(self, text)
        elif json.loads(text).get("type") == "ack":
            self.hear_ack()
        else:
            self.bot.world.blame(f"something but an ack on an audio channel: {text[:80]}")

    def hear_ack(self) -> None:
        if self.acked:
            self.bot.world.blame("a second ack")
        if "bad hello" in self.fates:
            self.bot.world.blame("an ack for a bad hello")
        self.acked = True


def _frame(first: int, payload: bytes, masked: bool) -> bytes:
    size = len(payload)
    mask_bit = 0x80 if masked else 0
    if size < 126:
        header = bytes((first, mask_bit | size))
    elif size < 1 << 16:
        header = bytes((first, mask_bit | 126)) + struct.pack("!H", size)
    else:
        header = bytes((first, mask_bit | 127)) + struct.pack("!Q", size)
    if not masked:
        return header + payload
    key = int.from_bytes((_MASK * (size // 4 + 1))[:size], "big")
    return header + _MASK + (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")
