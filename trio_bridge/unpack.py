"""Frames, from masked WebSocket frames to float32 samples, those of many meetings in one go.

Unmasked and converted alone, a frame of 20 ms costs 3.5 us while all it needs is in the
processor's caches, and 8 to 10 where two hundred meetings had their turn in between; of sixteen
together each costs 1.5. So frames from which something will come are announced, and whoever is
the first to need his has all that were announced unpacked along.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trio_bridge.audio.pcm import FULL_SCALE, Samples

HEAD_BYTES = 4
"""Of a WebSocket frame with a 16-bit length (RFC 6455 §5.2); key and payload follow."""
KEY_BYTES = 4
PAYLOAD_AT = HEAD_BYTES + KEY_BYTES
SHAPES = 16
"""Shapes remembered at once: most bots have the same four."""
ROOM_FRAMES, ROOM_SAMPLES = 32, 32 * 960
"""Unpacked in one go at most: 32 frames of 20 ms. The room for it has 180 KiB, small enough for
a second cache."""
FEW = 2
"""Frames that are unpacked one by one where nobody else's wait: more are cheaper together."""
ROOMS = 2
"""Kept of a shape at most: not everybody may have taken his yet when the next needs some. So a
thread keeps less than 8 MiB, whatever its bots send."""

_WORD, _PCM16 = np.dtype("<u4"), np.dtype("<i2")
_TO_FLOAT = np.array(1.0 / FULL_SCALE, np.float32)
_KEY = slice(HEAD_BYTES, PAYLOAD_AT)
_KEY_BITS = 8 * KEY_BYTES
_KEY_MASK = (1 << _KEY_BITS) - 1
_Words = npt.NDArray[np.uint32]


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


class Parcel:
    """Frames of one meeting that wait to be unpacked, one behind the other."""

    __slots__ = ("_unpacker", "announced", "at", "frames", "ready", "room")

    def __init__(self, header_bytes: int, samples: int, channels: int) -> None:
        """Each frame's payload has ``header_bytes`` and then PCM16-LE, ``samples`` of each of
        ``channels`` interleaved channels."""
        lead = header_bytes % KEY_BYTES  # the key is laid out from the payload's start
        self._unpacker = _unpacker(lead, samples, channels)
        self.at = PAYLOAD_AT + header_bytes - lead
        """Where the first word with a sample in it begins."""
        self.frames: list[bytes] = []
        """Whole and masked, all of one size; append to them."""
        self.announced = False
        self.ready: Samples | None = None
        """What was unpacked, often along with another's, and not taken yet."""
        self.room: _Room | None = None
        """Where that lies."""

    def announce(self) -> None:
        """It is taken soon: whoever is the first to need his may have it unpacked along."""
        if not self.announced:
            self.announced = True
            self._unpacker.due.append(self)

    def take(self) -> Samples:
        """The oldest samples, all or as many as are unpacked in one go, as float32 ``(n,)``,
        averaged over channels. There must be some.

        They lie in shared memory and are good until the next call in this thread.
        """
        if self.ready is None:
            self._unpacker.unpack(self)
        ready, room = self.ready, self.room
        assert ready is not None
        assert room is not None
        self.ready = self.room = None
        room.lent -= 1
        return ready


