"""RFC 6455 case by case, as the Autobahn suite goes through it, against the whole edge.

Every case is held on a connection in memory, where messages go to the application by
`Socket.receive` or by callbacks, and on a real one, which the hub reads.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Literal

import attrs
import pytest
import trio
from trio.testing import MockClock

from trio_bridge.edge import EdgeLimits, Socket
from trio_bridge.errors import SocketClosedError

from .peers import (
    BINARY,
    CLOSE,
    KEY,
    PING,
    PONG,
    TEXT,
    App,
    Peer,
    close_payload,
    frame,
    head,
    in_memory,
    on_loopback,
)

MESSAGE_BYTES = 1 << 20
LIMITS = EdgeLimits(linger_s=0.2)
BYE = frame(CLOSE, close_payload(1000, b"end"))
Way = Literal["receive", "callbacks", "hub"]


@attrs.frozen
class Case:
    """What a client sends after its hello, and what must come of it."""

    id: str
    sent: tuple[bytes, ...]
    """In writes of their own."""
    heard: tuple[str | bytes, ...] = ()
    """Messages that reach the application."""
    pongs: tuple[bytes, ...] = ()
    close: int = 1000
    """The code of the server's Close. What is not closed before is by us, with 1000."""


class Recorder(App):
    """Takes every message, one way or the other."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.way = way

    async def on_socket(self, socket: Socket) -> None:
        assert await socket.receive() == "hello"
        heard = None if self.way == "receive" else self.messages.append
        socket.arm(max_message_bytes=MESSAGE_BYTES, on_audio=heard, on_text=heard)
        with suppress(SocketClosedError):
            while True:
                self.messages.append(await socket.receive())


@asynccontextmanager
async def connected(app: App) -> AsyncIterator[Peer]:
    edge = app.edge(LIMITS)
    if isinstance(app, Recorder) and app.way == "hub":
        async with on_loopback(edge) as net:
            yield await net.dial()
    else:
        async with in_memory(edge) as peer:
            yield peer


async def hold(case: Case, way: Way) -> None:
    app = Recorder(way)
    pongs: list[bytes] = []
    sent = trio.Event()

    async def send() -> None:
        with suppress(trio.BrokenResourceError):  # a violation may end it before the last byte
            for piece in (*case.sent, BYE):
                await peer.send(piece)
        sent.set()

    async with connected(app) as peer, trio.open_nursery() as nursery:
        await peer.upgrade(head() + frame(TEXT, b"hello"))
        nursery.start_soon(send)
        while True:
            opcode, payload = await peer.read()
            if opcode == CLOSE:
                break
            assert opcode == PONG, "the server says nothing but pongs"
            pongs.append(payload)
        await sent.wait()
        with suppress(trio.BrokenResourceError):  # it answered ours, and is gone
            await peer.send(frame(CLOSE, payload))
        assert await peer.at_end()
    assert int.from_bytes(payload[:2], "big") == case.close
    assert app.messages == list(case.heard)
    assert pongs == list(case.pongs)


def chopped(data: bytes, size: int) -> tuple[bytes, ...]:
    return tuple(data[i : i + size] for i in range(0, len(data), size))


def in_fragments(opcode: int, pieces: Iterable[bytes]) -> bytes:
    *first, last = pieces
    frames = [frame(0 if n else opcode, piece, fin=False) for n, piece in enumerate(first)]
    return b"".join([*frames, frame(0 if first else opcode, last)])


def singly(payload: bytes) -> list[bytes]:
    return [payload[i : i + 1] for i in range(len(payload))] or [b""]


# -- sizes -----------------------------------------------------------------------------------

SIZES = (0, 1, 2, 7, 125, 126, 127, 128, 1000, 65_535, 65_536, 65_537, 1_000_000, 1 << 20)
CHOPS = (1, 3, 997, 1460, 65_536)


def _sizes() -> list[Case]:
    cases = []
    for size in SIZES:
        text, data = "*" * size, bytes(range(256)) * (size // 256 + 1)
        data = data[:size]
        both = frame(TEXT, text.encode()) + frame(BINARY, data)
        cases.append(Case(f"size {size}", (both,), (text, data)))
        for chop in CHOPS:
            if len(both) // 200 <= chop < len(both):
                pieces = chopped(both, chop)
                cases.append(Case(f"size {size} in writes of {chop}", pieces, (text, data)))
        half = size // 2
        halves = in_fragments(TEXT, [text[:half].encode(), text[half:].encode()])
        halves += in_fragments(BINARY, [data[:half], data[half:]])
        cases.append(Case(f"size {size} in two fragments", (halves,), (text, data)))
    for opcode in (TEXT, BINARY):
        over = frame(opcode, bytes(MESSAGE_BYTES + 1))
        cases.append(Case(f"opcode {opcode} over the limit", (over,), close=1009))
        cases.append(Case(f"opcode {opcode} over it by its header", (over[:10],), close=1009))
        parts = frame(opcode, bytes(MESSAGE_BYTES), fin=False) + frame(0, b"x")
        cases.append(Case(f"opcode {opcode} over it in fragments", (parts,), close=1009))
    unmasked_key = frame(BINARY, b"zero mask", mask=bytes(4))
    cases.append(Case("a mask of zeros", (unmasked_key,), (b"zero mask",)))
    many = b"".join(frame(TEXT, str(n).encode()) for n in range(300))
    cases.append(Case("300 messages at once", (many,), tuple(map(str, range(300)))))
    return cases


# -- pings -----------------------------------------------------------------------------------


def _pings() -> list[Case]:
    return [
        *(
            Case(f"ping of {size} bytes", (frame(PING, bytes(size)),), pongs=(bytes(size),))
            for size in (0, 1, 8, 124, 125)
        ),
        Case(
            "ping of bytes that are no text",
            (frame(PING, b"\0\xff\xfe"),),
            pongs=(b"\0\xff\xfe",),
        ),
        Case("ping of 126 bytes", (frame(PING, bytes(126)),), close=1002),
        Case("pong of 126 bytes", (frame(PONG, bytes(126)),), close=1002),
        Case("ping byte by byte", tuple(singly(frame(PING, b"slow"))), pongs=(b"slow",)),
        Case("pong that nobody asked for", (frame(PONG), frame(PONG, b"x")), ()),
        Case(
            "pong that nobody asked for and a ping",
            (frame(PONG, b"x") + frame(PING, b"y"),),
            pongs=(b"y",),
        ),
        Case(
            "20 pings at once",
            (b"".join(frame(PING, bytes([n])) for n in range(20)),),
            pongs=tuple(bytes([n]) for n in range(20)),
        ),
        Case(
            "21 pings at once",
            (b"".join(frame(PING, bytes([n])) for n in range(21)),),
            pongs=tuple(bytes([n]) for n in range(20)),
            close=1008,
        ),
        Case(
            "a ping between two messages",
            (frame(TEXT, b"a") + frame(PING, b"p") + frame(BINARY, b"b"),),
            ("a", b"b"),
            (b"p",),
        ),
    ]


# -- reserved bits and opcodes ---------------------------------------------------------------


def _reserved() -> list[Case]:
    cases = []
    for bits in range(1, 8):
        for opcode in (TEXT, BINARY, PING, CLOSE):
            bad = frame(opcode | bits << 4, b"")
            good = frame(TEXT, b"before")
            cases.append(
                Case(
                    f"reserved bits {bits:03b}, opcode {opcode}",
                    (good + bad,),
                    ("before",),
                    close=1002,
                )
            )
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        for payload in (b"", b"payload"):
            bad = frame(TEXT, b"before") + frame(opcode, payload) + frame(PING)
            cases.append(
                Case(f"opcode {opcode}, {len(payload)} bytes", (bad,), ("before",), close=1002)
            )
        pieces = tuple(singly(frame(opcode, b"x")))
        cases.append(Case(f"opcode {opcode} byte by byte", pieces, close=1002))
    for opcode in (TEXT, BINARY, PING, CLOSE):
        cases.append(
            Case(f"no mask, opcode {opcode}", (bytes([0x80 | opcode, 0]),), close=1002)
        )
    for name, data in {
        "125 in two bytes": b"\x82\xfe\x00\x7d",
        "0 in two bytes": b"\x82\xfe\x00\x00",
        "65535 in eight bytes": b"\x82\xff" + (65_535).to_bytes(8, "big"),
        "0 in eight bytes": b"\x82\xff" + bytes(8),
        "the top bit": b"\x82\xff\x80" + bytes(7),
    }.items():
        cases.append(Case(f"length: {name}", (data,), close=1002))
    return cases


# -- fragments -------------------------------------------------------------------------------


def _fragments() -> list[Case]:
    first, middle, last = (
        frame(TEXT, b"a", fin=False),
        frame(0, b"b", fin=False),
        frame(0, b"c"),
    )
    whole = first + middle + last
    ping, pong = frame(PING, b"p"), frame(PONG, b"q")
    return [
        Case("three fragments", (whole,), ("abc",)),
        Case("three fragments, a write each", (first, middle, last), ("abc",)),
        Case("three fragments byte by byte", tuple(singly(whole)), ("abc",)),
        Case("three binary fragments", (in_fragments(BINARY, [b"a", b"", b"c"]),), (b"ac",)),
        Case("64 fragments", (in_fragments(TEXT, [b"x"] * 64),), ("x" * 64,)),
        Case("65 fragments", (in_fragments(TEXT, [b"x"] * 65),), close=1008),
        Case("64 empty fragments", (in_fragments(BINARY, [b""] * 64),), (b"",)),
        Case("65 empty fragments", (in_fragments(BINARY, [b""] * 65),), close=1008),
        Case("a ping between fragments", (first + ping + middle + last,), ("abc",), (b"p",)),
        Case("a pong between fragments", (first + pong + middle + last,), ("abc",)),
        Case(
            "pings between all fragments",
            (ping + first + ping + middle + ping + last + ping,),
            ("abc",),
            (b"p",) * 4,
        ),
        Case("a Close between fragments", (first + BYE + last,)),
        Case(
            "two fragmented messages",
            (whole + in_fragments(BINARY, [b"1", b"2"]),),
            ("abc", b"12"),
        ),
        Case(
            "fragments, then whole ones",
            (whole + frame(TEXT, b"d") + frame(BINARY, b"e"),),
            ("abc", "d", b"e"),
        ),
        Case(
            "a ping in fragments", (frame(PING, b"a", fin=False) + frame(0, b"b"),), close=1002
        ),
        Case(
            "a pong in fragments", (frame(PONG, b"a", fin=False) + frame(0, b"b"),), close=1002
        ),
        Case(
            "a Close in fragments",
            (frame(CLOSE, b"\x03", fin=False) + frame(0, b"\xe8"),),
            close=1002,
        ),
        Case("a continuation of nothing", (last,), close=1002),
        Case("an unfinished continuation of nothing", (middle,), close=1002),
        Case(
            "a continuation after a whole message",
            (frame(TEXT, b"a") + last,),
            ("a",),
            close=1002,
        ),
        Case("a continuation after a finished one", (whole + last,), ("abc",), close=1002),
        Case("a text within a text", (first + frame(TEXT, b"b"),), close=1002),
        Case("a binary within a text", (first + frame(BINARY, b"b"),), close=1002),
        Case("a beginning within a text", (first + first,), close=1002),
        Case("a reserved bit in a continuation", (first + frame(0x40, b"b"),), close=1002),
        Case("an unknown opcode between fragments", (first + frame(3),), close=1002),
    ]


# -- UTF-8 -----------------------------------------------------------------------------------

VALID = (
    *("κόσμε", "Hello-µ@ßöäüàá-UTF-8!!", "ascii", "𝄞 and \U0001f600", "e\u0301", "\ufeffmark"),
    *("\0", "\x7f", "\x80", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\ufffd", "\ufffe"),
    *("\uffff", "\U00010000", "\U0001fffe", "\U0010fffe", "\U0010ffff"),
)
INVALID = (
    *("80", "bf", "80bf80bf80bf80bf", "fe", "ff", "fefeffff"),
    *(
        f"{start:02x}20"
        for start in (0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xEF, 0xF0, 0xF4, 0xF5, 0xFD)
    ),
    *("c3", "e282", "f09f98", "e28220", "f09f9820", "f8888080", "fbbfbfbf", "fc84808080"),
    *("c0af", "e080af", "f08080af", "f8808080af", "fc80808080af"),  # a slash too long
    *("c1bf", "e09fbf", "f08fbfbf", "f887bfbfbf", "fc83bfbfbfbf"),
    *("c080", "e08080", "f0808080", "f880808080", "fc8080808080"),  # NUL too long
    *("eda080", "edadbf", "edae80", "edafbf", "edb080", "edbe80", "edbfbf"),  # surrogates
    *("eda080edb080", "edafbfedbfbf"),
    *("f4908080", "f5808080", "f7bfbfbf", "f888808080", "fc8480808080"),  # above U+10FFFF
    "cebae1bdb9cf83cebcceb5eda080656469746564",
)


def _utf8() -> list[Case]:
    cases = []
    for text in VALID:
        data, name = text.encode(), ascii(text)[1:-1]
        cases += [
            Case(f"UTF-8 {name}", (frame(TEXT, data),), (text,)),
            Case(
                f"UTF-8 {name} in fragments of a byte",
                (in_fragments(TEXT, singly(data)),),
                (text,),
            ),
            Case(f"UTF-8 {name} byte by byte", tuple(singly(frame(TEXT, data))), (text,)),
            Case(
                f"UTF-8 {name} with a ping in each character",
                (frame(PING).join(singly_framed(data)),),
                (text,),
                (b"",) * max(0, len(data) - 1),
            )
            if len(data) <= 20
            else Case(f"UTF-8 {name} twice", (frame(TEXT, data) * 2,), (text, text)),
        ]
    for digits in INVALID:
        data = bytes.fromhex(digits)
        cases += [
            Case(f"bad UTF-8 {digits}", (frame(TEXT, data),), close=1007),
            Case(
                f"bad UTF-8 {digits} behind good",
                (frame(TEXT, b"good") + frame(TEXT, "ä".encode() + data),),
                ("good",),
                close=1007,
            ),
            Case(
                f"bad UTF-8 {digits} in fragments",
                (in_fragments(TEXT, singly(data)),),
                close=1007,
            ),
            Case(f"bytes {digits} in a binary message", (frame(BINARY, data),), (data,)),
        ]
        if digits not in ("c3", "e282", "f09f98"):  # those could still become good
            cases.append(
                Case(
                    f"bad UTF-8 {digits} in a message without end",
                    (frame(TEXT, data, fin=False),),
                    close=1007,
                )
            )
    return cases


def singly_framed(data: bytes) -> list[bytes]:
    pieces = singly(data)
    last = len(pieces) - 1
    return [frame(0 if n else TEXT, piece, fin=n == last) for n, piece in enumerate(pieces)]


# -- the closing handshake -------------------------------------------------------------------


def _closes() -> list[Case]:
    def close(payload: bytes) -> bytes:
        return frame(CLOSE, payload)

    talk = frame(TEXT, b"too late") + frame(PING, b"too late") + frame(BINARY, b"too late")
    return [
        *(
            Case(f"Close {code}", (close(close_payload(code)),), close=code)
            for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013)
        ),
        *(
            Case(f"Close {code}", (close(close_payload(code)),), close=code)
            for code in (3000, 3999, 4000, 4999)
        ),
        *(
            Case(f"Close {code} may not be sent", (close(close_payload(code)),), close=1002)
            for code in (
                0,
                1,
                999,
                1004,
                1005,
                1006,
                1015,
                1016,
                1100,
                2000,
                2999,
                5000,
                65_535,
            )
        ),
        Case("Close without a payload", (close(b""),), close=0),
        Case("Close of one byte", (close(b"\x03"),), close=1002),
        Case("Close with a reason", (close(close_payload(1000, "grüß".encode())),)),
        Case("Close with the longest reason", (close(close_payload(1000, b"x" * 123)),)),
        Case(
            "Close with a reason too long",
            (close(close_payload(1000, b"x" * 124)),),
            close=1002,
        ),
        Case(
            "Close with a bad reason",
            (close(close_payload(1000, b"\xce\xba\xe1\xff")),),
            close=1007,
        ),
        Case("Close with half a character", (close(close_payload(1000, b"\xc3")),), close=1007),
        Case(
            "Close with a surrogate", (close(close_payload(1000, b"\xed\xa0\x80")),), close=1007
        ),
        Case(
            "Close byte by byte", tuple(singly(close(close_payload(4001, b"bye")))), close=4001
        ),
        Case(
            "Close twice",
            (close(close_payload(4001)) + close(close_payload(4002)),),
            close=4001,
        ),
        Case(
            "messages after the Close",
            (frame(TEXT, b"in time") + close(close_payload(4001)) + talk,),
            ("in time",),
            close=4001,
        ),
        Case(
            "nonsense after the Close", (close(close_payload(4001)) + b"\xff" * 50,), close=4001
        ),
    ]


CASES = (*_sizes(), *_pings(), *_reserved(), *_fragments(), *_utf8(), *_closes())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_frames_are_read_as_the_rfc_says(case: Case, autojump_clock: MockClock) -> None:
    await hold(case, "receive")
    await hold(case, "callbacks")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_frames_are_read_so_from_a_real_socket_too(case: Case) -> None:
    await hold(case, "hub")


def test_each_case_has_a_name_of_its_own() -> None:
    assert len({case.id for case in CASES}) == len(CASES)


# -- the opening handshake -------------------------------------------------------------------


def lines(**changed: str | None) -> bytes:
    """The handshake of the RFC with some headers (``_`` for ``-``) changed or left out."""
    headers: dict[str, str | None] = {
        "Host": "server.example.com",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec_WebSocket_Key": KEY.decode(),
        "Sec_WebSocket_Version": "13",
        **changed,
    }
    rows = [f"{k.replace('_', '-')}: {v}" for k, v in headers.items() if v is not None]
    return "\r\n".join(["GET /chat HTTP/1.1", *rows, "", ""]).encode()


def keyed(size: int) -> str:
    return base64.b64encode(bytes(size)).decode()


ACCEPTED = {
    "as in the RFC": lines(),
    "names in lower case": lines()
    .lower()
    .replace(KEY.lower(), KEY)
    .replace(b"get", b"GET", 1)
    .replace(b"http/1.1", b"HTTP/1.1"),
    "names in upper case": lines().replace(b"Upgrade:", b"UPGRADE:").replace(b"Host", b"HOST"),
    "Upgrade: WebSocket": lines(Upgrade="WebSocket"),
    "Upgrade: WEBSOCKET": lines(Upgrade="WEBSOCKET"),
    "Upgrade: a list": lines(Upgrade="h2c, websocket"),
    "Connection: upgrade": lines(Connection="upgrade"),
    "Connection: keep-alive, Upgrade": lines(Connection="keep-alive, Upgrade"),
    "Connection: a list without spaces": lines(Connection="x,Upgrade,y"),
    "Connection twice": lines(Connection="keep-alive\r\nConnection: Upgrade"),
    "spaces around values": lines(Upgrade="  websocket\t ", Sec_WebSocket_Version="\t13  "),
    "a host with a port": lines(Host="server.example.com:8080"),
    "an IPv6 host": lines(Host="[::1]:80"),
    "a subprotocol": lines(Sec_WebSocket_Protocol="chat, superchat"),
    "an unknown extension": lines(Sec_WebSocket_Extensions="x-none; a=1"),
    "per-message deflate": lines(Sec_WebSocket_Extensions="permessage-deflate"),
    "deflate with parameters": lines(
        Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits; x=1, mux; a=b"
    ),
    "an extension that is no extension": lines(Sec_WebSocket_Extensions=",;=,"),
    "an unknown header": lines(X_Anything="yes"),
    "a header without a value": lines(X_Anything=""),
    "a cookie": lines(Cookie="a=b; c=d"),
    "a whole address for a target": lines().replace(
        b"/chat", b"http://server.example.com/chat"
    ),
    "a query": lines().replace(b"/chat", b"/chat?a=b&c"),
}
REFUSED = {
    "no Host": (lines(Host=None), 400),
    "an empty Host": (lines(Host=""), 400),
    "no Connection": (lines(Connection=None), 400),
    "Connection: keep-alive": (lines(Connection="keep-alive"), 400),
    "Connection: upgraded": (lines(Connection="upgraded"), 400),
    "no key": (lines(Sec_WebSocket_Key=None), 400),
    "an empty key": (lines(Sec_WebSocket_Key=""), 400),
    "a key of 15 bytes": (lines(Sec_WebSocket_Key=keyed(15)), 400),
    "a key of 17 bytes": (lines(Sec_WebSocket_Key=keyed(17)), 400),
    "a key of 32 bytes": (lines(Sec_WebSocket_Key=keyed(32)), 400),
    "a key without its end": (lines(Sec_WebSocket_Key=keyed(16).rstrip("=")), 400),
    "a key of the other alphabet": (lines(Sec_WebSocket_Key="_" * 22 + "=="), 400),
    "a key with a space": (lines(Sec_WebSocket_Key=f"AAAA AAAA{'A' * 13}=="), 400),
    "two keys in one line": (lines(Sec_WebSocket_Key=f"{keyed(16)}, {keyed(16)}"), 400),
    "two keys": (
        lines(Sec_WebSocket_Key=f"{keyed(16)}\r\nSec-WebSocket-Key: {keyed(16)}"),
        400,
    ),
    **{
        f"version {version or 'empty'}": (lines(Sec_WebSocket_Version=version), 426)
        for version in ("", "0", "7", "8", "12", "14", "25", "013", "13.0", "13, 8", "x")
    },
    "no version": (lines(Sec_WebSocket_Version=None), 426),
    "two versions": (lines(Sec_WebSocket_Version="13\r\nSec-WebSocket-Version: 8"), 400),
    "POST": (lines().replace(b"GET", b"POST"), 405),
    "HEAD": (lines().replace(b"GET", b"HEAD"), 405),
    "OPTIONS": (lines().replace(b"GET", b"OPTIONS"), 405),
    "HTTP/1.0": (lines().replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
    "HTTP/2.0": (lines().replace(b"HTTP/1.1", b"HTTP/2.0"), 505),
    "HTTP/1.1 in lower case": (lines().replace(b"HTTP/1.1", b"http/1.1"), 400),
    "an Origin that is not listed": (lines(Origin="http://example.com"), 403),
    "a body": (lines(Content_Length="1") + b"x", 400),
    "a chunked body": (lines(Transfer_Encoding="chunked") + b"0\r\n\r\n", 400),
}
PLAIN = {
    "no Upgrade": lines(Upgrade=None),
    "Upgrade: h2c": lines(Upgrade="h2c"),
    "Upgrade: websockets": lines(Upgrade="websockets"),
}


@pytest.mark.parametrize("request_head", ACCEPTED.values(), ids=ACCEPTED)
async def test_a_handshake_that_the_rfc_allows_is_accepted_with_nothing_negotiated(
    request_head: bytes, autojump_clock: MockClock
) -> None:
    async with connected(App()) as peer:
        await peer.send(request_head)
        status, headers, _ = await peer.answer()
        assert status == 101
        assert headers[b"upgrade"].lower() == b"websocket"
        assert headers[b"connection"].lower() == b"upgrade"
        assert headers[b"sec-websocket-accept"] == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert b"sec-websocket-extensions" not in headers
        assert b"sec-websocket-protocol" not in headers


@pytest.mark.parametrize("filling", [b"\0", b"\x01", b"\xff", b"a"])
async def test_the_accept_value_is_computed_from_the_key(
    filling: bytes, autojump_clock: MockClock
) -> None:
    key = base64.b64encode(filling * 16)
    guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    async with connected(App()) as peer:
        await peer.send(head(key=key))
        _, headers, _ = await peer.answer()
    digest = hashlib.sha1(key + guid).digest()
    assert headers[b"sec-websocket-accept"] == base64.b64encode(digest)


@pytest.mark.parametrize(("request_head", "expected"), REFUSED.values(), ids=REFUSED)
async def test_a_handshake_that_breaks_the_rfc_is_refused_with_its_status(
    request_head: bytes, expected: int, autojump_clock: MockClock
) -> None:
    async with connected(App()) as peer:
        await peer.send(request_head)
        status, headers, _ = await peer.answer(bodiless=request_head.startswith(b"HEAD"))
        assert status == expected
        assert b"sec-websocket-accept" not in headers
        if status == 426:
            assert headers[b"sec-websocket-version"] == b"13"


@pytest.mark.parametrize("request_head", PLAIN.values(), ids=PLAIN)
async def test_what_asks_for_no_websocket_is_answered_as_http(
    request_head: bytes, autojump_clock: MockClock
) -> None:
    async with connected(App()) as peer:
        await peer.send(request_head)
        assert (await peer.answer())[0] == 200
