"""One meeting's clock: frames in order of arrival become pieces at their place in time.

Two views come out: the mix that a person in the room hears, and each speaker alone. Silence
keeps its length, because a turn detector needs it: when no frame comes for `ABSENT_S`,
silence is filled in as the clock goes, up to `LONGEST_FILL_S` a gap.
"""

from __future__ import annotations

import attrs

from trio_bridge.audio.layout import HeldFrame, Layout, LayoutGuard
from trio_bridge.audio.mixing import Mixer, Piece
from trio_bridge.audio.pcm import Samples, silence
from trio_bridge.audio.speakers import Speaker

RATE_HZ = 48_000
ABSENT_S = 0.4
"""Longer than the usual network stall, shorter than the silence that ends a turn."""
TICK_S = 0.2
"""How often a gap is filled and a mix looked after."""
LONGEST_FILL_S = 30.0
"""A gap's silence that is filled in; what lies beyond is skipped, and said in ``skipped``."""
PATIENCE_S = 0.06
"""How long the mix waits for a speaker whose frame is late."""
DRIFT = 0.0005
"""Seconds a second by which the clock follows a sender that is slower than ours (a bad
crystal has 0.0001); without it a long meeting would seem to lag ever more."""


def origin_after(
    origin_s: float, now_s: float, head: int, length_s: float, slack_s: float = 0.0
) -> float:
    """The time of sample 0 after a frame of ``length_s`` that begins at ``head`` arrived.

    The clock keeps to what the sender's frames say: it is never behind them by more than
    ``slack_s``, and goes back slowly.
    """
    late_s = now_s - origin_s - head / RATE_HZ
    if late_s < 0:
        late_s += slack_s
        return origin_s + late_s if late_s < 0 else origin_s
    return origin_s + min(late_s, DRIFT * length_s)


@attrs.frozen(eq=False)
class Heard:
    """What became ready. In a mixed stream both are the same list."""

    mix: list[Piece]
    voices: list[Piece]


