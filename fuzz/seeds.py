"""Write the corpus: ``python -m fuzz.seeds``.

The published wire examples of ``tests/vectors``, each under the name it has there, and for
every branch of a parser one input that takes it. A seed is found again by its name, so the
files change only when what they hold does.
"""

from __future__ import annotations

import json
import re
import struct
import sys
from pathlib import Path
from typing import Any

from fuzz import head, session
from fuzz.stream import AFTER_HELLO, AT_ONCE, NEVER, write_case, write_frame
from fuzz.target import HERE
from trio_bridge.edge.frames import BINARY, CLOSE, PING, PONG, TEXT
from trio_bridge.wire.control import encode_interrupt, encode_user_message
from trio_bridge.wire.hello import encode_hello

VECTORS = HERE.parent / "tests" / "vectors" / "frames.json"
Seeds = dict[str, bytes]


def seeds() -> dict[str, Seeds]:
    """All seeds by target and file name."""
    vectors: dict[str, Any] = json.loads(VECTORS.read_text())
    binary: Seeds = {
        f"binary-{_slug(vector['name'])}": bytes.fromhex(vector["hex"])
        for vector in vectors["binary"]
    }
    text: Seeds = {_slug(v["name"]): v["text"].encode() for v in vectors["text"]}
    return {
        "frame": {**binary, "legacy": text["legacy-pcmchunk"], **_frames()},
        "control": {"usermsg": text["usermsg"], "interrupt": text["interrupt"], **_controls()},
        "hello": {"handshake": text["handshake"], **_hellos()},
        "stream": _streams(),
        "head": _heads(),
        "session": _sessions(),
    }


def write(directory: Path) -> int:
    """Write every seed below ``directory``; returns how many there are."""
    written = 0
    for target, files in seeds().items():
        (directory / target).mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (directory / target / name).write_bytes(data)
            written += 1
    return written


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:40].strip("-")


def _frames() -> Seeds:
    bad_utf8 = b'{"speaker_id": "\xff", "timestamp_ms": "noon"}'
    stereo = {"type": "PCMChunk", "speaker_name": None, "audioData": "AAD/fw==", "channels": 2}
    return {
        "headed-bad-utf8-odd": struct.pack(">I", len(bad_utf8)) + bad_utf8 + b"\1\0\2",
        "headed-not-json": b"\0\0\0\3{1}\0\0",
        "headed-past-end": b"\0\0\1\0{}",
        "legacy-stereo-16-khz": json.dumps({**stereo, "sample_rate": 16_000}).encode(),
        "legacy-surrogate": b'{"type": "PCMChunk", "speakerName": "\\ud800x", "audioData": ""}',
        "legacy-bad-base64": b'{"type": "PCMChunk", "audioData": "AA="}',
    }


def _controls() -> Seeds:
    named: dict[str, dict[str, object]] = {
        "transcript-partial": {"type": "transcript", "transcript": "a", "is_final": False},
        "transcription-final": {"type": "transcription.final", "text": "a", "final": True},
        "usermsg-all-fields": {
            "command": "usermsg",
            "message": " a ",
            "speaker_name": "N",
            "speaker_id": "i",
            "event_id": "8",
            "id": "7",
        },
        "ready-again": {"type": "ready", "bot_id": "b"},
        "unknown-long": {"command": "d" * 100},
        "number-for-name": {"command": 7},
        "surrogate": {"command": "usermsg", "message": "\ud800"},
    }
    return {
        "usermsg-ours": encode_user_message("Hello", speaker_name="Zoë").encode(),
        "interrupt-ours": encode_interrupt().encode(),
        "not-an-object": b"[1]",
        "not-json": b'{"command": NaN}',
        **{name: json.dumps(fields).encode() for name, fields in named.items()},
    }


def _hellos() -> Seeds:
    return {
        "longest": encode_hello("x" * 128).encode(),
        "too-long": encode_hello("x" * 129).encode(),
        "blank": encode_hello(" ").encode(),
        "unprintable": encode_hello("a\x1b[2J").encode(),
        "surrogate": b'{"type": "ready", "bot_id": "\\ud800"}',
        "number-for-id": b'{"type": "ready", "bot_id": 7}',
        "no-id": b'{"type": "ready"}',
        "two-types": b'{"type": "x", "type": "ready", "bot_id": "b"}',
        "not-json": b"hi",
        "not-an-object": b"[]",
    }


def _streams() -> Seeds:
    def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
        return write_frame(opcode, payload, fin=fin, mask=b"\x11\x22\x33\x44")

    def case(*frames: bytes, arming: int = AT_ONCE, closing: bool = False) -> bytes:
        return write_case(b"".join(frames), b"\1\3\7", arming=arming, closing=closing)

    hello = frame(TEXT, encode_hello("b").encode())
    bye = frame(CLOSE, struct.pack("!H", 1000) + b"bye")
    smile = (frame(TEXT, b"\xf0\x9f", fin=False), frame(PING), frame(0, b"\x99\x82"))
    return {
        "audio": case(frame(BINARY, b"\1\0\0\0\0\1\2"), frame(BINARY, bytes(200))),
        "audio-long": case(frame(BINARY, bytes(1920)), bye),
        "hello-then-audio": case(hello, frame(BINARY, b"a"), bye, arming=AFTER_HELLO),
        "hello-too-big": case(frame(TEXT, bytes(201)), arming=NEVER),
        "fragments": case(frame(BINARY, b"a", fin=False), frame(0, b"b"), frame(BINARY, b"c")),
        "fragments-too-many": case(frame(TEXT, fin=False), frame(0, fin=False) * 4),
        "fragment-unexpected": case(frame(BINARY), frame(0)),
        "fragment-missing": case(frame(TEXT, fin=False), frame(BINARY)),
        "text-split-in-character": case(*smile),
        "text-not-utf8": case(frame(TEXT, b"\xed\xa0\x80")),
        "pings": case(frame(PING) * 2, frame(PONG) * 2),
        "ping-too-long": case(frame(PING, bytes(126))),
        "closing": case(frame(BINARY, b"a"), frame(TEXT, b"b"), frame(PING), bye, closing=True),
        "close-bad-code": case(frame(CLOSE, struct.pack("!H", 1005))),
        "close-not-utf8": case(frame(CLOSE, struct.pack("!H", 1000) + b"\xff")),
        "length-not-minimal": case(b"\x82\xfe\x00\x7d" + bytes(4)),
        "length-endless": case(b"\x82\xff" + (1 << 63).to_bytes(8, "big")),
        "length-eight-bytes": case(b"\x82\xff" + (1 << 16).to_bytes(8, "big") + bytes(9)),
        "not-masked": case(b"\x82\x05hello"),
        "reserved-bit": case(frame(TEXT | 0x40)),
    }


