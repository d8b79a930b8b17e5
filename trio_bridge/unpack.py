"""Frames of one shape, from masked WebSocket frames to float32 samples in one go.

Unmasked and converted one by one, a frame of 20 ms costs 5 us and one of 100 ms 11, mostly in
copies and in memory that has left the processor's caches. Here frames that are alike are
unmasked together, and all meetings of a thread share the room in which that happens.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trio_bridge.audio.pcm import FULL_SCALE, Samples

HEAD_BYTES = 4
"""Of a WebSocket frame with a 16-bit length (RFC 6455 §5.2); key and payload follow."""
KEY_BYTES = 4
PAYLOAD_AT = HEAD_BYTES + KEY_BYTES
SHAPES = 64
"""Shapes remembered at once: a bot has one, and most bots have the same."""
TOGETHER = 10
"""Frames unpacked in one go at most: 100 ms of frames of 10. The room for them is kept."""

_WORD, _PCM16 = np.dtype("<u4"), np.dtype("<i2")
_TO_FLOAT = np.float32(1.0 / FULL_SCALE)
_KEY_BITS = 8 * KEY_BYTES
_KEY_MASK = (1 << _KEY_BITS) - 1
_SPARE = bytes(KEY_BYTES - 1)
"""Behind the last frame, so that its last word is whole."""


class Header:
    """The first bytes of a payload, recognised without unmasking the rest."""

    __slots__ = ("_at", "_mask", "_plain", "_times")

    def __init__(self, header: bytes) -> None:
        size = len(header)
        words = -(-size // KEY_BYTES)
        self._at = slice(HEAD_BYTES, PAYLOAD_AT + words * KEY_BYTES)
        self._times = sum(1 << 8 * KEY_BYTES * n for n in range(words))
        self._mask = (1 << 8 * size) - 1
        self._plain = int.from_bytes(header, "little")

    def begins(self, frame: bytes) -> bool:
        """Whether the payload of ``frame``, whole and masked, begins with this header."""
        masked = int.from_bytes(frame[self._at], "little")  # behind the key
        key = masked & _KEY_MASK
        return (masked >> _KEY_BITS ^ key * self._times) & self._mask == self._plain


class Unpacker:
    """Unpacks frames of one size, whose samples begin at one place. Not for two threads."""

    __slots__ = ("_channels", "_lead", "_pcm_bytes", "_rooms", "_size", "_words", "_words_at")

    def __init__(self, size: int, header_bytes: int, channels: int) -> None:
        """``size``: of a frame, with its head; ``header_bytes``: of its payload, before the
        PCM16-LE samples of ``channels`` interleaved channels, which fill the rest."""
        self._lead = header_bytes % KEY_BYTES  # the key is laid out from the payload's start
        self._words_at = PAYLOAD_AT + header_bytes - self._lead
        self._words = -(-(size - self._words_at) // KEY_BYTES)
        self._pcm_bytes = size - PAYLOAD_AT - header_bytes
        self._size, self._channels = size, channels
        self._rooms: dict[int, _Room] = {}

    def unpack(self, frames: Sequence[bytes]) -> Samples:
        """The samples of ``frames``, `TOGETHER` at most, as float32 ``(n,)``, averaged over
        channels.

        They lie in shared memory and are good until the next call of this thread.
        """
        count = len(frames)
        assert count <= TOGETHER
        room = self._rooms.get(count)
        if room is None:
            room = self._rooms[count] = _Room(count, self._words, self._lead, self._pcm_bytes)
        raw = b"".join((*frames, _SPARE))
        steps = (self._size, KEY_BYTES)
        masked = np.ndarray((count, self._words), _WORD, raw, self._words_at, steps)
        keys = np.ndarray((count, 1), _WORD, raw, HEAD_BYTES, steps)
        np.bitwise_xor(masked, keys, room.words)
        np.copyto(room.wide, room.pcm)
        samples = room.samples
        np.multiply(samples, _TO_FLOAT, samples)
        if self._channels == 1:
            return samples
        mono: Samples = samples.reshape(-1, self._channels).mean(axis=1, dtype=np.float32)
        return mono


class _Room:
    """Views of the memory in which ``count`` frames are unpacked."""

    __slots__ = ("pcm", "samples", "wide", "words")

    def __init__(self, count: int, words: int, lead: int, pcm_bytes: int) -> None:
        self.words = np.empty((count, words), _WORD)
        plain: npt.NDArray[np.uint8] = self.words.view(np.uint8)
        self.pcm = plain[:, lead : lead + pcm_bytes].view(_PCM16)
        self.wide = np.empty(self.pcm.shape, np.float32)
        self.samples: Samples = self.wide.reshape(-1)


class _Mine(threading.local):
    """A thread's own, so that meetings of two loops never share a room."""

    def __init__(self) -> None:
        self.unpackers: dict[tuple[int, int, int], Unpacker] = {}


_mine = _Mine()


def unpacker(size: int, header_bytes: int, channels: int) -> Unpacker:
    """This thread's `Unpacker` for such frames."""
    key = size, header_bytes, channels
    known = _mine.unpackers
    found = known.get(key)
    if found is None:
        if len(known) >= SHAPES:
            known.clear()
        found = known[key] = Unpacker(*key)
    return found
