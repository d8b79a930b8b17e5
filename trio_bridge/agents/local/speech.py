"""Speech between the voice's process and the agent: values and their bytes."""

from __future__ import annotations

import io
import struct

import attrs

from trio_bridge.agents.local.errors import AgentError
from trio_bridge.audio.pcm import Samples, from_pcm16

VOICE = "en-us"
RATE_WORDS_PER_MIN = 165
"""A little under the library's 175: what is heard through a meeting's codec is heard once."""

RATE = struct.Struct(">I")


@attrs.frozen(eq=False)
class Speech:
    """What a voice said."""

    samples: Samples
    """float32 ``(n,)``, full scale +-1.0."""
    rate_hz: int


def encode_speech(pcm: bytes, rate_hz: int) -> bytes:
    """Bytes for the pipe: rate, then PCM16-LE."""
    return RATE.pack(rate_hz) + pcm


def decode_speech(data: bytes) -> Speech:
    """What `encode_speech` made.

    Raises:
        AgentError: it did not.
    """
    if len(data) < RATE.size or len(data) % 2:
        raise AgentError("the voice answered with something that is not speech")
    (rate_hz,) = RATE.unpack_from(data)
    return _speech(data[RATE.size :], rate_hz)


def read_wav(data: bytes) -> Speech:
    """What ``espeak-ng --stdout`` writes: mono PCM16 with a header made before its length was
    known, which says two gigabytes.

    Raises:
        AgentError: it is not such a file.
    """
    stream = io.BytesIO(data)
    if stream.read(4) != b"RIFF" or stream.read(8)[4:] != b"WAVE":
        raise AgentError("espeak-ng wrote no WAV file")
    rate_hz = 0
    while len(head := stream.read(8)) == 8:
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"data" and rate_hz:
            pcm = stream.read(size)
            return _speech(pcm[: len(pcm) - len(pcm) % 2], rate_hz)
        body = stream.read(size + size % 2)
        if head[:4] == b"fmt " and len(body) >= 16:
            kind, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", body[:16])
            if (kind, channels, bits) != (1, 1, 16):
                break
    raise AgentError("espeak-ng wrote a WAV file that is not mono PCM16")


def _speech(pcm: bytes, rate_hz: int) -> Speech:
    if not 4_000 <= rate_hz <= 192_000:
        raise AgentError(f"the voice speaks at {rate_hz} Hz")
    return Speech(from_pcm16(pcm), rate_hz)