class _Unpacker:
    """Unpacks frames whose samples lie alike. Not for two threads."""

    __slots__ = (
        "_channels",
        "_desks",
        "_few",
        "_lead",
        "_length",
        "_most",
        "_pad",
        "_rooms",
        "_words",
        "due",
    )

    def __init__(self, lead: int, samples: int, channels: int) -> None:
        self._lead, self._length, self._channels = lead, samples, channels
        used = lead + 2 * samples * channels
        self._words = -(-used // KEY_BYTES)
        self._pad = bytes(self._words * KEY_BYTES - used)
        """Behind a frame, so that its last word is whole."""
        self._most = max(1, min(ROOM_FRAMES, ROOM_SAMPLES // (samples * channels)))
        self._few = min(FEW, self._most)
        self._rooms: list[_Room] = []
        self._desks: dict[int, _Desk] = {}
        """Where frames are unmasked one by one, by where their words begin."""
        self.due: list[Parcel] = []
        """Announced, each once; some may have been taken since."""

    def unpack(self, first: Parcel) -> None:
        """Unpack what ``first`` has, and as much of the others' as there is room for."""
        room, due, self.due = self._free_room(), self.due, []
        if len(first.frames) <= self._few and (not due or due == [first]):
            first.ready = self._alone(room, first.frames, first.at)
            first.frames, first.room, room.lent = [], room, 1
            first.announced = False
            return
        if due and due[-1] is first:
            due.reverse()  # Trio runs those whom one turn has woken forwards or backwards
        masked, keys, lots = list[bytes](), list[bytes](), list[tuple[Parcel, int]]()
        for n, parcel in enumerate((first, *due)):
            frames, at, left = parcel.frames, parcel.at, self._most - len(masked)
            if not left:
                self.due = due[n - 1 :]
                break
            parcel.announced = False
            if not frames or parcel.ready is not None or (n and parcel is first):
                continue
            for frame in frames[:left]:
                masked.append(frame[at:])
                keys.append(frame[_KEY])
            lots.append((parcel, min(len(frames), left)))
        samples, start = self._together(room, masked, keys), 0
        for parcel, count in lots:  # nothing of theirs has changed before, should that fail
            end = start + count * self._length
            parcel.frames, parcel.room = parcel.frames[count:], room
            parcel.ready = samples[start:end]
            start = end
        room.lent = len(lots)

    def _free_room(self) -> _Room:
        for room in self._rooms:
            if not room.lent:
                return room
        room = _Room(self._most, self._words, self._lead, self._length * self._channels)
        # Of a meeting that is over some may never be taken: what is not free is not ours.
        self._rooms = [room, *self._rooms[: ROOMS - 1]]
        return room

    def _alone(self, room: _Room, frames: list[bytes], at: int) -> Samples:
        """A few frames with their samples ``at`` one place: each with calls of numpy's that are
        cheaper, since their arrays have one dimension and are there already."""
        rows = room.rows(len(frames))
        whole, masked, key = self._desks.get(at) or self._new_desk(at)
        for frame, row in zip(frames, rows.each, strict=True):
            whole[:] = frame
            np.bitwise_xor(masked, key, row)
        return self._samples(rows)

    def _new_desk(self, at: int) -> _Desk:
        if len(self._desks) >= SHAPES:
            del self._desks[next(iter(self._desks))]
        raw = bytearray(at + self._words * KEY_BYTES)
        whole = memoryview(raw)[: len(raw) - len(self._pad)]
        masked = np.ndarray(self._words, _WORD, raw, at)
        desk = self._desks[at] = _Desk(whole, masked, np.ndarray((), _WORD, raw, HEAD_BYTES))
        return desk

    def _together(self, room: _Room, masked: list[bytes], keys: list[bytes]) -> Samples:
        """Frames' ends, from the first word with a sample in it, and their keys."""
        count = len(keys)
        raw = self._pad.join((*masked, b""))
        words = np.ndarray((count, self._words), _WORD, raw)
        rows = room.rows(count)
        np.bitwise_xor(words, np.ndarray((count, 1), _WORD, b"".join(keys)), rows.words)
        return self._samples(rows)

    def _samples(self, rows: _Rows) -> Samples:
        samples = rows.samples
        np.copyto(rows.wide, rows.pcm)
        np.multiply(samples, _TO_FLOAT, samples)
        if self._channels == 1:
            return samples
        mono: Samples = samples.reshape(-1, self._channels).mean(axis=1, dtype=np.float32)
        return mono


class _Room:
    """The memory in which frames are unpacked, a row each."""

    __slots__ = ("_pcm", "_rows", "_wide", "_words", "lent")

    def __init__(self, most: int, words: int, lead: int, samples: int) -> None:
        self._words = np.empty((most, words), _WORD)
        plain: npt.NDArray[np.uint8] = self._words.view(np.uint8)
        self._pcm = plain[:, lead : lead + 2 * samples].view(_PCM16)
        self._wide = np.empty((most, samples), np.float32)
        self._rows: dict[int, _Rows] = {}
        self.lent = 0
        """Parcels of which the samples lie here and were not taken yet."""

    def rows(self, count: int) -> _Rows:
        """The first ``count``."""
        found = self._rows.get(count)
        if found is None:
            words, pcm, wide = self._words[:count], self._pcm[:count], self._wide[:count]
            if pcm.flags.c_contiguous:
                pcm, wide = pcm.reshape(-1), wide.reshape(-1)
            found = self._rows[count] = _Rows(
                words, list(words[:FEW]), pcm, wide, wide.reshape(-1)
            )
        return found


class _Rows(NamedTuple):
    words: _Words
    each: list[_Words]
    """A row each, of `FEW` at most."""
    pcm: npt.NDArray[np.int16]
    """What is in the words."""
    wide: Samples
    """Of the same shape."""
    samples: Samples
    """The same, as ``(n,)``."""


class _Desk(NamedTuple):
    """Room for one whole frame, one after the other, and what is to be looked at in it."""

    whole: memoryview
    masked: _Words
    """From the first word with a sample in it."""
    key: _Words
    """As ``()``."""


class _Mine(threading.local):
    """A thread's own, so that meetings of two loops never share a room."""

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
