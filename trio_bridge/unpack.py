"""Frames, from masked WebSocket frames to float32 samples.

The arrays that this takes are there already, and are used again for the next meeting's frames,
so they lie in the processor's caches however many meetings there are. In a warm loop a frame of
20 ms costs 1.7 us and two together 2.1, where each had arrays of its own 2.6 and 3.7; and among
hundreds of meetings those cost twice that.
"""

from __future__ import annotations

import functools
import threading
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trio_bridge.audio.pcm import FULL_SCALE, Samples
from trio_bridge.audio.speakers import LONGEST_TEXT

HEAD_BYTES = 4
"""Of a WebSocket frame with a 16-bit length (RFC 6455 §5.2); key and payload follow."""
KEY_BYTES = 4
PAYLOAD_AT = HEAD_BYTES + KEY_BYTES
SHAPES = 16
"""Shapes remembered at once, and lengths of header for each: most bots have the same four."""
ROOM_FRAMES, ROOM_SAMPLES = 32, 32 * 960
"""Unpacked in one go at most: 32 frames of 20 ms. The room for it has 190 KiB, small enough for
a second cache; with 16 shapes, of frames of 64 KiB at most, a thread keeps less than 4 MiB."""
WORDS_AT = 2_064
"""Where the words with samples begin in the room for one masked frame: behind the longest
header, of an id and a name of `LONGEST_TEXT` characters, four bytes each."""

LONGEST_HEADER = 5 + 2 * 4 * LONGEST_TEXT

assert WORDS_AT >= PAYLOAD_AT + LONGEST_HEADER
_WORD, _PCM16 = np.dtype("<u4"), np.dtype("<i2")
_TO_FLOAT = np.array(1.0 / FULL_SCALE, np.float32)
_WHOLE_BINARY_16 = b"\x82\xfe"
"""A binary message in one masked frame, whose length has 16 bits (RFC 6455 §5.2)."""
_KEY_AT_BIT, _KEY_MASK = 8 * HEAD_BYTES, (1 << 8 * KEY_BYTES) - 1
_Words = npt.NDArray[np.uint32]


class Header:
    """The first bytes of a binary message in one frame, recognised without unmasking the rest.

    What does not depend on what they say is shared by all of one length, so that it lies in
    the processor's caches.
    """

    __slots__ = ("_end", "_mask", "_plain", "_times")

    def __init__(self, header: bytes, payload_bytes: int) -> None:
        """``header`` begins the payload, of which there are ``payload_bytes``: 126 at least,
        65,535 at most."""
        self._end, self._times, self._mask = _pattern(len(header))
        head = _WHOLE_BINARY_16 + payload_bytes.to_bytes(2, "big")
        self._plain = int.from_bytes(head + bytes(KEY_BYTES) + header, "little")

    @property
    def needs(self) -> tuple[object, ...]:
        """What `begins` will look at."""
        return self, self._plain

    def begins(self, frame: bytes) -> bool:
        """Whether ``frame``, whole and masked, has that length and begins with this header."""
        masked = int.from_bytes(frame[: self._end], "little")
        key = masked >> _KEY_AT_BIT & _KEY_MASK
        return (masked ^ key * self._times) & self._mask == self._plain