@attrs.define(eq=False)
class Timeline:
    """Places the frames of one meeting. No clock of its own: the caller says what time it is.

    Balance, in samples at 48 kHz, at any moment:
    ``received + filled == mixed + overlapped + waiting`` where ``filled`` counts all silence.
    """

    layout: Layout = "auto"
    received: int = attrs.field(default=0, init=False)
    skipped: int = attrs.field(default=0, init=False)
    """Samples of gaps that were longer than is filled."""
    gaps: int = attrs.field(default=0, init=False)
    _guard: LayoutGuard = attrs.field(factory=LayoutGuard, init=False)
    _mixer: Mixer | None = attrs.field(default=None, init=False)
    _head: int = attrs.field(default=0, init=False)
    _appended: int = attrs.field(default=0, init=False)
    _filled: int = attrs.field(default=0, init=False)
    _origin_s: float | None = attrs.field(default=None, init=False)
    """The time of sample 0."""
    _plain: bool = attrs.field(default=False, init=False)
    """Frames have come, and they have been one stream so far: the hot path."""
    _arrived_s: float = attrs.field(default=0.0, init=False)
    _length_s: float = attrs.field(default=0.02, init=False)
    _gap: int = attrs.field(default=0, init=False)
    """Samples filled into the gap under way."""

    @property
    def separate(self) -> bool:
        """The frames are one stream per speaker."""
        return self._mixer is not None

    @property
    def head(self) -> int:
        """Samples of the mix so far: its length."""
        return self._mixer.head if self._mixer else self._head

    @property
    def filled(self) -> int:
        """Samples of silence that the bridge put into the mix."""
        return self._filled + (self._mixer.silent if self._mixer else 0)

    @property
    def overlapped(self) -> int:
        """Samples that were summed onto another speaker's."""
        return self._mixer.overlapped if self._mixer else 0

    @property
    def mixed(self) -> int:
        """Samples of the mix that were given out."""
        return self._appended + self._filled + (self._mixer.mixed if self._mixer else 0)

    @property
    def waiting(self) -> int:
        """Samples received and not in the mix yet."""
        return self._guard.held_samples + (self._mixer.waiting if self._mixer else 0)

    @property
    def origin_s(self) -> float:
        """The time of sample 0, as the sender's frames tell it so far."""
        return self._origin_s or 0.0

    def follows(self, speaker: Speaker | None) -> bool:
        """A frame of ``speaker`` would simply be appended: one stream, no gap, no question."""
        return self._plain and self._guard.passes(speaker) and not self._gap

    def book(self, samples: int, length: int, now_s: float, origin_s: float) -> None:
        """Count ``samples`` that were appended elsewhere, in frames of ``length``, while
        `follows` held; the last came at ``now_s``."""
        self.received += samples
        self._appended += samples
        self._head += samples
        self._arrived_s, self._length_s = now_s, length / RATE_HZ
        self._origin_s = origin_s

    def add(self, speaker: Speaker | None, samples: Samples, now_s: float) -> Heard:
        """Place one frame that arrived at ``now_s``; ``speaker`` None is silence of ours."""
        length = len(samples)
        self.received += length
        if self.follows(speaker):
            head = self._head
            self._arrived_s, self._length_s = now_s, length / RATE_HZ
            self._follow(now_s, head)
            self._head = head + length
            self._appended += length
            pieces = [Piece(speaker, head, samples)]
            return Heard(pieces, pieces)
        if self._origin_s is None:
            self._origin_s = now_s
            self._plain = self.layout != "separate"
            if not self._plain:
                self._mixer = self._new_mixer()
        self._end_gap(now_s)
        self._arrived_s = now_s
        self._length_s = length / RATE_HZ
        if self._mixer is not None:
            return self._add_separate(self._mixer, speaker, samples, now_s)
        if self.layout == "mixed":
            return self._append([Piece(speaker, self._head, samples)], now_s)
        return self._add_unproven(HeldFrame(speaker, samples, now_s), now_s)

    def tick_due_s(self, now_s: float) -> float:
        """When to `tick` next: while one stream flows, when it would have stopped."""
        stops_s = self._arrived_s + ABSENT_S
        flows = self._plain and not self._guard.held and not self._gap
        return stops_s if flows and stops_s > now_s else now_s + TICK_S

    def tick(self, now_s: float) -> Heard:
        """Time has passed: what was held goes on, and a gap fills with silence."""
        due_s = self._guard.due_s(self._length_s)
        if due_s is not None and now_s >= due_s:
            return self._append(self._pieces(self._guard.release()), now_s)
        mix = self._mixer.take(self._clock(now_s), now_s) if self._mixer else []
        voices = [] if self._mixer else mix
        if self._origin_s is not None and now_s >= self._arrived_s + ABSENT_S:
            room = round(LONGEST_FILL_S * RATE_HZ) - self._gap
            missing = min(self._clock(now_s) - self.head, room)
            if missing > 0:
                self.gaps += not self._gap
                self._gap += missing
                mix.append(self._fill(missing))
        return Heard(mix, voices)

    def finish(self, now_s: float) -> Heard:
        """The meeting is over: everything that is still held or waiting."""
        heard = self._append(self._pieces(self._guard.release()), now_s)
        if self._mixer is not None:
            heard.mix.extend(self._mixer.finish())
        return heard

    def _clock(self, now_s: float) -> int:
        return round((now_s - (self._origin_s or 0.0)) * RATE_HZ)

    def _add_separate(
        self, mixer: Mixer, speaker: Speaker | None, samples: Samples, now_s: float
    ) -> Heard:
        # A speaker who joined in mid-frame is a frame ahead for as long as that lasts.
        arrived = mixer.arrived(now_s)
        if arrived is not None:
            self._follow(now_s, arrived, slack_s=2 * self._length_s)
        clock = self._clock(now_s)
        piece = mixer.place(speaker, samples, clock, now_s)
        return Heard(mixer.take(clock, now_s), [piece])

    def _add_unproven(self, frame: HeldFrame, now_s: float) -> Heard:
        length_s = self._length_s
        held = self._guard.held_samples
        ahead_s = (self._head + held - self._clock(now_s)) / RATE_HZ
        verdict = self._guard.judge(frame, ahead_s, length_s)
        if verdict == "hold":
            return Heard([], [])
        if verdict == "one":
            frames = [*self._guard.release(), frame]
            return self._append(self._pieces(frames), now_s)
        mixer = self._mixer = self._new_mixer()
        self._plain = False
        voices = [
            mixer.place(f.speaker, f.samples, mixer.head, f.arrived_s)
            for f in self._guard.release()
        ]
        return Heard(mixer.take(self._clock(now_s), now_s), voices)

    def _pieces(self, frames: list[HeldFrame]) -> list[Piece]:
        pieces, at = [], self._head
        for frame in frames:
            pieces.append(Piece(frame.speaker, at, frame.samples))
            at += len(frame.samples)
        return pieces

    def _append(self, pieces: list[Piece], now_s: float) -> Heard:
        if pieces:
            # A frame before its time in one stream: the sender's clock, or a stall's burst.
            self._follow(now_s, self._head)
            length = sum(len(piece.samples) for piece in pieces)
            self._head += length
            self._appended += length
        return Heard(pieces, pieces if self._mixer is None else [])

    def _follow(self, now_s: float, head: int, slack_s: float = 0.0) -> None:
        self._origin_s = origin_after(self.origin_s, now_s, head, self._length_s, slack_s)

    def _end_gap(self, now_s: float) -> None:
        if not self._gap:
            return
        beyond = self._clock(now_s) - self.head
        if self._gap >= round(LONGEST_FILL_S * RATE_HZ) and beyond > 0:
            self.skipped += beyond
            self._jump(beyond)
        self._gap = 0

    def _fill(self, length: int) -> Piece:
        piece = Piece(None, self.head, silence(length))
        self._filled += length
        self._jump(length)
        return piece

    def _jump(self, length: int) -> None:
        if self._mixer is not None:
            self._mixer.head += length
        else:
            self._head += length

    def _new_mixer(self) -> Mixer:
        return Mixer(self._head, PATIENCE_S, RATE_HZ, ABSENT_S)
