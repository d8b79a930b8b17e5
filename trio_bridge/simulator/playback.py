"""The bot's playback queue as a model: what is heard when, from what was queued when.

No I/O and no clock: every call is told the time, which must not go backwards. Time is in
seconds, audio in int16 samples at 48 kHz. One rule holds after every call:
``enqueued == played + cleared + queued``.

Audio that comes while the queue plays is heard right after what is queued. Audio that comes
when it has run dry is heard at once; if it had been dry for no longer than `gap_limit_s`, the
silence was a *gap* in the middle of an answer, otherwise a new answer begins.
"""

from __future__ import annotations

import math
from collections import deque

import attrs
import numpy as np

from trio_bridge.simulator.wavs import MEETING_RATE_HZ, Int16

GAP_LIMIT_S = 1.0
"""A longer silence is a pause between two answers, not a fault of the pacing."""

SETTLE_S = 0.2
"""Silence after which an interrupted answer counts as over. Shorter, late audio of the old
answer would pass for a new one; longer, a quick new answer would pass for the old one."""

STEADY_AFTER_S = 1.0
"""Into an answer: until then a pacer still fills the queue up, so the lead says nothing."""

_EPSILON = 1e-4
"""Of a sample: seconds are floats, and 0.1 s must be 4800 samples, not 4799."""


@attrs.frozen(eq=False)
class Heard:
    """A piece of what the meeting heard."""

    at_s: float
    samples: Int16


@attrs.frozen
class Gap:
    """The queue was dry from ``at_s`` on, in the middle of an answer."""

    at_s: float
    length_s: float


@attrs.define(eq=False)
class Answer:
    """One stretch of the bot's speech."""

    start_s: float
    end_s: float | None = None
    """When it was heard last; None while it plays."""
    played: int = 0
    cut: bool = False
    gaps: list[Gap] = attrs.field(factory=list)
    leads: list[tuple[float, float]] = attrs.field(factory=list)
    """``(now_s, queued_s)`` just after each chunk was queued."""

    @property
    def steady_leads(self) -> list[float]:
        """Seconds, without the first second (filling up) and the last chunk (a remainder)."""
        return [lead for at_s, lead in self.leads[:-1] if at_s >= self.start_s + STEADY_AFTER_S]


@attrs.define(eq=False)
class Tail:
    """How much was still heard after an interrupt."""

    at_s: float
    played: int = 0
    """Samples heard from ``at_s`` until the bot had been silent for `SETTLE_S`."""
    open: bool = True

    @property
    def length_s(self) -> float:
        return self.played / MEETING_RATE_HZ