def _heads() -> Seeds:
    def case(start: bytes, *headers: bytes, body: bytes = b"") -> bytes:
        return head.write_case(b"\r\n".join([start, *headers, b"", b""]) + body, b"\1\7\x40")

    get, post = b"GET /bridge HTTP/1.1", b"POST /hook HTTP/1.1"
    host, chunked = b"Host: x", b"Transfer-Encoding: chunked"
    return {
        "handshake": case(get, *head.GOOD),
        "handshake-token-id": case(
            b"GET /b-1/t/s3cret/bridge/audio?token=s3cret HTTP/1.1", *head.GOOD
        ),
        "handshake-early": case(get, *head.GOOD, body=b"\x81\x80\0\0\0\0"),
        "handshake-deflate": case(
            get, *head.GOOD, b"Sec-WebSocket-Extensions: permessage-deflate"
        ),
        "handshake-origin": case(get, *head.GOOD, b"Origin: https://me.example"),
        "handshake-two-keys": case(get, *head.GOOD, b"Sec-WebSocket-Key: " + head.KEY),
        "handshake-version-8": case(get, *head.GOOD[:3], b"Sec-WebSocket-Version: 8"),
        "handshake-post": case(post, *head.GOOD),
        "handshake-head": case(b"HEAD /bridge HTTP/1.1", *head.GOOD),
        "host-not-ascii": case(get, b"Host: \xff"),
        "head-host-not-ascii": case(b"HEAD / HTTP/1.1", b"Host: \xff"),
        "target-absolute": case(b"GET http://h/bridge?a=%ff HTTP/1.1", host),
        "target-star": case(b"OPTIONS * HTTP/1.1", host),
        "http-2": case(b"PRI * HTTP/2.0"),
        "http-0-9": case(b"GET /"),
        "tls": case(b"\x16\x03\x01\x02\x00\x01"),
        "folded": case(get, host, b"X: a", b" b"),
        "too-long": case(get, host, b"X: " + b"x" * 1_000),
        "body": case(post, host, b"Content-Length: 3", body=b"abc"),
        "body-too-long": case(post, host, b"Content-Length: 301", body=b"abc"),
        "body-half": case(post, host, b"Content-Length: 5", body=b"abc"),
        "body-chunked": case(post, host, chunked, body=b"3\r\nabc\r\n0\r\n\r\n"),
        "body-chunked-too-long": case(
            post, host, chunked, body=b"190\r\n" + bytes(400) + b"\r\n0\r\n\r\n"
        ),
        "body-tiny-chunks": case(post, host, chunked, body=b"1\r\nx\r\n" * 50),
        "body-two-lengths": case(post, host, chunked, b"Content-Length: 3", body=b"abc"),
        "body-of-get": case(get, host, b"Content-Length: 3", body=b"abc"),
    }


def _sessions() -> Seeds:
    operation = session.operation
    both = operation("audio") + operation("control")
    speak, cut = operation("speak", 254), operation("control says", 0)
    hear, wait = operation("hear", 34), operation("wait", 2)
    return {
        "talk": both + hear * 20 + wait + operation("leave", 4) + operation("leave"),
        "echo": both + (hear + operation("hear", 32)) * 8 + speak + wait + operation("chat", 9),
        "interrupt": both + speak + wait + cut + speak + wait + cut,
        "interrupt-while-stalled": both + operation("stall", 1) + speak + cut + speak + wait,
        "reconnect": both + speak + operation("control") + wait + operation("leave", 3) + wait,
        "all-at-once": operation("audio", at_once=True) * 3
        + operation("control", at_once=True),
        "agent-raises": both + operation("raise") + wait + both + operation("wait", 6) + both,
        "agent-returns": both + operation("return") + hear * 3 + wait,
        "two-bots": both + operation("audio", 1) + operation("control", 1) + hear + wait,
        "lost-and-back": both + operation("leave", 3) + operation("leave", 7) + wait + both,
        "lost-for-good": both
        + operation("leave", 3)
        + operation("leave", 7)
        + operation("wait", 7),
        "bad-audio": both + b"".join(operation("bad audio", n) for n in range(0, 16, 2)),
        "bad-hello": operation("audio", 240) + operation("control", 243) + wait,
        "own-voice": both + operation("hear", 38) * 5 + operation("hear", 34) + wait,
        "second-ear": both + operation("listen", 6) + hear * 10 + wait + hear,
        "drain": both + speak + operation("end") + wait + both,
        "rates-and-sizes": both + b"".join(operation("hear", n) for n in range(0, 256, 8)),
        "barge-in": both + speak + wait + operation("hear", 50) * 3 + speak + wait,
    }


if __name__ == "__main__":
    sys.stdout.write(f"{write(HERE / 'corpus')} seeds\n")
