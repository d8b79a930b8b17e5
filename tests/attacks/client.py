"""A hostile client as data: bytes, pauses and rudeness, and what it must get for them."""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
from collections.abc import Callable

import attrs
import trio

from tests.edge.peers import BINARY, CLOSE, TEXT, frame, head
from trio_bridge.wire.hello import encode_hello

RESET = struct.pack("ii", 1, 0)
"""``SO_LINGER`` with no time: closing sends RST."""
SMALL_BUFFER_BYTES = 4096
"""The receive buffer of a client that does not read: soon full."""


@attrs.frozen
class Wait:
    """A pause."""

    seconds: float


@attrs.frozen
class Drip:
    """``data`` byte by byte."""

    data: bytes
    gap_s: float


class Do(enum.Enum):
    """What a client can do beside writing."""

    RESET = enum.auto()
    HALF_CLOSE = enum.auto()
    AWAIT_ANSWER = enum.auto()
    """Wait until the server has said something since the last time."""


Step = bytes | Wait | Drip | Do | Callable[[str], bytes]
"""A function is given the attack's own bot id."""


@attrs.frozen(kw_only=True)
class Expected:
    """What must have come back, ``within_s`` after the last step."""

    status: tuple[int, ...] | None = None
    """Of the HTTP answers, in order; None: whatever they are."""
    close: int | None = None
    """The code of the server's Close."""
    says: bytes | None = None
    """Somewhere in what came."""
    never: bytes | None = None
    """Nowhere in it."""
    ends: bool = True
    """The server has ended the connection."""
    within_s: float = 5.0


@attrs.frozen
class Attack:
    """One client's whole life."""

    name: str
    script: tuple[Step, ...]
    expected: Expected
    deaf: bool = False
    """It reads nothing until the script is over."""
    times: int = 1
    """So many connections at once, all from one address."""

    @property
    def bot_id(self) -> str:
        return "attacker " + self.name


@attrs.define(eq=False)
class Seen:
    """All that came back on one connection, taken apart as it comes."""

    data: bytearray = attrs.field(factory=bytearray)
    ended: bool = False
    statuses: list[int] = attrs.field(factory=list)
    """Of the HTTP answers, in order."""
    codes: list[int] = attrs.field(factory=list)
    """Of the Closes, 0 for one without."""
    _at: int = 0

    def add(self, data: bytes) -> None:
        self.data += data
        while 101 not in self.statuses and self._take_answer():
            pass
        while 101 in self.statuses and self._take_frame():
            pass

    def _take_answer(self) -> bool:
        end = self.data.find(b"\r\n\r\n", self._at) + 4
        if end < 4 or not self.data.startswith(b"HTTP/1.1 ", self._at):
            return False
        top = bytes(self.data[self._at : end])
        size = 0
        for line in top.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
        if len(self.data) < end + size:
            if not self.ended:
                return False
            size = 0  # the answer to a HEAD
        self.statuses.append(int(top[9:12]))
        self._at = end + size
        return True

    def _take_frame(self) -> bool:
        start = self._at + 2
        if len(self.data) < start:
            return False
        size = self.data[self._at + 1]
        if size >= 126:
            start += 2 if size == 126 else 8
            size = int.from_bytes(self.data[self._at + 2 : start], "big")
        if len(self.data) < start + size:
            return False
        if self.data[self._at] & 0x0F == CLOSE:
            self.codes.append(int.from_bytes(self.data[start : start + min(size, 2)], "big"))
        self._at = start + size
        return True

    def lacks(self, expected: Expected) -> list[str]:
        """What ``expected`` asks for and is not there."""
        lacking = []
        if expected.status not in (None, tuple(self.statuses)):
            lacking.append(f"statuses {expected.status}, not {self.statuses}")
        if expected.close is not None and self.codes != [expected.close]:
            lacking.append(f"Close {expected.close}, not {self.codes}")
        if expected.says is not None and expected.says not in self.data:
            lacking.append(repr(expected.says))
        if expected.never is not None and expected.never in self.data.lower():
            lacking.append(f"no {expected.never!r}")
        if expected.ends and not self.ended:
            lacking.append("the end of the connection")
        return lacking


