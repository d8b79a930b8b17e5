"""A meeting as an agent hears it: at its rate, in its chunks, mixed or by speaker.

Takes the timeline's 48 kHz pieces and gives chunks, utterances and speaker changes. Every
time is in seconds on the meeting's clock, so the audio can be put back where it belongs.
"""

from __future__ import annotations

from typing import Literal

import attrs
import numpy as np

from trio_bridge.audio.mixing import MANY_VOICES, Piece
from trio_bridge.audio.pcm import Samples, silence
from trio_bridge.audio.resample import Quality, Resampler
from trio_bridge.audio.speakers import Speaker
from trio_bridge.audio.timeline import RATE_HZ
from trio_bridge.audio.vad import EnergyVad, SpeechEnded, VadEvent, VadSettings

View = Literal["mix", "speaker"]

RUN_GAP_S = 0.5
"""A speaker's audio that pauses for less stays one run, the pause as silence; then the run
ends, and what the resampler holds back comes out."""
LABELS_KEPT_S = 60.0
"""How far back labels are known: longer than an utterance can be."""
LABELS_KEPT = 2_048
"""...and how many: frames of one sample, each under another name, would make millions."""


@attrs.define(eq=False)  # not frozen, though a value: that takes 0.2 us more, 1 % of a frame
class AudioChunk:
    """A stretch of audio: float32 ``(n,)``, full scale +-1.0.

    Its taker may keep it; its ``samples`` are not to be written to: others may have them, too.
    """

    speaker: Speaker | None
    """In the mix the one who speaks loudest or whom the platform names; None in silence."""
    samples: Samples
    rate_hz: int
    start_s: float
    """When it began, in seconds since the meeting's first sample."""

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.rate_hz


@attrs.frozen(eq=False)
class Utterance:
    """What somebody said, from 300 ms before it was noticed to the silence that ended it."""

    speaker: Speaker | None
    """Whose label most of it has."""
    samples: Samples
    """float32 ``(n,)``, full scale +-1.0."""
    rate_hz: int
    start_s: float
    """When it began, in seconds since the meeting's first sample."""

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.rate_hz


@attrs.frozen
class SpeakerChange:
    """The platform names another speaker now."""

    speaker: Speaker
    at_s: float
    """Seconds since the meeting's first sample."""


HeardEvent = AudioChunk | Utterance | SpeakerChange


@attrs.define(eq=False)
class Hearing:
    """One listener's ear. ``feed`` in the order of the timeline; `finish` gives the rest.

    With ``chunk_ms`` None there are no `AudioChunk` events, with ``vad`` None no `Utterance`.
    With ``chunk_ms`` 0 a chunk is what one piece of the timeline completed.
    Chunks have exactly the length asked for, but for the last before a jump or the end.
    """

    rate_hz: int
    chunk_ms: int | None = 20
    by: View = "mix"
    quality: Quality = "HQ"
    vad: VadSettings | None = None
    changes: bool = False
    """Report speaker changes."""
    _strands: dict[str, Strand] = attrs.field(factory=dict, init=False)
    _named: Speaker | None = attrs.field(default=None, init=False)

    def feed(self, piece: Piece) -> list[HeardEvent]:
        """What became complete with ``piece``."""
        events: list[HeardEvent] = []
        speaker = piece.speaker
        if self.changes and speaker is not None and speaker != self._named:
            self._named = speaker
            events.append(SpeakerChange(speaker, piece.start / RATE_HZ))
        if self.by == "mix":
            key = ""
        else:
            self._end_runs(piece.start, events)
            if speaker is None:
                return events
            key = speaker.key
        strand = self._strands.get(key)
        if strand is None:
            strand = self._strands[key] = Strand(self, piece.start)
        strand.feed(piece, events)
        return events

    def strand_at(self, start: int, speaker: Speaker) -> Strand | None:
        """The run that ``speaker``, heard last, goes on with at ``start``; None where `feed`
        would have more to do than to lengthen it."""
        strand = self._strands.get("" if self.by == "mix" else speaker.key)
        return strand if strand is not None and strand.goes_on(start, speaker) else None

    def finish(self) -> list[HeardEvent]:
        """The audio is over: the last chunk of every speaker and the utterance under way."""
        events: list[HeardEvent] = []
        for strand in self._strands.values():
            strand.finish(events)
        self._strands.clear()
        return events

    def _end_runs(self, now: int, events: list[HeardEvent]) -> None:
        ends = now - RUN_GAP_S * RATE_HZ
        spare = len(self._strands) - MANY_VOICES  # beyond so many the oldest run ends early
        over = [
            key
            for n, (key, strand) in enumerate(self._strands.items())
            if n < spare or strand.expected < ends
        ]
        for key in over:
            self._strands.pop(key).finish(events)


