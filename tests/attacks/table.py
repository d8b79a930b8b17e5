"""What one client can do to the bridge, and what it must get for it.

Each of these ended, starved or leaked in a server that uses trio-websocket plainly, or is what
a scanner of the internet sends, or breaks a rule of RFC 9110, RFC 6455 or our own.
"""

from __future__ import annotations

import json
import struct

import attrs

from tests.attacks.client import (
    NOTHING,
    Attack,
    Do,
    Drip,
    Expected,
    Step,
    Wait,
    audio,
    closed,
    control,
    cut,
    hello,
    plain,
    refused,
    served,
    speech,
    upgraded,
)
from tests.edge.peers import BINARY, CLOSE, KEY, PING, PONG, TEXT, close_payload, frame, head

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /hook HTTP/1.1\r\nHost: x\r\n"
ALIVE = frame(PING, b"alive?")
PONG_ALIVE = bytes([0x80 | PONG, 6]) + b"alive?"
STILL_SERVED = served(PONG_ALIVE)
AFTER_MUCH = attrs.evolve(STILL_SERVED, within_s=20)
"""A message that is not audio is read in a turn of its own: with many at work it takes long."""
ACK = b'"ack"'
BAR = b"\xc3"
"""The first half of an e with an accent."""


def without(name: bytes) -> bytes:
    lines = [line for line in head().split(b"\r\n") if not line.startswith(name + b":")]
    return b"\r\n".join(lines)


def swapped(old: bytes, new: bytes) -> bytes:
    assert old in head()
    return head().replace(old, new)


def text(message: str) -> bytes:
    return plain(TEXT, message.encode())


def said(**fields: object) -> bytes:
    return text(json.dumps(fields))


def chat(words: str) -> bytes:
    return said(command="usermsg", message=words)


