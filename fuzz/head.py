"""`read_request`: a stranger's bytes in; one `Request`, one `Refused`, or None (no head) out.

Whether a head is accepted does not depend on where the network cut it, and a refusal can be
answered in HTTP. What is accepted is short, ASCII, says at most once what must not be said
twice, and is what an independent reading finds; its path, query, route and token can be asked
for, and its ``repr`` shows none of them. What `judge_upgrade` writes in place of a handshake
is a fixed text with a checked key, which wsproto accepts with nothing negotiated. A body is
read whole, up to its limit, or refused.

The input: one byte n, n bytes that say how long the first n pieces are (0 is 256), the bytes
of the connection. What is left after those pieces is one more.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Coroutine
from typing import Any, TypeVar

import h11
import trio
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection
from wsproto.events import Request as Handshake

from fuzz.target import Target, require_plain
from trio_bridge.edge.head import Refused, Request, judge_upgrade, read_request
from trio_bridge.edge.http import read_body, refusal_response, send_response
from trio_bridge.edge.limits import EdgeLimits
from trio_bridge.routes import read_route, shown_token

LIMITS = EdgeLimits(head_bytes=1_000, body_bytes=300, body_pieces=40)
STATUSES = {400, 403, 405, 426, 431, 501, 505}
BODY_STATUSES = {400, 413}
SECRET = "s3cret"
ONCE = (b"host", b"origin", b"authorization", b"sec-websocket-key", b"sec-websocket-version")
LENGTH = b"content-length"
"""The same one twice is one (RFC 9112 §6.3), and h11 makes it one."""
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = re.compile(
    rb"GET / HTTP/1\.1\r\nHost: gate\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    rb"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ([A-Za-z0-9+/]{22}==)\r\n\r\n\Z"
)
T = TypeVar("T")


class Pieces(trio.abc.Stream):
    """A connection that has all its bytes already and then ends; what is written is kept."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.left = list(pieces)
        self.written = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self.left:
            return b""
        piece = self.left.pop(0)
        if max_bytes is not None and len(piece) > max_bytes:
            self.left.insert(0, piece[max_bytes:])
            piece = piece[:max_bytes]
        return piece

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    async def wait_send_all_might_not_block(self) -> None: ...

    async def aclose(self) -> None: ...


def check(data: bytes) -> None:
    """Read ``data`` as a connection's first bytes, whole, as it was cut, and byte by byte.

    Raises:
        AssertionError: the promise in the module's docstring is broken.
    """
    pieces = _pieces(data)
    stream = b"".join(pieces)
    whole = _outcome([stream] if stream else [])
    for cut in (pieces, [stream[i : i + 1] for i in range(len(stream))]):
        other = _outcome(cut)
        assert type(other) is type(whole), "the cuts decide whether it is accepted"
        if isinstance(whole, Request):
            assert other == whole, "the cuts have a meaning"
    if isinstance(whole, Request):
        _judge(stream, whole)
        _judge_upgrade(whole)
        if _announces_body(whole):
            trio.run(_read_body, pieces)


def _pieces(data: bytes) -> list[bytes]:
    count = data[0] if data else 0
    sizes, rest = data[1 : 1 + count], data[1 + count :]
    pieces = []
    for size in sizes:
        pieces.append(rest[: size or 256])
        rest = rest[size or 256 :]
    return [piece for piece in (*pieces, rest) if piece]


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which has nothing to wait for."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        work.close()
    raise AssertionError("it waits for what has come")


def _connection() -> h11.Connection:
    return h11.Connection(h11.SERVER, max_incomplete_event_size=LIMITS.head_bytes)


def _outcome(pieces: list[bytes]) -> Request | Refused | None:
    conn, stream = _connection(), Pieces(pieces)
    try:
        return _at_once(read_request(stream, conn, LIMITS, "192.0.2.1"))
    except Refused as refusal:
        _judge_refusal(conn, refusal, STATUSES)
        return refusal
    except AssertionError:
        raise
    except Exception as exc:
        raise AssertionError(f"{type(exc).__name__} escaped") from exc


def _judge_refusal(conn: h11.Connection, refusal: Refused, statuses: set[int]) -> None:
    assert refusal.status in statuses, refusal.status
    require_plain(refusal.reason)
    if conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    answer = Pieces([])
    method = "HEAD" if refusal.to_head else "GET"
    try:
        _at_once(send_response(answer, conn, refusal_response(refusal), method, last=True))
    except h11.LocalProtocolError as exc:
        raise AssertionError("the refusal cannot be answered") from exc
    assert answer.written.startswith(b"HTTP/1.1 %d " % refusal.status)


def _judge(stream: bytes, request: Request) -> None:
    """Hold what was accepted against the bytes themselves."""
    head = re.match(rb"(?:\r?\n)*(.*?\n)\r?\n", stream, re.DOTALL)
    assert head is not None, "a request without an end was accepted"
    assert len(head[0]) <= LIMITS.head_bytes, "too long a head was accepted"
    first, *rows = head[1].replace(b"\r\n", b"\n").rstrip(b"\n").split(b"\n")
    assert first.startswith(f"{request.method} {request.target} HTTP/1.".encode()), first
    assert request.target.isascii()
    assert request.target.isprintable()
    assert " " not in request.target
    folded = any(row[:1] in (b" ", b"\t") for row in rows)
    names = [row.partition(b":")[0].lower() for row in rows if row[:1] not in (b" ", b"\t")]
    kept = [name for n, name in enumerate(names) if name != LENGTH or name not in names[:n]]
    assert [name for name, _ in request.headers] == kept, "a header was lost or invented"
    for name, value in request.headers:
        assert value.isascii(), "not ASCII"
        assert not re.search(rb"[\0\r\n]", value), "a line break in a header"
        said = head[1].lower() if name == b"transfer-encoding" else head[1]  # as h11 does
        assert folded or value in said, f"{name!r} has another value"
    assert all(names.count(name) <= 1 for name in ONCE), "said twice"
    assert not {LENGTH, b"transfer-encoding"} <= set(names), "two lengths"
    assert SECRET not in repr(request), "a secret is shown"
    route = read_route(request.path)
    if route is not None:
        shown_token(route, request.query, None)
        assert SECRET not in repr(route), "a secret is shown"


