"""What the meeting heard, kept in pieces and mixed only when it is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import numpy as np

from trio_bridge.simulator.voices import Voice
from trio_bridge.simulator.wavs import MEETING_RATE_HZ, Int16, to_pcm16


@attrs.define(eq=False)
class Recording:
    """The bot's speech on the meeting's timeline; the people are mixed in at the end.

    Grows by 96 kB a second of speech, and by nothing in silence.
    """

    _pieces: list[tuple[int, Int16]] = attrs.field(factory=list, init=False)
    _end: int = attrs.field(default=0, init=False)

    def add(self, at: int, samples: Int16, *, follows: bool) -> None:
        """Put ``samples`` at sample ``at``, or right after the piece before.

        ``follows`` says they were heard without a pause: rounding must not tear them apart.
        Pieces never overlap, one that would is put after the other.
        """
        start = self._end if follows else max(at, self._end)
        self._pieces.append((start, samples))
        self._end = start + len(samples)

    def blocks(self, voices: Sequence[Voice], count: int) -> Iterator[Int16]:
        """The first ``count`` samples of the meeting, int16, about a second at a time."""
        first = 0
        for start in range(0, count, MEETING_RATE_HZ):
            end = min(start + MEETING_RATE_HZ, count)
            mixed = np.zeros(end - start, np.float32)
            for voice in voices:
                if voice.start < end and voice.end > start:
                    mixed += voice.cut_out(start, end - start)
            while first < len(self._pieces) and _end(self._pieces[first]) <= start:
                first += 1
            for at, piece in self._from(first, end):
                low, high = max(start, at), min(end, at + len(piece))
                mixed[low - start : high - start] += piece[low - at : high - at] / np.float32(
                    32768.0
                )
            yield to_pcm16(mixed)

    def _from(self, first: int, end: int) -> Iterator[tuple[int, Int16]]:
        for index in range(first, len(self._pieces)):
            if self._pieces[index][0] >= end:
                return
            yield self._pieces[index]


def _end(piece: tuple[int, Int16]) -> int:
    return piece[0] + len(piece[1])