@functools.lru_cache(LONGEST_HEADER)
def _pattern(size: int) -> tuple[int, int, int]:
    """Where the words end in which a header of ``size`` bytes lies; what the key, times it, is
    in each of them; and which bits must be as expected: all but the key and what follows."""
    words = -(-size // KEY_BYTES)
    times = sum(1 << 8 * (PAYLOAD_AT + KEY_BYTES * n) for n in range(words))
    mask = (1 << 8 * (PAYLOAD_AT + size)) - 1 ^ _KEY_MASK << _KEY_AT_BIT
    return PAYLOAD_AT + words * KEY_BYTES, times, mask


class Parcel:
    """Frames of one meeting that wait to be unpacked, one behind the other."""

    __slots__ = ("_at", "_unpacker", "frames")

    def __init__(self, header_bytes: int, samples: int, channels: int) -> None:
        """Each frame's payload has ``header_bytes`` and then PCM16-LE, ``samples`` of each of
        ``channels`` interleaved channels."""
        lead = header_bytes % KEY_BYTES  # the key is laid out from the payload's start
        self._unpacker = _unpacker(lead, samples, channels)
        self._at = PAYLOAD_AT + header_bytes - lead
        """Where the first word with a sample in it begins."""
        self.frames: list[bytes] = []
        """Whole and masked, all of one size; append to them. It is always the same list."""

    def take(self) -> Samples:
        """The oldest samples, all or as many as are unpacked in one go, as float32 ``(n,)``,
        averaged over channels. There must be some.

        They may lie in shared memory and are good until the next call in this thread.
        """
        unpacker, frames = self._unpacker, self.frames
        most = unpacker.most
        if len(frames) <= most:  # as nearly always
            samples = unpacker.unpack(frames, self._at)
            frames.clear()
        else:
            samples = unpacker.unpack(frames[:most], self._at)
            del frames[:most]
        return samples


class _Unpacker:
    """Unpacks frames whose samples lie alike. Not for two threads."""

    __slots__ = (
        "_channels", "_desks", "_each", "_length", "_masked", "_plain", "_raw", "_rows",
        "_size", "_wide", "most",
    )  # fmt: skip

    def __init__(self, lead: int, samples: int, channels: int) -> None:
        """Behind ``lead`` bytes that are no samples, counted from a whole word."""
        length = samples * channels
        self._channels, self._length, self._size = channels, length, lead + 2 * length
        self.most = max(1, min(ROOM_FRAMES, ROOM_SAMPLES // length))
        """Frames at once."""
        words = -(-self._size // KEY_BYTES)
        self._raw = bytearray(WORDS_AT + words * KEY_BYTES)
        """Room for a masked frame, one after the other; a lone one is unmasked there, too."""
        self._masked = np.ndarray(words, _WORD, self._raw, WORDS_AT)
        self._desks: dict[int, _Desk] = {}
        """By where in a frame the words begin."""
        self._plain = np.empty((self.most, words), _WORD)
        self._each = list(self._plain)
        """A row for each frame of several, unmasked."""
        self._wide = np.empty((self.most, length), np.float32)
        self._rows: dict[int, _Rows] = {}
        """By how many they are."""

    def unpack(self, frames: list[bytes], at: int) -> Samples:
        """``most`` frames or fewer, whose words begin ``at`` one place."""
        rows = self._rows.get(len(frames)) or self._new_rows(len(frames))
        whole, key = self._desks.get(at) or self._new_desk(at)
        masked = self._masked
        for frame, row in zip(frames, rows.words, strict=True):
            whole[:] = frame
            np.bitwise_xor(masked, key, row)
        samples = rows.samples
        np.copyto(rows.wide, rows.pcm)
        np.multiply(samples, _TO_FLOAT, samples)
        if self._channels == 1:
            return samples
        mono: Samples = samples.reshape(-1, self._channels).mean(axis=1, dtype=np.float32)
        return mono

    def _new_rows(self, count: int) -> _Rows:
        # A lone one stays where it was masked: there is less to touch.
        lone = count == 1
        plain = self._masked.reshape(1, -1) if lone else self._plain[:count]
        words = [self._masked] if lone else self._each[:count]
        wide = self._wide[:count]
        data: npt.NDArray[np.uint8] = plain.view(np.uint8)
        pcm = data[:, self._size - 2 * self._length : self._size].view(_PCM16)
        samples = wide.reshape(-1)
        if pcm.flags.c_contiguous:  # numpy is quicker with one dimension
            pcm, wide = pcm.reshape(-1), samples
        rows = self._rows[count] = _Rows(words, pcm, wide, samples)
        return rows

    def _new_desk(self, at: int) -> _Desk:
        if len(self._desks) >= SHAPES:
            del self._desks[next(iter(self._desks))]
        begin = WORDS_AT - at
        desk = self._desks[at] = _Desk(
            memoryview(self._raw)[begin : WORDS_AT + self._size],
            np.ndarray((), _WORD, self._raw, begin + HEAD_BYTES),
        )
        return desk


class _Rows(NamedTuple):
    """Some frames at once."""

    words: list[_Words]
    """Where each frame's are unmasked."""
    pcm: npt.NDArray[np.int16]
    """What is in their words."""
    wide: Samples
    """Of the same shape."""
    samples: Samples
    """The same, as ``(n,)``."""


class _Desk(NamedTuple):
    """Where a masked frame is put so that its words come to lie at `WORDS_AT`."""

    whole: memoryview
    key: _Words
    """As ``()``."""


class _Mine(threading.local):
    """A thread's own, so that meetings of two loops never share room."""

    def __init__(self) -> None:
        self.unpackers: dict[tuple[int, int, int], _Unpacker] = {}


_mine = _Mine()


def _unpacker(lead: int, samples: int, channels: int) -> _Unpacker:
    """This thread's, for such frames."""
    key = lead, samples, channels
    known = _mine.unpackers
    found = known.get(key)
    if found is None:
        if len(known) >= SHAPES:
            del known[next(iter(known))]
        found = known[key] = _Unpacker(*key)
    return found