def _judge_upgrade(request: Request) -> None:
    if not request.wants_websocket:
        return
    try:
        head = judge_upgrade(request, frozenset({"https://me.example"}))
    except Refused as refusal:
        assert refusal.status in STATUSES  # noqa: PT017 - this is no test
        return
    written = UPGRADE.match(head)
    assert written is not None, "a stranger's bytes are in the head for trio-websocket"
    assert len(base64.b64decode(written[1], validate=True)) == 16
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(head)
    (handshake,) = server.events()
    assert isinstance(handshake, Handshake)
    assert (handshake.extensions, handshake.subprotocols) == ([], [])
    assert server.send(AcceptConnection()).startswith(b"HTTP/1.1 101 ")


def _announces_body(request: Request) -> bool:
    return any(name in (LENGTH, b"transfer-encoding") for name, _ in request.headers)


async def _read_body(pieces: list[bytes]) -> None:
    conn, stream = _connection(), Pieces(pieces)
    request = await read_request(stream, conn, LIMITS, "192.0.2.1")
    assert request is not None
    try:
        request = await read_body(stream, conn, request, LIMITS)
    except Refused as refusal:
        _judge_refusal(conn, refusal, BODY_STATUSES)
        return
    except Exception as exc:
        raise AssertionError(f"{type(exc).__name__} escaped") from exc
    assert len(request.body) <= LIMITS.body_bytes, "too long a body was read"
    length = request.get(b"content-length")
    assert length is None or int(length) == len(request.body), "not all of the body"


def write_case(stream: bytes, sizes: bytes = b"") -> bytes:
    """An input for `check`; the inverse of how it takes one apart."""
    return bytes([len(sizes)]) + sizes + stream


HEADERS = (
    *(b"Host: bridge.example", b"Host: [::1]:80", b"Host: \xff", b"Host: a b", b"host:x"),
    *(b"Upgrade: websocket", b"Upgrade: h2c, WebSocket", b"Upgrade: h2c"),
    *(b"Connection: Upgrade", b"Connection: keep-alive, upgrade", b"Connection: close"),
    *(b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8", b"Sec-WebSocket-Key: " + KEY),
    *(b"Sec-WebSocket-Key: short", b"Sec-WebSocket-Extensions: permessage-deflate"),
    *(b"Sec-WebSocket-Protocol: a, b", b"Origin: https://me.example", b"Origin: null"),
    *(b"Content-Length: 3", b"Content-Length: 3, 3", b"Content-Length: +3"),
    *(b"Content-Length: 999", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip"),
    *(b"Expect: 100-continue", b"Authorization: Bearer s3cret", b"Cookie: a=b", b"X:"),
    *(b" folded", b"\tfolded: x", b"X : y", b": y", b"X: a\0b", b"X: \xc3\xa9", b"X"),
    b"X: " + b"x" * 900,
)
STARTS = (
    *(b"GET /bridge HTTP/1.1", b"GET /b-1/bridge/audio?token=s3cret HTTP/1.1"),
    *(b"GET /t/s3cret/bridge HTTP/1.1", b"GET /%ff%0d%0a%00/bridge?%=&&=;# HTTP/1.1"),
    *(b"GET http://h/bridge HTTP/1.1", b"GET //[/bridge HTTP/1.1", b"GET * HTTP/1.1"),
    *(b"HEAD /health HTTP/1.1", b"POST /hook HTTP/1.1", b"POST /bridge HTTP/1.0"),
    *(
        b"GET / HTTP/2.0",
        b"GET /\xff HTTP/1.1",
        b"GET /",
        b"PRI * HTTP/2.0",
        b"\x16\x03\x01\x02",
    ),
    b"CONNECT x:1 HTTP/1.1",
)
BODIES = (
    *(b"", b"abc", b"abcdef", b"3\r\nabc\r\n0\r\n\r\n", b"1\r\nx\r\n" * 50, b"zz\r\n"),
    *(b"FFFFFFFFFFFFFFFFF\r\n", b"0\r\nX: y\r\n\r\n"),
    b"3;a=b\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n",
)
GOOD = tuple(HEADERS[i] for i in (0, 5, 8, 11, 13))
"""The headers of a handshake."""


def _head(start: bytes, headers: list[bytes], end: bytes, body: bytes) -> bytes:
    return end.join([start, *headers, b"", b""]) + body


_headers = st.lists(st.sampled_from(HEADERS) | st.binary(max_size=6), max_size=6) | st.lists(
    st.sampled_from(HEADERS), max_size=3
).map(lambda more: [*GOOD, *more])
messages = st.builds(
    lambda head, sizes: write_case(head, sizes),
    st.builds(
        _head,
        st.sampled_from(STARTS) | st.binary(max_size=8),
        _headers,
        st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"]),
        st.sampled_from(BODIES),
    ),
    st.lists(st.integers(0, 255), max_size=8).map(bytes),
)

TARGET = Target(
    "head",
    check,
    messages,
    (*(header + b"\r\n" for header in HEADERS if len(header) < 60), *STARTS, b"\r\n\r\n"),
)
