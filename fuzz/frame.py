"""`decode_audio`: one message in; one `AudioFrame` or one `FrameError` out, nothing else.

An error names a byte of the message and a reason of ours. A frame has whole samples, no more
of them than came, and text that every encoder takes. What it says is what an independent
reading of the layout says, it survives being encoded again, and more audio behind it changes
nothing but the audio.
"""

from __future__ import annotations

import base64
import io
import json
import struct

import attrs
from hypothesis import strategies as st

from fuzz.json_text import TOKENS, as_text, encoded, objects, respelt, values
from fuzz.target import Target, require_plain
from trio_bridge.wire.frames import (
    BAD_UTF8,
    ODD_BYTE,
    WIRE_RATE_HZ,
    AudioFrame,
    FrameError,
    decode_audio,
    encode_frame,
    encode_headed_frame,
    encode_legacy_frame,
)

LEGACY_KEYS = (
    *("type", "speakerName", "speaker_name", "audioData", "speakerId", "speaker_id"),
    *("sampleRate", "sample_rate", "channels"),
)
HEADER_KEYS = ("speaker_id", "speaker_name", "timestamp_ms")


def check(data: bytes) -> None:
    """Read ``data`` as a binary message and, if it is UTF-8, as a text message too.

    Raises:
        AssertionError: the promise in the module's docstring is broken.
    """
    frame = _outcome(data)
    _judge(data, frame)
    if isinstance(frame, AudioFrame):
        _more_audio(data, frame)
    if not (data[:1] == b"\0" and data[4:5] == b"{"):
        _compare(data, frame)
    text = as_text(data)
    if text is not None:
        frame = _outcome(text)
        _judge(text, frame)
        for other in respelt(text):
            assert _said(_outcome(other)) == _said(frame), "the spelling of JSON has a meaning"


def _outcome(message: bytes | str) -> AudioFrame | FrameError:
    try:
        return decode_audio(message)
    except FrameError as error:
        return error
    except Exception as exc:
        raise AssertionError(f"{type(exc).__name__} escaped") from exc


def _said(outcome: AudioFrame | FrameError) -> object:
    return (outcome.reason, outcome.offset) if isinstance(outcome, FrameError) else outcome


def _judge(message: bytes | str, outcome: AudioFrame | FrameError) -> None:
    if isinstance(outcome, FrameError):
        require_plain(outcome.reason)
        assert 0 <= outcome.offset <= len(message)
        return
    frame = outcome
    assert type(frame.pcm) is bytes
    assert len(frame.pcm) <= len(message)
    assert 8_000 <= frame.rate_hz <= 192_000
    assert frame.channels in (1, 2)
    assert len(frame.pcm) % (2 * frame.channels) == 0
    assert frame.timestamp_ms is None or type(frame.timestamp_ms) is int, "not a number"
    assert frame.flaws in ((), (BAD_UTF8,), (ODD_BYTE,), (BAD_UTF8, ODD_BYTE))
    for text in (frame.speaker_id, frame.speaker_name):
        assert isinstance(text, str)
        text.encode()
    if isinstance(message, bytes):
        assert (frame.rate_hz, frame.channels) == (WIRE_RATE_HZ, 1)
    if (frame.rate_hz, frame.channels) == (WIRE_RATE_HZ, 1):
        _round_trip(frame)


def _round_trip(frame: AudioFrame) -> None:
    mended = attrs.evolve(frame, flaws=(), timestamp_ms=None)
    longest = max(len(frame.speaker_id.encode()), len(frame.speaker_name.encode()))
    if longest <= 0xFFFF:  # U+FFFD is longer than the byte it stands for
        assert _outcome(encode_frame(mended)) == mended
    stamped = attrs.evolve(mended, timestamp_ms=frame.timestamp_ms or 0)
    assert _outcome(encode_headed_frame(stamped)) == stamped
    assert _outcome(encode_legacy_frame(mended)) == attrs.evolve(mended, speaker_id="")


def _more_audio(data: bytes, frame: AudioFrame) -> None:
    whole = data[:-1] if ODD_BYTE in frame.flaws else data
    flaws = tuple(flaw for flaw in frame.flaws if flaw != ODD_BYTE)
    longer = attrs.evolve(frame, pcm=frame.pcm + b"\1\2", flaws=flaws)
    assert _outcome(whole + b"\1\2") == longer, "the end of the audio moved"


def _compare(data: bytes, outcome: AudioFrame | FrameError) -> None:
    """Hold ``outcome`` against the layout, read as a file: a short read is the error."""
    file = io.BytesIO(data)
    fields: list[bytes] = []
    good = file.read(1) == b"\1"
    for _ in range(2):
        head = file.read(2)
        size = int.from_bytes(head, "little")
        fields.append(file.read(size))
        good = good and len(head) == 2 and len(fields[-1]) == size
    assert good == isinstance(outcome, AudioFrame), "one reads a frame, the other does not"
    if isinstance(outcome, AudioFrame):
        pcm = file.read()
        assert outcome.pcm == pcm[: len(pcm) & ~1]
        assert (ODD_BYTE in outcome.flaws) == bool(len(pcm) & 1)
        names = tuple(field.decode("utf-8", "replace") for field in fields)
        assert (outcome.speaker_id, outcome.speaker_name) == names
        bad = [field for field in fields if as_text(field) is None]
        assert (BAD_UTF8 in outcome.flaws) == bool(bad)


def _binary(kind: int, texts: tuple[bytes, bytes], off: tuple[int, int], pcm: bytes) -> bytes:
    parts = [bytes((kind,))]
    for text, wrong_by in zip(texts, off, strict=True):
        parts += [struct.pack("<H", (len(text) + wrong_by) & 0xFFFF), text]
    return b"".join((*parts, pcm))


def _headed(header: str, wrong_by: int, pcm: bytes) -> bytes:
    text = encoded(header)
    return struct.pack(">I", (len(text) + wrong_by) & 0xFFFFFFFF) + text + pcm


_names = st.binary(max_size=8) | st.text(max_size=8).map(str.encode)
_pcms = st.binary(max_size=16)
_wrong = st.sampled_from([0, 0, 0, 0, 1, -1, 256, 0xFF00])
_audio = _pcms.map(lambda pcm: base64.b64encode(pcm).decode()).map(json.dumps)
_legacy = objects(LEGACY_KEYS, values("PCMChunk", "AAD/fw==", "AA=", "Alice") | _audio)
_good_legacy = st.builds(
    lambda rest, audio: '{"type": "PCMChunk", "audioData": ' + audio + ", " + rest[1:],
    objects(LEGACY_KEYS[1:], values("Alice", "AAD/fw==")),
    _audio,
)
messages = st.one_of(
    st.builds(
        _binary,
        st.sampled_from([1, 1, 1, 0, 2]),
        st.tuples(_names, _names),
        st.tuples(_wrong, _wrong),
        _pcms,
    ),
    st.builds(_headed, objects(HEADER_KEYS, values("user_42", "NoSpeaker")), _wrong, _pcms),
    _legacy.map(encoded),
    _good_legacy.map(encoded),
)

TARGET = Target(
    "frame",
    check,
    messages,
    (
        *TOKENS,
        *(f'"{key}"'.encode() for key in {*LEGACY_KEYS, *HEADER_KEYS}),
        *(b"\1\0\0\0\0", b"\0\0\0\2{}", b'"PCMChunk"', b'"AAD/fw=="'),
    ),
)
