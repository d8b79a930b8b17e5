"""Barge-in: a person who speaks while we do, long enough to mean it."""

from __future__ import annotations

import attrs

from trio_bridge.audio.mixing import Piece
from trio_bridge.audio.timeline import RATE_HZ
from trio_bridge.audio.vad import EnergyVad, SpeechStarted, VadSettings


@attrs.define(eq=False)
class BargeIn:
    """Listens only while we speak, so that it costs nothing the rest of the time."""

    onset_s: float
    """Seconds of speech that count as an interruption; 0: nothing does."""
    vad: VadSettings
    _listening: EnergyVad | None = attrs.field(default=None, init=False)

    def hears(self, pieces: list[Piece], speaking: bool) -> bool:
        """Whether somebody has just begun to speak while we do; once an utterance of theirs."""
        if not speaking or not self.onset_s:
            self._listening = None
            return False
        if self._listening is None:
            settings = attrs.evolve(self.vad, onset_s=self.onset_s, preroll_s=0.0)
            self._listening = EnergyVad(RATE_HZ, settings, keep=False)
        began = False
        for piece in pieces:
            may_start = piece.speaker is not None and piece.speaker.may_start_turn
            for event in self._listening.feed(piece.samples, may_start=may_start):
                began = began or isinstance(event, SpeechStarted)
        return began
