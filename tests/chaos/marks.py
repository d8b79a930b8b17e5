"""Frames that say which they are, and who noted when. Knows no server and no network.

A neighbour's frame is silence but for five faint samples with its number. They reach an agent
that listens at 48 kHz as they were sent, so every single frame can be missed, and its way be
timed: both ends note the number, the time and how long the server had waited for its core by
then, in a file that both have mapped.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import attrs
import numpy as np
import numpy.typing as npt

FRAME_SAMPLES = 960
"""20 ms at 48 kHz."""
SLOTS = 4_096
"""Frames of each bot that are remembered: 82 s."""
FILE_VARIABLE = "CHAOS_NOTES"
"""Environment variable: where the agents note what they heard."""
BOTS_VARIABLE = "CHAOS_BOTS"
"""Environment variable: how many bots send such frames; the first ones."""

_SYNC = 127
_BASE = 100
_DIGITS = 4
_WORDS = 3
_WORD_BYTES = 8
Ints = npt.NDArray[np.int64]


def marked_pcm(number: int) -> bytes:
    """20 ms of PCM16-LE at 48 kHz, at -70 dBFS, that say ``number`` (below 10^8)."""
    samples = np.zeros(FRAME_SAMPLES, "<i2")
    samples[0] = _SYNC
    for place in range(_DIGITS):
        number, digit = divmod(number, _BASE)
        samples[place + 1] = digit + 1  # zero is silence
    data: bytes = samples.tobytes()
    return data


@attrs.define
class MarkReader:
    """Reads the numbers out of audio that is cut anywhere and has silence put in."""

    _digits: list[int] | None = attrs.field(default=None, init=False)

    def read(self, samples: npt.NDArray[np.float32]) -> list[int]:
        """Numbers whose last digit is in ``samples``: float32 ``(n,)`` at 48 kHz."""
        numbers: list[int] = []
        for value in samples[np.flatnonzero(samples)]:
            digit = round(float(value) * 32768)
            if digit == _SYNC:
                self._digits = []
            elif self._digits is not None:
                self._digits.append(digit - 1)
                if len(self._digits) == _DIGITS:
                    numbers.append(sum(d * _BASE**i for i, d in enumerate(self._digits)))
                    self._digits = None
        return numbers


class Notes:
    """A file of (number, when, waited) by bot and frame, which several processes map."""

    def __init__(self, path: Path, bots: int, *, make: bool = False) -> None:
        """``make`` it anew first. It is mapped whole, so that it never grows."""
        size = bots * SLOTS * _WORDS * _WORD_BYTES
        self.bots = bots
        with path.open("w+b" if make else "r+b") as file:
            if make:
                file.truncate(size)
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            self._map = mmap.mmap(file.fileno(), size, flags=flags)
        self._words = memoryview(self._map).cast("q")

    def note(self, bot: int, number: int, now_ns: int, waited_ns: int) -> None:
        """``bot``'s frame ``number`` was here at ``now_ns`` of CLOCK_MONOTONIC."""
        at = (bot * SLOTS + number % SLOTS) * _WORDS
        words = self._words
        words[at + 1] = now_ns
        words[at + 2] = waited_ns
        words[at] = number + 1  # last: who reads it meanwhile takes it for an older one

    def read(self, bot: int) -> dict[int, tuple[int, int]]:
        """(when, waited) of the frames still remembered, by number."""
        rows = np.array(self._words, np.int64).reshape(self.bots, SLOTS, _WORDS)[bot]
        return {int(row[0]) - 1: (int(row[1]), int(row[2])) for row in rows if row[0]}

    def last(self, bot: int) -> int:
        """The highest number noted; -1 for none."""
        at = bot * SLOTS * _WORDS
        return max(self._words[at : at + SLOTS * _WORDS : _WORDS]) - 1


def open_waited(pid: int) -> int:
    """A descriptor for `read_waited_ns`: of the first thread of ``pid``, 0 for this one."""
    place = f"/proc/{pid}/task/{pid}" if pid else "/proc/thread-self"
    return os.open(f"{place}/schedstat", os.O_RDONLY | os.O_CLOEXEC)


def read_waited_ns(descriptor: int) -> int:
    """Nanoseconds that the thread was ready to run and others had its core; costs 2 us."""
    return int(os.pread(descriptor, 64, 0).split()[1])
