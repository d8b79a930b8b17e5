"""The request head: read under a cap, judged, and rewritten before trio-websocket may see it.

wsproto decodes ``Host`` as IDNA and list headers as ASCII and catches nothing that raises, so
none of the peer's bytes reach it but a checked key. Deadlines are the caller's.
"""

from __future__ import annotations

import base64
import binascii
import re
import urllib.parse

import attrs
import h11
import trio

from trio_bridge.edge.limits import EdgeLimits
from trio_bridge.errors import BridgeError

_HOST = re.compile(rb"[A-Za-z0-9._:\[\]-]{1,255}\Z")
_ABSOLUTE_TARGET = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
_ONCE = (b"host", b"origin", b"authorization", b"sec-websocket-key", b"sec-websocket-version")
"""A second one of these is an attempt to be read differently by two servers in a row."""
_HEAD_READ_BYTES = 4096

HeaderLines = tuple[tuple[str, str], ...]


class Refused(BridgeError):
    """A request, answered with plain HTTP ``status`` and ``reason`` and goes no further."""

    def __init__(self, status: int, reason: str, headers: HeaderLines = ()) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.headers = headers
        self.to_head = False
        """The request was a HEAD: its answer has no body, and h11 raises at one."""

    def __str__(self) -> str:
        return f"{self.status} {self.reason}"


@attrs.define
class Request:
    """One HTTP request. Its ``repr`` shows nothing a token could be in."""

    method: str
    target: str = attrs.field(repr=False)
    """As sent: printable ASCII, beginning with ``/`` or ``http://host``."""
    headers: tuple[tuple[bytes, bytes], ...] = attrs.field(repr=False)
    """Names in lower case; values are ASCII."""
    peer: str
    """IP address, or ``?`` when it is not known."""
    body: bytes = attrs.field(default=b"", repr=False)
    adopted: bool = attrs.field(default=False, eq=False)
    """Its connection came from another process of ours, which sent it here."""

    @property
    def path(self) -> str:
        """The target's path, percent-decoded (what is not UTF-8 becomes U+FFFD), no query."""
        return urllib.parse.unquote(self._local_target.partition("?")[0] or "/")

    @property
    def query(self) -> dict[str, str]:
        """The query's fields, decoded; of a repeated one the first."""
        fields: dict[str, str] = {}
        query = self._local_target.partition("?")[2]
        for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
            fields.setdefault(name, value)
        return fields

    def get(self, name: bytes) -> bytes | None:
        """Return the header ``name`` (lower case); None unless it is there exactly once."""
        values = [value for key, value in self.headers if key == name]
        return values[0] if len(values) == 1 else None

    def tokens(self, name: bytes) -> list[bytes]:
        """Return the items of a comma-separated header, in lower case."""
        return [
            token.strip().lower()
            for key, value in self.headers
            if key == name
            for token in value.split(b",")
        ]

    def forget(self) -> None:
        """Drop what was shown to be let in, which is a secret maybe and 1.5 KiB."""
        self.target, self.headers = "/", ()

    @property
    def wants_websocket(self) -> bool:
        return b"websocket" in self.tokens(b"upgrade")

    @property
    def _local_target(self) -> str:
        return _ABSOLUTE_TARGET.sub("", self.target.partition("#")[0], count=1)


async def read_request(
    stream: trio.abc.Stream, conn: h11.Connection, limits: EdgeLimits, peer: str
) -> Request | None:
    """Read the next head of ``conn``; None at a clean end of the stream. The body stays unread.

    Raises:
        Refused: not HTTP/1, too large, or ambiguous. ``conn`` can still send an answer.
    """
    got = len(conn.trailing_data[0])
    try:
        while (event := conn.next_event()) is h11.NEED_DATA:
            data = bytes(await stream.receive_some(_HEAD_READ_BYTES))
            got += len(data)
            conn.receive_data(data)
    except h11.RemoteProtocolError as exc:
        status = exc.error_status_hint if exc.error_status_hint in (431, 501) else 400
        raise Refused(status, "bad request") from exc
    if not isinstance(event, h11.Request):
        return None
    try:
        # h11 looks at its limit only while the head is incomplete.
        if got - len(conn.trailing_data[0]) > limits.head_bytes:
            raise Refused(431, "head too large")  # noqa: TRY301 - one place for all refusals
        _judge(event)
    except Refused as refusal:
        refusal.to_head = event.method == b"HEAD"
        raise
    return Request(
        event.method.decode("ascii"), event.target.decode("ascii"), tuple(event.headers), peer
    )


def judge_upgrade(request: Request, allowed_origins: frozenset[str]) -> bytes:
    """Return the head that trio-websocket gets in place of the peer's.

    Offers no extension, so per-message deflate is never negotiated.

    Raises:
        Refused: not a WebSocket handshake (RFC 6455 §4.2.1), or from a foreign web page.
    """
    if request.method != "GET":
        refusal = Refused(405, "GET only", (("allow", "GET"),))
        refusal.to_head = request.method == "HEAD"
        raise refusal
    if any(name in (b"content-length", b"transfer-encoding") for name, _ in request.headers):
        raise Refused(400, "a handshake has no body")
    if b"upgrade" not in request.tokens(b"connection"):
        raise Refused(400, "Connection must be Upgrade")
    if request.get(b"sec-websocket-version") != b"13":
        raise Refused(426, "version 13 only", (("sec-websocket-version", "13"),))
    key = request.get(b"sec-websocket-key")
    if key is None or not _is_key(key):
        raise Refused(400, "bad Sec-WebSocket-Key")
    origin = request.get(b"origin")
    if origin is not None and origin.decode("ascii") not in allowed_origins:
        raise Refused(403, "origin not allowed")
    return (
        b"GET / HTTP/1.1\r\nHost: gate\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
    )


def _judge(event: h11.Request) -> None:
    """Refuse what h11 lets pass and the rest of the edge, or a proxy, could misread."""
    names = [name for name, _ in event.headers]
    values = dict(event.headers)
    if event.http_version not in (b"1.0", b"1.1"):
        raise Refused(505, "HTTP/1.x only")
    if not all(value.isascii() for _, value in event.headers):
        raise Refused(400, "header is not ASCII")
    if any(names.count(name) > 1 for name in _ONCE):
        raise Refused(400, "repeated header")
    host = values.get(b"host")
    if host is not None and not _HOST.match(host):
        raise Refused(400, "bad Host")
    if b"transfer-encoding" in names and b"content-length" in names:
        raise Refused(400, "two body lengths")
    if event.method in (b"GET", b"HEAD") and (
        b"transfer-encoding" in names or values.get(b"content-length", b"0") != b"0"
    ):
        raise Refused(400, "GET has no body")
    target = event.target.decode("ascii")
    if not target.startswith("/") and not _ABSOLUTE_TARGET.match(target):
        raise Refused(400, "bad target")
    if event.http_version == b"1.0" and b"upgrade" in names:
        raise Refused(400, "HTTP/1.0 cannot upgrade")


def _is_key(key: bytes) -> bool:
    try:
        return len(key) == 24 and len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False
