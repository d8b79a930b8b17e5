"""Meeting-audio frames: one WebSocket message in, one value out.

Three forms are seen in the wild and told apart by their first byte or kind:

A. binary, current. Little-endian: ``u8 type=1 | u16 n | speaker_id[n] | u16 m |
   speaker_name[m] | s16 pcm[...]`` (MeetStream API reference, "Live Audio Binary Frame
   Format").
B. binary, with a JSON header: ``u32 big-endian n | {"speaker_id", "speaker_name",
   "timestamp_ms"}[n] | s16 pcm[...]`` (MeetStream blog, "building media pipelines"). Its
   first byte is 0 for any header below 16 MiB, so it cannot be taken for form A.
C. text, legacy: ``{"type": "PCMChunk", "speakerName": ..., "audioData": base64 pcm}``.

PCM is signed 16-bit little-endian, 48 kHz, mono, with no container.
"""

from __future__ import annotations

import base64
import json
import struct

import attrs

from trio_bridge.errors import WireError
from trio_bridge.wire.objects import read_object, text_field, whole_field

WIRE_RATE_HZ = 48_000
"""The only sample rate of forms A and B, and the default of form C."""

AUDIO_TYPE = 1
SHORTEST_FRAME = 5
"""Type and two empty text fields."""

ODD_BYTE = "odd byte"
BAD_UTF8 = "bad UTF-8"


@attrs.frozen
class AudioFrame:
    """What one speaker said in one frame."""

    speaker_id: str
    speaker_name: str
    pcm: bytes
    """PCM16-LE, whole samples (of ``channels`` interleaved channels)."""
    rate_hz: int = WIRE_RATE_HZ
    channels: int = 1
    timestamp_ms: int | None = None
    """Milliseconds since the Unix epoch; only form B says."""
    flaws: tuple[str, ...] = ()
    """What was mended while decoding: `ODD_BYTE` (the last byte was dropped), `BAD_UTF8`
    (U+FFFD stands for what could not be read). The audio is good."""