async def attack_once(attack: Attack, port: int, address: str) -> None:
    """Play ``attack`` from ``address``, an IPv4 address of the loopback net.

    Raises:
        AssertionError: what came back is not what was expected.
    """
    seen = Seen()
    news = trio.Event()
    answered_bytes = 0

    async def read() -> None:
        nonlocal news
        try:
            while data := await stream.receive_some(65536):
                seen.add(data)
                news.set()
                news = trio.Event()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        seen.ended = True
        seen.add(b"")
        news.set()

    async def play() -> None:
        nonlocal answered_bytes
        for step in attack.script:
            if isinstance(step, Wait):
                await trio.sleep(step.seconds)
            elif isinstance(step, Drip):
                for byte in step.data:
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(step.gap_s)
            elif step is Do.RESET:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                await stream.aclose()
            elif step is Do.HALF_CLOSE:
                await stream.send_eof()
            elif step is Do.AWAIT_ANSWER:
                while len(seen.data) == answered_bytes and not seen.ended:
                    await news.wait()
                answered_bytes = len(seen.data)
            elif isinstance(step, bytes):
                await stream.send_all(step)
            elif callable(step):
                await stream.send_all(step(attack.bot_id))

    stream = await _dial(port, address, deaf=attack.deaf)
    async with stream, trio.open_nursery() as nursery:
        if not attack.deaf:
            nursery.start_soon(read)
        with contextlib.suppress(
            trio.BrokenResourceError
        ):  # cut off in mid-sentence: see below
            await play()
        if attack.deaf:
            nursery.start_soon(read)
        with trio.move_on_after(attack.expected.within_s):
            while seen.lacks(attack.expected) and not seen.ended:
                await news.wait()
        nursery.cancel_scope.cancel()
    lacking = seen.lacks(attack.expected)
    assert not lacking, f"expected {'; '.join(lacking)}; got {bytes(seen.data[:300])!r}"


async def _dial(port: int, address: str, *, deaf: bool) -> trio.SocketStream:
    sock = trio.socket.socket()
    if deaf:  # before the connection, or the window is larger
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    await sock.bind((address, 0))
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


# -- bytes -----------------------------------------------------------------------------------


def hello(bot_id: str) -> bytes:
    """The first message of a channel, as a frame."""
    return frame(TEXT, encode_hello(bot_id).encode())


def plain(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """A frame masked with zeros, which is quick to make however long it is."""
    return _opening(opcode, len(payload), fin=fin) + payload


def _opening(opcode: int, size: int, *, fin: bool) -> bytes:
    first = bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        return first + bytes([0x80 | size]) + bytes(4)
    if size < 1 << 16:
        return first + b"\xfe" + struct.pack("!H", size) + bytes(4)
    return first + b"\xff" + struct.pack("!Q", size) + bytes(4)


def speech(bot_id: str = "", *, name: bytes = b"Mallory", pcm: bytes = bytes(1920)) -> bytes:
    """One frame of audio, 20 ms by default."""
    header = struct.pack("<BH", 1, len(name)) + name + struct.pack("<H", len(name)) + name
    return plain(BINARY, header + pcm)


def control(*steps: Step) -> tuple[Step, ...]:
    """``steps`` on a control channel that has introduced itself."""
    return (head(target=b"/bridge"), Do.AWAIT_ANSWER, hello, Do.AWAIT_ANSWER, *steps)


def audio(*steps: Step) -> tuple[Step, ...]:
    """``steps`` on an audio channel that has introduced itself."""
    return (head(target=b"/bridge/audio"), Do.AWAIT_ANSWER, hello, Do.AWAIT_ANSWER, *steps)


def upgraded(*steps: Step) -> tuple[Step, ...]:
    """``steps`` of a stranger: the 101 is out, nothing has been said."""
    return (head(target=b"/bridge/audio"), Do.AWAIT_ANSWER, *steps)


# -- what is expected ------------------------------------------------------------------------


def refused(*status: int, within_s: float = 5.0) -> Expected:
    """HTTP answers, none of them a 101, and the end."""
    return Expected(status=status, within_s=within_s)


def closed(code: int, within_s: float = 5.0) -> Expected:
    """A 101, and later a Close with ``code``, and the end."""
    return Expected(status=(101,), close=code, within_s=within_s)


def cut(*status: int, within_s: float = 5.0) -> Expected:
    """The end without a Close."""
    return Expected(status=status, never=b"\x88", within_s=within_s)


def served(says: bytes, *status: int, never: bytes | None = None) -> Expected:
    """The connection is still there and ``says`` came back."""
    return Expected(status=status or (101,), says=says, never=never, ends=False)


NOTHING = Expected(ends=False, within_s=0)
"""It did not wait to see."""