class Strand:
    """One continuous run of audio: resampled, chunked, watched for speech."""

    __slots__ = (
        "_by",
        "_chunk",
        "_given",
        "_labels",
        "_may_start",
        "_pending",
        "_pending_length",
        "_rate_hz",
        "_resampler",
        "_start",
        "_vad",
        "_vad_settings",
        "expected",
    )

    def __init__(self, hearing: Hearing, start: int) -> None:
        self._rate_hz = hearing.rate_hz
        self._by = hearing.by
        self._chunk = (
            None if hearing.chunk_ms is None else hearing.rate_hz * hearing.chunk_ms // 1000
        )
        self._resampler = Resampler(RATE_HZ, hearing.rate_hz, hearing.quality)
        self._vad_settings = hearing.vad
        self._may_start = False
        self._begin(start)

    def _begin(self, start: int) -> None:
        self._start = start
        self.expected = start
        self._labels: list[tuple[int, Speaker | None]] = []  # nearly always one
        self._pending: list[Samples] = []
        self._pending_length = 0
        self._given = 0
        self._vad = EnergyVad(self._rate_hz, self._vad_settings) if self._vad_settings else None

    def feed(self, piece: Piece, events: list[HeardEvent]) -> None:
        gap = piece.start - self.expected
        samples = piece.samples
        if gap > 0 and self._by == "speaker" and gap <= RUN_GAP_S * RATE_HZ:
            samples = np.concatenate((silence(gap), samples))
        elif gap:
            self.finish(events)  # audio is missing: what follows must not be glued to it
            self._begin(piece.start)
        if not self._labels or self._labels[-1][1] != piece.speaker:
            self._labels.append((self.expected, piece.speaker))
            self._forget_labels()
        self.expected = piece.start + len(piece.samples)
        speaker = piece.speaker
        self._may_start = speaker is not None and speaker.may_start_turn
        self._take(self._resampler.process(samples), self._may_start, events)

    @property
    def needs(self) -> tuple[object, ...]:
        """What `go_on` will look at."""
        return self, self._labels, self._labels[-1], *self._resampler.needs

    def goes_on(self, start: int, speaker: Speaker) -> bool:
        """What ``speaker`` says from ``start`` on belongs to this run, under the same label."""
        return start == self.expected and self._labels[-1][1] is speaker

    def go_on(self, samples: Samples) -> list[HeardEvent]:
        """Feed ``samples`` for which `goes_on` holds. They are lent: nothing keeps them."""
        self.expected += len(samples)
        resampled = self._resampler.process(samples)
        if resampled is samples:
            resampled = samples.copy()
        if self._chunk == 0 and self._vad is None:  # `_take` with less ado
            return [self._next_chunk(resampled)] if len(resampled) else []
        events: list[HeardEvent] = []
        self._take(resampled, self._may_start, events)
        return events

    @property
    def samples_until_more(self) -> int:
        """How many samples `go_on` must be given before anything can come of it."""
        return self._resampler.samples_until_more

    @property
    def samples_from_more_to_more(self) -> int:
        """How many it must be given from one time that something can come to the next."""
        return self._resampler.bursts.step

    @property
    def tells_each_time(self) -> bool:
        """Whether then something surely does: a chunk, since none is longer than a burst."""
        return (
            self._vad is None
            and self._chunk is not None
            and self._chunk <= self._resampler.bursts.least
        )

    def finish(self, events: list[HeardEvent]) -> None:
        self._take(self._resampler.finish(), False, events)
        if self._chunk is not None and self._pending_length:
            events.append(self._next_chunk(np.concatenate(self._pending)))
            self._pending, self._pending_length = [], 0
        if self._vad is not None:
            self._report(self._vad.finish(), events)

    def _take(self, samples: Samples, may_start: bool, events: list[HeardEvent]) -> None:
        if not len(samples):
            return
        if self._vad is not None:
            self._report(self._vad.feed(samples, may_start=may_start), events)
        if not self._chunk:
            if self._chunk is not None:
                events.append(self._next_chunk(samples))
            return
        self._pending.append(samples)
        self._pending_length += len(samples)
        if self._pending_length < self._chunk:
            return
        data = self._pending[0] if len(self._pending) == 1 else np.concatenate(self._pending)
        at = 0
        while self._pending_length - at >= self._chunk:
            events.append(self._next_chunk(data[at : at + self._chunk]))
            at += self._chunk
        self._pending = [data[at:]]
        self._pending_length -= at

    def _next_chunk(self, samples: Samples) -> AudioChunk:
        """The chunk behind the last one, which counts as given."""
        given, labels, rate_hz = self._given, self._labels, self._rate_hz
        self._given = given + len(samples)
        if len(labels) == 1:
            speaker = labels[0][1]
        else:
            speaker = self._label_at(self._index(given + len(samples) // 2))
        return AudioChunk(speaker, samples, rate_hz, self._start / RATE_HZ + given / rate_hz)

    def _report(self, found: list[VadEvent], events: list[HeardEvent]) -> None:
        for event in found:
            if isinstance(event, SpeechEnded):
                speaker = self._mostly(
                    self._index(event.start), self._index(event.start + len(event.samples))
                )
                start_s = self._start / RATE_HZ + event.start / self._rate_hz
                events.append(Utterance(speaker, event.samples, self._rate_hz, start_s))

    def _index(self, given: int) -> int:
        return self._start + given * RATE_HZ // self._rate_hz

    def _label_at(self, index: int) -> Speaker | None:
        for start, speaker in reversed(self._labels):
            if start <= index:
                return speaker
        return self._labels[0][1]

    def _mostly(self, start: int, end: int) -> Speaker | None:
        """Whose label covers most of ``start..end``; a named speaker before none."""
        lengths: dict[Speaker | None, int] = {}
        stops = [*[at for at, _ in self._labels][1:], self.expected]
        for (at, speaker), stop in zip(self._labels, stops, strict=True):
            covered = min(stop, end) - max(at, start)
            if covered > 0:
                lengths[speaker] = lengths.get(speaker, 0) + covered
        named = {s: n for s, n in lengths.items() if s is not None and s.may_start_turn}
        best = named or lengths
        return max(best, key=lambda speaker: best[speaker], default=None)

    def _forget_labels(self) -> None:
        horizon = self.expected - LABELS_KEPT_S * RATE_HZ
        while len(self._labels) > LABELS_KEPT or (
            len(self._labels) > 1 and self._labels[1][0] < horizon
        ):
            del self._labels[0]
