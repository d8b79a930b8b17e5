"""What the agent remembers of a meeting: who spoke for how long, and the last lines."""

from __future__ import annotations

from collections import deque

import attrs
import numpy as np

from trio_bridge.audio.pcm import Samples

LINES_KEPT = 200
SPEAKERS_KEPT = 500
"""A public meeting can have any number of names in it; the memory for them is bounded."""
BLOCK_S = 0.02
SPEECH_RANGE_DB = 35.0
"""A block this far below the utterance's loudest one is not speech: breath, room, hangover."""


@attrs.frozen
class Line:
    """One thing that was said or written."""

    speaker: str
    text: str


@attrs.define(eq=False)
class MeetingNotes:
    """One meeting's memory; only its own agent writes to it."""

    _lines: deque[Line] = attrs.field(factory=lambda: deque(maxlen=LINES_KEPT), init=False)
    _names: dict[str, str] = attrs.field(factory=dict, init=False)
    _spoken_s: dict[str, float] = attrs.field(factory=dict, init=False)
    last_answer: str = attrs.field(default="", init=False)
    """What we said last, to say it again."""

    def add_speech(self, key: str, name: str, seconds: float) -> None:
        """Somebody spoke for ``seconds``. ``key`` tells people of the same name apart."""
        if key not in self._spoken_s and len(self._spoken_s) >= SPEAKERS_KEPT:
            return
        self._names[key] = name
        self._spoken_s[key] = self._spoken_s.get(key, 0.0) + seconds

    def add_line(self, speaker: str, text: str) -> None:
        """Something was said that was not a command to us."""
        self._lines.append(Line(speaker, text))

    def talkers(self) -> list[tuple[str, float]]:
        """Everybody who spoke, with their seconds, the most talkative first."""
        totals = [(self._names[key], spoken_s) for key, spoken_s in self._spoken_s.items()]
        return sorted(totals, key=lambda talker: -talker[1])

    def last_lines(self, count: int) -> list[Line]:
        """The last ``count`` lines, oldest first."""
        return list(self._lines)[-count:]


def spoken_s(samples: Samples, rate_hz: int) -> float:
    """How long the speech in ``samples`` (float32 ``(n,)``) is, in seconds.

    From its first loud block to its last: an utterance also holds the pre-roll before and some
    silence after, half a second together, which would flatter the brief.
    """
    block = max(1, round(rate_hz * BLOCK_S))
    blocks = samples[: len(samples) - len(samples) % block].reshape(-1, block)
    power = np.mean(np.square(blocks), axis=1) if len(blocks) else np.zeros(0, np.float32)
    if not power.size or not power.max() > 0.0:
        return 0.0
    (loud,) = np.nonzero(power >= power.max() * 10.0 ** (-SPEECH_RANGE_DB / 10.0))
    return float((loud[-1] - loud[0] + 1) * block / rate_hz)