def _requests() -> list[Attack]:
    bad_request = refused(400)
    rows: list[tuple[str, bytes, Expected]] = [
        ("Host with byte ff", swapped(b"bridge.example", b"\xff"), bad_request),
        ("Host with a space", swapped(b"bridge.example", b"a b"), bad_request),
        ("Host of 256 characters", swapped(b"bridge.example", b"x" * 256), bad_request),
        ("Host with userinfo", swapped(b"bridge.example", b"me@x"), bad_request),
        ("no Host", without(b"Host"), bad_request),
        ("two Hosts", head(b"Host: other"), bad_request),
        ("space before the colon", head(b"Origin : x"), bad_request),
        ("obs-text in a header", head(b"X-Name: \xe9"), bad_request),
        ("obs-text in the extensions", head(b"Sec-WebSocket-Extensions: \xff"), bad_request),
        ("obs-text in the protocols", head(b"Sec-WebSocket-Protocol: \xff"), bad_request),
        ("obs-text in the key", head(key=b"\xff" * 24), bad_request),
        ("NUL in a header", head(b"X: a\0b"), bad_request),
        ("bare CR in a header", head(b"X: a\rY: b"), bad_request),
        ("header without a colon", head(b"nonsense"), bad_request),
        ("no key", without(b"Sec-WebSocket-Key"), bad_request),
        ("two keys", head(b"Sec-WebSocket-Key: " + KEY), bad_request),
        ("short key", head(key=b"c2hvcnQ="), bad_request),
        ("key that is no base64", head(key=b"!" * 24), bad_request),
        ("version 8", swapped(b"Version: 13", b"Version: 8"), refused(426)),
        ("no version", without(b"Sec-WebSocket-Version"), refused(426)),
        ("version 13 twice", head(b"Sec-WebSocket-Version: 13"), bad_request),
        ("Connection: close", swapped(b"Connection: Upgrade", b"Connection: close"),
         bad_request),
        ("POST for a WebSocket", swapped(b"GET", b"POST"), refused(405)),
        ("HEAD for a WebSocket", swapped(b"GET", b"HEAD"), refused(405)),
        ("HEAD with a bad Host", b"HEAD / HTTP/1.1\r\nHost: \xff\r\n\r\n", bad_request),
        ("upgrade with a body", head(b"Content-Length: 5") + b"12345", bad_request),
        ("HTTP/1.0 upgrade", swapped(b"HTTP/1.1", b"HTTP/1.0"), bad_request),
        ("foreign Origin", head(b"Origin: https://evil.example"), refused(403)),
        ("two Origins", head(b"Origin: null", b"Origin: null"), bad_request),
        ("another path", head(target=b"/admin"), refused(404)),
        ("line break in the path", head(target=b"/bridge%0d%0aX:1"), refused(404)),
        ("climbing path", head(target=b"/a/../../etc/passwd/bridge"), refused(404)),
        ("head of one long line", head(b"X: " + b"x" * (16 << 10)), refused(431)),
        ("head of many lines", head(*[b"X: y"] * 4000), refused(431)),
        ("head without an end", b"GET /" + b"a" * 100_000, refused(431)),
        ("head of line feeds", b"\r\n" * 50_000, bad_request),
        ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), refused(505)),
        ("HTTP/0.9", b"GET /\r\n\r\n", bad_request),
        ("proxy request", b"CONNECT x.example:443 HTTP/1.1\r\nHost: x\r\n\r\n", bad_request),
        ("TLS hello to a cleartext port",
         b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), bad_request),
        ("SSH banner", b"SSH-2.0-OpenSSH_9.6\r\n\r\n", bad_request),
        ("an answer for a request", b"HTTP/1.1 200 OK\r\n\r\n", bad_request),
        ("two body lengths", POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
         b"0\r\n\r\nGET /x HTTP/1.1\r\nHost: x\r\n\r\n", bad_request),
        ("two different lengths", POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
         bad_request),
        ("length with a sign", POST + b"Content-Length: +4\r\n\r\nabcd", bad_request),
        ("length of 400 digits", POST + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n",
         bad_request),
        ("length of 5000 digits", POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
         bad_request),
        ("chunked in disguise", POST + b"Transfer-Encoding: xchunked\r\n\r\n", refused(501)),
        ("chunked twice", POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n", refused(501)),
        ("GET with a body", GET + b"Content-Length: 30\r\n\r\n" + GET, bad_request),
        ("chunk of no number", POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", bad_request),
        ("chunk of endless length",
         POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"F" * 30 + b"\r\n", bad_request),
        ("body that is announced too large", POST + b"Content-Length: 262145\r\n\r\n",
         refused(413)),
        ("body that grows too large", POST + b"Transfer-Encoding: chunked\r\n\r\n"
         + (b"4000\r\n" + bytes(0x4000) + b"\r\n") * 20, refused(413)),
        ("body of one-byte chunks", POST + b"Transfer-Encoding: chunked\r\n\r\n"
         + b"1\r\nx\r\n" * 200_000, refused(413)),
        ("pipelined requests", (GET + b"\r\n") * 100 + head(target=b"/nowhere"),
         refused(*[200] * 100, 404)),
    ]  # fmt: skip
    return [Attack(name, (data,), expected) for name, data, expected in rows]


def _clocks() -> list[Attack]:
    """Those that wait for a deadline; the longest first."""
    return [
        Attack("nothing at all", (), cut(within_s=13)),
        Attack("half a head", (head()[:60],), cut(within_s=13)),
        Attack("a head in drips", (Drip(head(), 0.5),), cut(within_s=13)),
        Attack(
            "a body that does not come",
            (POST + b"Content-Length: 9\r\n\r\nabc",),
            refused(408, within_s=13),
        ),
        Attack(
            "a promised body that does not come",
            (POST + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n",),
            refused(100, 408, within_s=13),
        ),
        Attack("a request and then silence", (GET + b"\r\n",), cut(200, within_s=13)),
        Attack(
            "200 connections that say nothing", (), Expected(status=(), within_s=13), times=200
        ),
        Attack(
            "a control client that never reads",
            (
                head(target=b"/bridge"),
                Wait(0.2),
                hello,
                *(chat("x" * 60_000),) * 100,
                Wait(8),
                *(ALIVE, Wait(0.1)) * 15,
            ),
            Expected(status=(101,), never=PONG_ALIVE, within_s=5),
            deaf=True,
        ),
        Attack("never a hello", upgraded(), closed(1008)),
        Attack("half a hello", upgraded(hello("x" * 20)[:30]), closed(1008)),
        Attack(
            "a hello in drips", upgraded(Drip(hello("a hello in drips"), 0.2)), closed(1008)
        ),
        Attack("pings and never a hello", upgraded(*(ALIVE, Wait(0.2)) * 20), closed(1008)),
        Attack(
            "100 upgrades without a hello",
            upgraded(),
            Expected(within_s=8, never=b"internal"),
            times=100,
        ),
    ]


def _ready(**fields: object) -> bytes:
    return said(type="ready", **fields)


def _hellos() -> list[Attack]:
    huge = '{"type": "ready", "bot_id": ' + "9" * 6000 + "}"
    rows: list[tuple[str, bytes, int]] = [
        ("binary hello", frame(BINARY, b'{"type": "ready", "bot_id": "b"}'), 1003),
        ("empty hello", frame(TEXT), 1003),
        ("hello that is no JSON", text("hi"), 1003),
        ("hello that is a list", text("[]"), 1003),
        ("hello of 16,000 brackets", text("[" * 16_000), 1003),
        ("hello of 100,000 brackets", text("[" * 100_000), 1009),
        ("hello with NaN", text('{"type": "ready", "bot_id": "b", "x": NaN}'), 1003),
        ("hello with 6,000 digits", text(huge), 1003),
        ("hello of another type", said(type="steady", bot_id="b"), 1003),
        ("hello without an id", _ready(), 1003),
        ("hello with a number for an id", _ready(bot_id=7), 1003),
        ("hello with an object for an id", _ready(bot_id={"a": []}), 1003),
        ("hello with a blank id", _ready(bot_id=" \u2003"), 1008),
        ("hello with NUL in the id", _ready(bot_id="a\0b"), 1008),
        ("hello with ANSI in the id", _ready(bot_id="\x1b[2Jx"), 1008),
        ("hello with a bidi override", _ready(bot_id="\u202egpj.exe"), 1008),
        ("hello with half a character", text('{"type": "ready", "bot_id": "\\ud800"}'), 1008),
        ("hello with an id of 16,000 characters", _ready(bot_id="x" * 16_000), 1008),
        ("hello of 16 KiB and one byte", plain(TEXT, bytes((16 << 10) + 1)), 1009),
        ("hello with a length without end", b"\x81\xff" + b"\x7f" * 8, 1009),
        ("hello in 65 fragments", frame(TEXT, fin=False) + frame(0, fin=False) * 64, 1008),
        ("200 pings for a hello", frame(PING) * 200, 1008),
        ("a Close for a hello", frame(CLOSE, close_payload(1000)), 1000),
        ("4 MiB of audio for a hello", speech() * 2100, 1003),
        ("two handshakes", head(target=b"/bridge"), 1002),
        ("a plain request behind the handshake", GET + b"\r\n", 1002),
    ]
    return [
        *(
            Attack(name, (head(target=b"/bridge") + data,), closed(code))
            for name, data, code in rows
        ),
        Attack(
            "another id than the path's", (head(target=b"/b-1/bridge"), hello), closed(1008)
        ),
        Attack("a path that is not UTF-8", (head(target=b"/%ff/bridge"), hello), closed(1008)),
        Attack(
            "audio in the packet of the handshake",
            (lambda bot_id: _burst(bot_id, speech() * 40) + ALIVE,),
            STILL_SERVED,
        ),
        Attack("an id that climbs", upgraded(_ready(bot_id="../../../tmp/x")), served(ACK)),
        Attack("an id of markup", upgraded(_ready(bot_id="<script>1</script>")), served(ACK)),
        Attack(
            "Host that is no IDNA",
            (swapped(b"bridge.example", b"xn--a.xn--0"), Do.AWAIT_ANSWER, hello),
            served(ACK),
        ),
        Attack(
            "Upgrade twice, and h2c",
            (head(b"Upgrade: h2c", b"Upgrade: websocket"), Do.AWAIT_ANSWER, hello),
            served(ACK),
        ),
        Attack(
            "deflate offered",
            (
                head(b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=8"),
                Do.AWAIT_ANSWER,
                hello,
            ),
            served(ACK, never=b"extensions"),
        ),
    ]


def _burst(bot_id: str, rest: bytes) -> bytes:
    return head(target=b"/bridge/audio") + hello(bot_id) + rest


_BYE = frame(CLOSE, close_payload(1000))


def _broken_frames() -> list[Attack]:
    start, rest = frame(TEXT, b"a", fin=False), frame(0, b"b", fin=False)
    rows: list[tuple[str, bytes, int]] = [
        ("unmasked frame", b"\x82\x05hello", 1002),
        *((f"reserved bit {bit:#x}", frame(BINARY | bit, b"x"), 1002) for bit in (64, 32, 16)),
        *((f"opcode {code}", frame(code, b"x"), 1002) for code in (3, 7, 11, 15)),
        ("ping in fragments", frame(PING, fin=False), 1002),
        ("ping of 126 bytes", frame(PING, bytes(126)), 1002),
        ("pong of 64 KiB", plain(PONG, bytes(65_536)), 1002),
        ("Close of 126 bytes", frame(CLOSE, close_payload(1000, b"x" * 124)), 1002),
        ("Close of one byte", frame(CLOSE, b"\3"), 1002),
        *(
            (f"Close {code}", frame(CLOSE, close_payload(code)), 1002)
            for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535)
        ),
        ("Close with a bad reason", frame(CLOSE, close_payload(1000, b"\xff")), 1007),
        ("text that is not UTF-8", frame(TEXT, b"\xff\xfe"), 1007),
        ("text with half a surrogate", frame(TEXT, b"\xed\xa0\x80"), 1007),
        ("text that ends in a character", frame(TEXT, BAR), 1007),
        ("bad UTF-8 over fragments", frame(TEXT, BAR, fin=False) + frame(0, b"("), 1007),
        ("bad UTF-8 in a message without end", frame(TEXT, b"\xff", fin=False), 1007),
        ("continuation of nothing", frame(0, b"x"), 1002),
        ("a message within a message", start + frame(TEXT, b"b"), 1002),
        ("length that is not minimal", b"\x82\xfe\x00\x7d" + bytes(4), 1002),
        ("long length that is not minimal", b"\x82\xff" + struct.pack("!Q", 65_535), 1002),
        ("length with the top bit", b"\x82\xff" + struct.pack("!Q", 1 << 63), 1002),
        ("length without end", b"\x82\xff" + b"\x7f" + b"\xff" * 7, 1009),
        ("65 fragments", start + rest * 64, 1008),
        ("a flood of empty fragments", start + frame(0, fin=False) * 20_000, 1008),
        ("a flood of pings", frame(PING, b"x") * 20_000, 1008),
        ("a flood of pongs", frame(PONG, b"x") * 20_000, 1008),
        ("compressed frame", frame(TEXT | 0x40, b"\xca\x48\x04\x00"), 1002),
        ("a flood of empty frames", frame(BINARY) * 20_000, 1003),
        ("a flood of audio of another type", frame(BINARY, b"\2\0\0\0\0") * 20_000, 1003),
        ("random bytes for frames", bytes(range(0x90, 0x100)) * 2000, 1002),
        ("Close and Close again", _BYE * 2, 1000),
        ("Close and talk on", _BYE + frame(TEXT, b"x") * 100 + frame(PING) * 100, 1000),
    ]
    return [Attack(name, audio(data), closed(code)) for name, data, code in rows]


def _sizes() -> list[Attack]:
    one = 1 << 20
    return [
        Attack("audio over 256 KiB", audio(plain(BINARY, bytes(262_145))), closed(1009)),
        Attack(
            "audio over 256 KiB in fragments",
            audio(plain(BINARY, bytes(200_000), fin=False) + plain(0, bytes(100_000))),
            closed(1009),
        ),
        Attack("control over 1 MiB", control(plain(TEXT, bytes(one + 1))), closed(1009)),
        Attack("control of 1 MiB", control(chat("x" * (one - 100)) + ALIVE), STILL_SERVED),
        Attack("a payload that does not come", audio(b"\x82\xff" + struct.pack("!Q", 200_000),
                                                     bytes(1000), Wait(1)), NOTHING),
        Attack("64 fragments of a byte", control(_fragments(b'{"command": "dance"}'), ALIVE),
               STILL_SERVED),
        Attack("one byte a packet", control(Drip(chat("hi") + ALIVE, 0.005)), STILL_SERVED),
        Attack("3 MiB of tiny audio", audio(speech(pcm=bytes(2)) * 100_000, ALIVE),
               STILL_SERVED),
    ]  # fmt: skip


def _fragments(payload: bytes) -> bytes:
    pieces = [payload[i : i + 1] for i in range(len(payload))]
    pieces += [b""] * (64 - len(pieces))
    frames = [frame(0 if i else TEXT, piece, fin=i == 63) for i, piece in enumerate(pieces)]
    return b"".join(frames)


def _json() -> list[Attack]:
    rows: list[tuple[str, bytes]] = [
        ("100,000 brackets", text("[" * 100_000)),
        ("a million brackets", text("[" * 1_000_000)),
        ("100,000 braces", text('{"a":' * 100_000)),
        ("brackets that are closed", text("[" * 100_000 + "]" * 100_000)),
        ("a million digits", text('{"command": ' + "9" * 1_000_000 + "}")),
        ("many large numbers", text('{"x": [' + ("9" * 4000 + ",") * 200 + "0]}")),
        ("an exponent without end", text('{"command": 1e999999999}')),
        ("NaN and Infinity", text('{"command": NaN}') + text('{"command": -Infinity}')),
        ("a string without an end", text('{"command": "' + "x" * 500_000)),
        ("a million backslashes", text('{"command": "' + "\\" * 1_000_000)),
        ("half characters", text('{"command": "usermsg", "message": "\\ud800\\udfff\\udc00"}')),
        ("100,000 keys", text("{" + ",".join(f'"{i}":0' for i in range(75_000)) + "}")),
        ("the same key 100,000 times", text("{" + '"a":0,' * 100_000 + '"a":0}')),
        ("a name of 1 MiB", said(command="x" * 1_000_000)),
        ("a speaker of 1 MiB", said(command="usermsg", message="x", speakerName="y" * 10**6)),
        ("a message id of 1 MiB", said(command="usermsg", message="x", id="y" * 10**6)),
        ("binary on control", frame(BINARY, bytes(1000))),
        ("a lone BOM", text("\ufeff{}")),
        ("another bot's hello", _ready(bot_id="somebody else") * 100),
        ("markup in the chat", chat("<script>alert(1)</script>\u202e\x1b[31m\0\r\n")),
    ]
    storms: list[tuple[str, bytes]] = [
        ("interrupts", said(command="interrupt") * 1000),
        ("chat", b"".join(chat(f"storm {i}") for i in range(1000))),
        ("unknown commands", said(command="dance") * 1000),
        ("bad messages, and good ones between", (text("{") * 400 + said(command="x")) * 3),
    ]
    return [
        *(Attack(f"{name} (JSON)", control(data, ALIVE), STILL_SERVED) for name, data in rows),
        *(
            Attack(f"a storm of {name}", control(data, ALIVE), AFTER_MUCH)
            for name, data in storms
        ),
        Attack("500 bad messages", control(text("{") * 500), closed(1003, within_s=20)),
    ]


def _names() -> list[Attack]:
    long = bytes(range(0x20, 0x7F)) * 689 + b"\xf0\x9f\x98\x80"
    rows: list[tuple[str, bytes]] = [
        ("NUL", speech(name=b"\0" * 100)),
        ("ANSI", speech(name=b"\x1b[2J\x1b]0;owned\x07\x9b31m")),
        ("bidi overrides", speech(name="\u202e\u2066\u200f nimda".encode())),
        ("line breaks", speech(name="x\r\n{}\u2028\u2029\x85".encode())),
        ("markup", speech(name=b"<img src=x onerror=alert(1)>")),
        ("paths", speech(name=b"../../../../etc/cron.d/x")),
        ("bytes that are not UTF-8", speech(name=bytes(range(0x80, 0x100)))),
        ("64 KiB", speech(name=long[:65_535], pcm=bytes(96_000)) * 30),
        (
            "300 different ones of 20 KiB",
            b"".join(speech(name=b"%08d" % i + long[:20_000]) for i in range(300)),
        ),
        ("a length past the end", frame(BINARY, b"\1\xff\xff" + bytes(100))),
        ("a JSON header past the end", frame(BINARY, b"\0\0\xff\xff{" + bytes(100))),
        (
            "100,000 brackets in a JSON header",
            plain(BINARY, struct.pack(">I", 100_001) + b'{"' + b"[" * 99_999),
        ),
        ("bad base64", text('{"type": "PCMChunk", "audioData": "!!!!"}')),
        (
            "a rate of 10^300",
            text('{"type": "PCMChunk", "audioData": "", "sampleRate": 1e300}'),
        ),
    ]
    return [
        Attack(f"{name} (names)", audio(data, Wait(0.1), ALIVE), STILL_SERVED)
        for name, data in rows
    ]


def _partings() -> list[Attack]:
    mid_frame: tuple[Step, ...] = (speech()[:700],)
    before: list[tuple[str, tuple[Step, ...]]] = [
        ("after nothing", ()),
        ("in the head", (head()[:50],)),
        ("after the head", (head(),)),
        ("after the 101", upgraded()),
        ("with the hello", (head(target=b"/bridge"), Do.AWAIT_ANSWER, hello)),
        ("after the hello", control()),
        ("in a frame", audio(*mid_frame)),
        ("in a fragmented message", audio(frame(TEXT, b"a", fin=False))),
        ("while it is answered", control(chat("x" * 100_000))),
        ("after its Close", audio(frame(CLOSE, close_payload(1000)))),
        ("in pings", audio(frame(PING) * 10)),
        ("in an unanswered request", (GET + b"\r\n",)),
    ]
    return [
        *(Attack(f"RST {when}", (*steps, Do.RESET), NOTHING) for when, steps in before),
        *(Attack(f"FIN {when}", (*steps, Do.HALF_CLOSE), Expected()) for when, steps in before),
        Attack("RST of 300 connections", (Do.RESET,), NOTHING, times=300),
        Attack("50 sockets of one bot", control(), served(ACK), times=50),
    ]


ATTACKS = (
    *_clocks(),
    *_requests(),
    *_hellos(),
    *_broken_frames(),
    *_sizes(),
    *_json(),
    *_names(),
    *_partings(),
)