@attrs.define(eq=False)
class PlaybackQueue:
    """Plays what it is given, in real time, and remembers how that went."""

    gap_limit_s: float = GAP_LIMIT_S
    enqueued: int = attrs.field(default=0, init=False)
    played: int = attrs.field(default=0, init=False)
    cleared: int = attrs.field(default=0, init=False)
    queued: int = attrs.field(default=0, init=False)
    answers: list[Answer] = attrs.field(factory=list, init=False)
    """Oldest first; the last one may still be playing."""

    _chunks: deque[Int16] = attrs.field(factory=deque, init=False)
    _heard: list[Heard] = attrs.field(factory=list, init=False)
    _tails: list[Tail] = attrs.field(factory=list, init=False)
    _answer: Answer | None = attrs.field(default=None, init=False)
    _anchor_s: float = attrs.field(default=0.0, init=False)
    _run: int = attrs.field(default=0, init=False)
    """Samples played since ``_anchor_s``, without an interruption."""
    _quiet_since_s: float = attrs.field(default=-math.inf, init=False)
    _resumes: bool = attrs.field(default=False, init=False)
    """More audio soon would continue the last answer (it was not cut)."""

    @property
    def playing(self) -> bool:
        return self.queued > 0

    @property
    def current(self) -> Answer | None:
        """The answer that is being heard, or that more audio would still continue."""
        return self._answer

    @property
    def queued_s(self) -> float:
        return self.queued / MEETING_RATE_HZ

    def enqueue(self, samples: Int16, now_s: float) -> float:
        """Queue ``samples``; returns the lead, the seconds that are now queued."""
        self.advance(now_s)
        if not len(samples):
            return self.queued_s
        if not self.queued:
            self._resume(now_s)
        self._chunks.append(samples)
        self.enqueued += len(samples)
        self.queued += len(samples)
        if self._answer is not None:
            self._answer.leads.append((now_s, self.queued_s))
        return self.queued_s

    def clear(self, now_s: float) -> float:
        """Throw away what is queued, as Google Meet's bot does; returns its seconds."""
        self.advance(now_s)
        dropped = self.queued
        self._chunks.clear()
        self.queued = 0
        self.cleared += dropped
        if dropped:
            self._quiet_since_s = now_s
        self.cut(now_s)
        return dropped / MEETING_RATE_HZ

    def cut(self, now_s: float) -> None:
        """The answer is over for its speaker, even if its rest is still heard.

        What comes after it has run dry is a new answer, never a gap in this one.
        """
        self.advance(now_s)
        self._resumes = False
        if self._answer is not None:
            self._answer.cut = True
            if not self.queued:
                self._end_answer()

    def mark(self, now_s: float) -> Tail:
        """Measure from now on what is still heard; the tail fills as time advances."""
        self.advance(now_s)
        tail = Tail(now_s)
        if not self.queued and now_s - self._quiet_since_s >= SETTLE_S:
            tail.open = False
        else:
            self._tails.append(tail)
        return tail

    def advance(self, now_s: float) -> None:
        """Play up to ``now_s``."""
        if self.queued:
            due = math.floor((now_s - self._anchor_s) * MEETING_RATE_HZ + _EPSILON) - self._run
            if due > 0:
                self._play(min(due, self.queued))
            if not self.queued:
                self._quiet_since_s = self._anchor_s + self._run / MEETING_RATE_HZ
        if self.queued:
            return
        quiet_s = now_s - self._quiet_since_s
        if self._answer is not None and (quiet_s > self.gap_limit_s or not self._resumes):
            self._end_answer()
        if self._tails and quiet_s >= SETTLE_S:
            for tail in self._tails:
                tail.open = False
            self._tails.clear()

    def take_heard(self) -> list[Heard]:
        """What was played since the last call, in order."""
        heard, self._heard = self._heard, []
        return heard

    def _play(self, count: int) -> None:
        start_s = self._anchor_s + self._run / MEETING_RATE_HZ
        pieces: list[Int16] = []
        left = count
        while left:
            chunk = self._chunks[0]
            if len(chunk) <= left:
                pieces.append(self._chunks.popleft())
                left -= len(chunk)
            else:
                pieces.append(chunk[:left])
                self._chunks[0] = chunk[left:]
                left = 0
        self._heard.append(Heard(start_s, np.concatenate(pieces)))
        self._run += count
        self.played += count
        self.queued -= count
        if self._answer is not None:
            self._answer.played += count
        for tail in self._tails:
            tail.played += count

    def _resume(self, now_s: float) -> None:
        """Audio comes to an empty queue: after a gap, or as a new answer."""
        dry_s = now_s - self._quiet_since_s
        if self._answer is None:
            self._answer = Answer(now_s)
            self.answers.append(self._answer)
            self._resumes = True
        elif dry_s * MEETING_RATE_HZ < 0.5:  # in time to the sample: nothing was missed
            return
        else:
            self._answer.gaps.append(Gap(self._quiet_since_s, dry_s))
        self._anchor_s, self._run = now_s, 0

    def _end_answer(self) -> None:
        if self._answer is not None:
            self._answer.end_s = self._quiet_since_s
            self._answer = None
