"""Energy voice-activity detection: where an utterance begins and ends.

Works on 20 ms blocks. A block is speech when it is louder than a fixed threshold and than the
noise floor by a margin; the floor follows the quietest audio quickly downwards and slowly up.
Speech must last ``onset_s`` to count; silence must last ``hangover_s`` to end it. A segment
keeps the ``preroll_s`` before it was detected, so that its first consonant is not lost.
"""

from __future__ import annotations

from collections import deque

import attrs
import numpy as np

from trio_bridge.audio.pcm import SILENCE_DBFS, Samples, level_dbfs

BLOCK_S = 0.02
TAIL_S = 0.2
"""Silence that an utterance keeps at its end."""
FLOOR_RISE_DB = 0.05
"""A block: 2.5 dB a second, so that an air conditioner is noise after some seconds and a
sentence is not."""
FLOOR_START_DBFS = -60.0
LOWEST_FLOOR_DBFS = -80.0


@attrs.frozen(kw_only=True)
class VadSettings:
    """How speech is told from silence."""

    threshold_dbfs: float = -45.0
    """Below this a block is silence; close speech is around -25, a quiet voice -40."""
    margin_db: float = 9.0
    """How far above the noise floor speech must be."""
    onset_s: float = 0.1
    """Shorter noises (a click, a cough's start) start nothing."""
    hangover_s: float = 0.6
    """Silence that ends an utterance: longer than a breath, shorter than impatience."""
    preroll_s: float = 0.3
    """Audio kept from before the detection."""
    longest_s: float = 30.0
    """An utterance is cut here, so that a noisy line cannot fill the memory."""


@attrs.frozen
class SpeechStarted:
    """Somebody began to speak."""

    at: int
    """Sample index of the detection (not of the pre-roll) since the stream began."""


@attrs.frozen(eq=False)
class SpeechEnded:
    """An utterance is complete."""

    start: int
    """Sample index of ``samples[0]``, pre-roll included, since the stream began."""
    samples: Samples


VadEvent = SpeechStarted | SpeechEnded


class EnergyVad:
    """Cuts one stream into utterances. ``feed`` takes blocks of any length.

    With ``keep`` false it holds no audio, 6 MB of a long utterance at 48 kHz: what it reports
    has the times alone, and ends where it begins.
    """

    def __init__(
        self, rate_hz: int, settings: VadSettings | None = None, *, keep: bool = True
    ) -> None:
        self.settings = settings = settings or VadSettings()
        self._keep = keep
        self._block = round(rate_hz * BLOCK_S)
        self._onset = _blocks(settings.onset_s)
        self._hangover = _blocks(settings.hangover_s)
        self._longest = _blocks(settings.longest_s)
        # The pre-roll precedes the detection, which comes an onset after the first sound.
        self._before: deque[Samples] = deque(maxlen=_blocks(settings.preroll_s) + self._onset)
        self._segment: list[Samples] = []
        self._rest = np.zeros(0, np.float32)
        self._done = 0
        self._loud = self._quiet = 0
        self._floor_dbfs = FLOOR_START_DBFS

    @property
    def speaking(self) -> bool:
        """Somebody is speaking, or stopped less than the hangover ago."""
        return bool(self._segment)

    def feed(self, samples: Samples, *, may_start: bool = True) -> list[VadEvent]:
        """What began and ended in ``samples``.

        With ``may_start`` false they can continue an utterance but not begin one: audio of
        nobody in particular.
        """
        events: list[VadEvent] = []
        data = np.concatenate((self._rest, samples)) if self._rest.size else samples
        whole = len(data) - len(data) % self._block
        for at in range(0, whole, self._block):
            self._take(data[at : at + self._block], may_start, events)
        self._rest = data[whole:].copy()
        return events

    def finish(self) -> list[VadEvent]:
        """The stream is over: the utterance under way, if any, ends here."""
        events: list[VadEvent] = []
        if self._segment:
            self._segment.append(self._rest if self._keep else _NO_SAMPLES)
            self._done += len(self._rest)
            self._close(events)
        self._rest = self._rest[:0]
        return events

    def _take(self, block: Samples, may_start: bool, events: list[VadEvent]) -> None:
        self._done += len(block)
        loud = self._is_speech(block)
        if not self._keep:
            block = _NO_SAMPLES
        if not self._segment:
            self._before.append(block)
            # Down again by one, not to zero: a word has silent stops ("stop talking" three).
            self._loud = self._loud + 1 if loud and may_start else max(0, self._loud - 1)
            if self._loud >= self._onset:
                self._segment = list(self._before)
                self._before.clear()
                self._quiet = 0
                events.append(SpeechStarted(self._done))
            return
        self._segment.append(block)
        self._quiet = 0 if loud else self._quiet + 1
        if self._quiet >= self._hangover or len(self._segment) >= self._longest:
            self._close(events)

    def _close(self, events: list[VadEvent]) -> None:
        start = self._done - sum(len(block) for block in self._segment)
        # Of the silence that proved the end, a recogniser needs a little and an echo nothing.
        spare = max(0, self._quiet - _blocks(TAIL_S))
        samples = np.concatenate(self._segment[: len(self._segment) - spare])
        self._segment = []
        self._loud = self._quiet = 0
        events.append(SpeechEnded(start, samples))

    def _is_speech(self, block: Samples) -> bool:
        level = level_dbfs(block)
        if level > SILENCE_DBFS:  # digital silence says nothing about the room's noise
            floor = self._floor_dbfs
            self._floor_dbfs = max(min(floor + FLOOR_RISE_DB, level), LOWEST_FLOOR_DBFS)
        return level > max(
            self.settings.threshold_dbfs, self._floor_dbfs + self.settings.margin_db
        )


_NO_SAMPLES: Samples = np.zeros(0, np.float32)


def _blocks(seconds: float) -> int:
    return max(1, round(seconds / BLOCK_S))
