"""Several speakers on one clock: their frames side by side, summed and saturated."""

from __future__ import annotations

import attrs
import numpy as np

from trio_bridge.audio.pcm import Samples, silence
from trio_bridge.audio.speakers import Speaker

MANY_VOICES = 64
"""Ids are a stranger's: beyond this many, those who are silent are forgotten, and the rest
share one voice."""
LONGEST_LEAD_S = 2.0
"""A speaker may be ahead of another by so much, which is the longest frame; then the mix no
longer waits for the other."""


@attrs.frozen(eq=False)
class Piece:
    """A stretch of a meeting's audio at 48 kHz."""

    speaker: Speaker | None
    """None: silence that the bridge put in, or nobody's."""
    start: int
    """Sample index on the meeting's clock."""
    samples: Samples


OTHERS = "\0"
"""One voice for all beyond `MANY_VOICES`."""


@attrs.define(eq=False)
class _Voice:
    speaker: Speaker | None
    cursor: int
    """Where this speaker's next frame begins."""
    arrived_s: float
    waiting: list[Piece] = attrs.field(factory=list)


@attrs.define(eq=False)
class Mixer:
    """Aligns one stream per speaker and sums them, up to where all of them have arrived.

    A speaker who has sent nothing for ``patience_s`` is not waited for. Nothing is mixed before
    its time has come: whoever speaks next belongs beside it, not behind it; this costs one
    frame of delay. Every sample that goes in comes out once: ``placed + silent == mixed +
    overlapped + waiting`` (in samples).
    """

    head: int
    """Everything before this index has been mixed."""
    patience_s: float
    """The jitter that is waited out; a later frame is moved to where the mix is."""
    rate_hz: int
    absent_s: float
    """A speaker silent for longer begins anew at the time of the next frame."""
    placed: int = attrs.field(default=0, init=False)
    mixed: int = attrs.field(default=0, init=False)
    overlapped: int = attrs.field(default=0, init=False)
    silent: int = attrs.field(default=0, init=False)
    _voices: dict[str, _Voice] = attrs.field(factory=dict, init=False)

    @property
    def waiting(self) -> int:
        """Samples placed and not mixed yet."""
        return sum(len(p.samples) for v in self._voices.values() for p in v.waiting)

    def place(
        self, speaker: Speaker | None, samples: Samples, clock: int, now_s: float
    ) -> Piece:
        """Put one frame where its speaker's last one ended; ``clock`` is the present index."""
        key = speaker.key if speaker is not None else ""
        voice = self._voices.get(key)
        if voice is None:
            if len(self._voices) >= MANY_VOICES:
                self._forget_absent(now_s)
            if len(self._voices) >= MANY_VOICES:
                key = OTHERS
                voice = self._voices.get(key)
        if voice is None:
            voice = self._voices[key] = _Voice(speaker, max(clock, self.head), now_s)
        elif now_s - voice.arrived_s > self.absent_s:
            voice.cursor = max(voice.cursor, clock)
        voice.speaker = speaker
        voice.arrived_s = now_s
        voice.cursor = max(voice.cursor, self.head)
        piece = Piece(speaker, voice.cursor, samples)
        voice.waiting.append(piece)
        voice.cursor += len(samples)
        self.placed += len(samples)
        return piece

    def arrived(self, now_s: float) -> int | None:
        """How far everybody has come who is still sending; None when nobody is."""
        cursors = [
            voice.cursor
            for voice in self._voices.values()
            if now_s - voice.arrived_s <= self.patience_s
        ]
        if not cursors:
            return None
        # Who is this far ahead is not waited for: memory ends before a stranger's patience.
        return max(min(cursors), max(cursors) - round(LONGEST_LEAD_S * self.rate_hz))

    def take(self, clock: int, now_s: float) -> list[Piece]:
        """The mix up to where everybody has come who is still sending, never past ``clock``."""
        end = self.arrived(now_s)
        if end is None:
            end = max((v.cursor for v in self._voices.values()), default=self.head)
        return self._mix(min(end, clock))

    def finish(self) -> list[Piece]:
        """The rest of the mix, however far each speaker has come."""
        return self._mix(max((v.cursor for v in self._voices.values()), default=self.head))

    def _forget_absent(self, now_s: float) -> None:
        for key, voice in list(self._voices.items()):
            if not voice.waiting and now_s - voice.arrived_s > self.absent_s:
                del self._voices[key]

    def _mix(self, end: int) -> list[Piece]:
        start, length = self.head, end - self.head
        if length <= 0:
            return []
        total = silence(length)
        covered = np.zeros(length, np.uint16)
        loudest: tuple[float, Speaker | None] = (-1.0, None)
        used = 0
        for voice in self._voices.values():
            energy, later = 0.0, []
            for piece in voice.waiting:
                at = piece.start - start
                if at >= length:
                    later.append(piece)
                    continue
                part = piece.samples[: length - at]
                total[at : at + len(part)] += part
                covered[at : at + len(part)] += 1
                energy += float(np.dot(part, part))
                used += len(part)
                if energy > loudest[0]:
                    loudest = (energy, voice.speaker)
                if len(part) < len(piece.samples):
                    later.append(Piece(piece.speaker, end, piece.samples[len(part) :]))
            voice.waiting = later
        np.clip(total, -1.0, 1.0, out=total)
        empty = int(np.count_nonzero(covered == 0))
        self.silent += empty
        self.overlapped += used + empty - length
        self.mixed += length
        self.head = end
        return [Piece(loudest[1], start, total)]
