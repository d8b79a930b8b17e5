"""Are the frames of a meeting one mixed stream, or one stream per speaker?

MeetStream's sources contradict each other, so the frames themselves must tell. In a mixed
stream every frame begins when the one before it ends, so none can begin before its time;
streams of several speakers, taken for one, run ahead of the clock, with the speaker changing
at every frame. The guard holds a frame back only while this is in question (some 40 ms, and
only when another speaker's frame comes before its time), so nothing is misplaced meanwhile.
"""

from __future__ import annotations

from typing import Literal

import attrs

from trio_bridge.audio.pcm import Samples
from trio_bridge.audio.speakers import Speaker

Layout = Literal["auto", "mixed", "separate"]
Verdict = Literal["one", "hold", "several"]

CHANGES_FOR_SEVERAL = 4
"""Speaker changes among the held frames that prove several streams: a mixed stream's label
does not alternate frame by frame, not even in a burst after a stall."""
FRAMES_FOR_ONE = 8
"""Held frames without that many changes: it was a burst."""
HOLD_FRAMES = 3
"""...or this many frame lengths on the clock, whichever comes first."""
SHORTEST_HOLD_S = 0.1


@attrs.frozen(eq=False)
class HeldFrame:
    """A frame that waits for the verdict."""

    speaker: Speaker | None
    samples: Samples
    arrived_s: float


@attrs.define(eq=False)
class LayoutGuard:
    """Judges each frame before it is placed. Its caller moves `held` once it has a verdict."""

    held: list[HeldFrame] = attrs.field(factory=list, init=False)
    _last: Speaker | None = attrs.field(default=None, init=False)
    _changes: int = attrs.field(default=0, init=False)

    @property
    def held_samples(self) -> int:
        return sum(len(frame.samples) for frame in self.held)

    def passes(self, speaker: Speaker | None) -> bool:
        """A frame of ``speaker`` follows the last one: nothing to judge."""
        return speaker is self._last and not self.held

    def judge(self, frame: HeldFrame, ahead_s: float, length_s: float) -> Verdict:
        """What to do with ``frame``, which would begin ``ahead_s`` before its time.

        On "hold" it was added to `held`; on "several" as well, and the caller places them all
        side by side; on "one" the caller appends what is held, then this frame.
        """
        changed = frame.speaker != self._last
        early = ahead_s > length_s / 2
        if not self.held:
            if not (changed and early and self._last is not None):
                self._last = frame.speaker
                return "one"
        elif not early or self._expired(frame.arrived_s, length_s):
            self._settle(frame.speaker)
            return "one"
        self.held.append(frame)
        self._changes += changed
        self._last = frame.speaker
        if self._changes >= CHANGES_FOR_SEVERAL:
            return "several"
        return "hold"

    def release(self) -> list[HeldFrame]:
        """The held frames, in order of arrival; the guard holds none afterwards."""
        held, self.held = self.held, []
        self._changes = 0
        return held

    def due_s(self, length_s: float) -> float | None:
        """When the held frames must go on at the latest; None when none is held."""
        if not self.held:
            return None
        return self.held[0].arrived_s + max(SHORTEST_HOLD_S, HOLD_FRAMES * length_s)

    def _expired(self, now_s: float, length_s: float) -> bool:
        due_s = self.due_s(length_s)
        return (due_s is not None and now_s >= due_s) or len(self.held) >= FRAMES_FOR_ONE

    def _settle(self, speaker: Speaker | None) -> None:
        self._last = speaker
        self._changes = 0