class FrameError(WireError):
    """The message is not a frame; ``offset`` is the first byte that proves it."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason, offset)
        self.reason = reason
        self.offset = offset

    def __str__(self) -> str:
        return f"{self.reason} at byte {self.offset}"


def decode_audio(message: bytes | str) -> AudioFrame:
    """Decode one message of the audio channel, whichever form it has.

    Raises:
        FrameError: whatever is wrong with the message. Nothing else is ever raised.
    """
    if isinstance(message, str):
        return _decode_legacy(message)
    if message[:1] == b"\x00" and message[4:5] == b"{":
        return _decode_headed(message)
    return decode_frame(message)


def decode_frame(data: bytes) -> AudioFrame:
    """Decode form A. An odd last byte is dropped and bad UTF-8 replaced (see ``flaws``).

    Raises:
        FrameError: too short, of another type, or a length that runs past the end.
    """
    size = len(data)
    if size and data[0] != AUDIO_TYPE:
        raise FrameError("unknown type", 0)
    if size < SHORTEST_FRAME:
        raise FrameError("short", size)
    # A Python slice past the end is silently short, so a truncated header would decode to a
    # plausible name and no audio: every end is compared before anything is sliced.
    id_end = 3 + (data[1] | data[2] << 8)
    if id_end > size:
        raise FrameError("truncated speaker_id", 1)
    name_at = id_end + 2
    if name_at > size:
        raise FrameError("truncated sname_length", id_end)
    name_end = name_at + (data[id_end] | data[id_end + 1] << 8)
    if name_end > size:
        raise FrameError("truncated speaker_name", id_end)
    try:
        speaker_id, speaker_name = data[3:id_end].decode(), data[name_at:name_end].decode()
        flaws: tuple[str, ...] = ()
    except UnicodeDecodeError:
        speaker_id = data[3:id_end].decode(errors="replace")
        speaker_name = data[name_at:name_end].decode(errors="replace")
        flaws = (BAD_UTF8,)
    pcm, flaws = _whole_samples(data[name_end:], 1, flaws)
    return AudioFrame(speaker_id, speaker_name, pcm, flaws=flaws)


def encode_frame(frame: AudioFrame) -> bytes:
    """Form A, the inverse of `decode_frame`: the bot's half of the protocol.

    Raises:
        ValueError: a text field is longer than 65 535 bytes, half a sample, or not 48 kHz mono.
    """
    _require_wire_format(frame)
    speaker_id, speaker_name = frame.speaker_id.encode(), frame.speaker_name.encode()
    if max(len(speaker_id), len(speaker_name)) > 0xFFFF:
        raise ValueError("a speaker field is longer than 65 535 bytes")
    return b"".join(
        (
            bytes((AUDIO_TYPE,)),
            struct.pack("<H", len(speaker_id)),
            speaker_id,
            struct.pack("<H", len(speaker_name)),
            speaker_name,
            frame.pcm,
        )
    )


def encode_headed_frame(frame: AudioFrame) -> bytes:
    """Form B, as the bot would send it.

    Raises:
        ValueError: half a sample, or not 48 kHz mono.
    """
    _require_wire_format(frame)
    header = {
        "speaker_id": frame.speaker_id,
        "speaker_name": frame.speaker_name,
        "timestamp_ms": frame.timestamp_ms or 0,
    }
    text = json.dumps(header).encode()
    return struct.pack(">I", len(text)) + text + frame.pcm


def encode_legacy_frame(frame: AudioFrame) -> str:
    """Form C, as the bot would send it; it has no field for the speaker's id.

    Raises:
        ValueError: half a sample, or not 48 kHz mono.
    """
    _require_wire_format(frame)
    return json.dumps(
        {
            "type": "PCMChunk",
            "speakerName": frame.speaker_name,
            "audioData": base64.b64encode(frame.pcm).decode(),
        }
    )


def _decode_headed(data: bytes) -> AudioFrame:
    (size,) = struct.unpack_from(">I", data)
    end = 4 + size
    if end > len(data):
        raise FrameError("truncated header", 0)
    header = data[4:end]
    flaws: tuple[str, ...] = ()
    try:
        text = header.decode()
    except UnicodeDecodeError:
        text, flaws = header.decode(errors="replace"), (BAD_UTF8,)
    try:
        fields = read_object(text)
        speaker_id = text_field(fields, "speaker_id") or ""
        speaker_name = text_field(fields, "speaker_name") or ""
    except ValueError as exc:
        raise FrameError(str(exc), 4) from exc
    stamp = fields.get("timestamp_ms")
    pcm, flaws = _whole_samples(data[end:], 1, flaws)
    return AudioFrame(
        speaker_id,
        speaker_name,
        pcm,
        timestamp_ms=stamp if type(stamp) is int else None,  # True is an int
        flaws=flaws,
    )


def _decode_legacy(text: str) -> AudioFrame:
    try:
        fields = read_object(text)
        if fields.get("type") != "PCMChunk":
            raise ValueError("unknown type")  # noqa: TRY301 - every way out is one except
        name = text_field(fields, "speakerName", "speaker_name") or ""
        speaker_id = text_field(fields, "speakerId", "speaker_id") or ""
        # No source shows these two; a sender that says them means them.
        rate_hz = whole_field(fields, 8_000, 192_000, "sampleRate", "sample_rate")
        channels = whole_field(fields, 1, 2, "channels") or 1
        audio = text_field(fields, "audioData")
        if audio is None:
            raise ValueError("no audioData")  # noqa: TRY301
    except ValueError as exc:
        raise FrameError(str(exc), 0) from exc
    try:
        pcm = base64.b64decode(audio, validate=True)
    except ValueError as exc:
        raise FrameError("bad base64", 0) from exc
    pcm, flaws = _whole_samples(pcm, channels, ())
    return AudioFrame(
        speaker_id, name, pcm, rate_hz=rate_hz or WIRE_RATE_HZ, channels=channels, flaws=flaws
    )


def _whole_samples(
    pcm: bytes, channels: int, flaws: tuple[str, ...]
) -> tuple[bytes, tuple[str, ...]]:
    spare = len(pcm) % (2 * channels)
    if spare:  # keeping it would shift every later sample by a byte: noise at full scale
        return pcm[:-spare], (*flaws, ODD_BYTE)
    return pcm, flaws


def _require_wire_format(frame: AudioFrame) -> None:
    if len(frame.pcm) % 2 or frame.rate_hz != WIRE_RATE_HZ or frame.channels != 1:
        raise ValueError("a frame is whole samples at 48 000 Hz, mono")
