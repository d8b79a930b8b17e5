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


if __name__ == "__main__":
    sys.stdout.write(f"{write(HERE / 'corpus')} seeds\n")
