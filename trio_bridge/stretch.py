"""The hot path: a frame that is like the one before it.

Nearly every frame is: the same speaker, the same length, one mixed stream, nobody being spoken
to, and an agent that waits for it. With hundreds of meetings such a frame costs what it has to
fetch from memory rather than what it computes: by the time a meeting's next frame comes, every
object on its way has left the processor's caches (the same Python took 6 us over one meeting
and 25 us over two hundred). So what such a frame needs is gathered in one object, and what it
would have booked on the general way is booked by `settle`, for many frames at once. And since
soxr gives out nothing for every third frame, and works on two at once for little more than on
one, frames are held, masked as they came, until something will come of them. The result is the
same to the bit and at the same time; tests compare the two ways.
"""

from __future__ import annotations

from trio_bridge.audio.hearing import HeardEvent, Strand
from trio_bridge.audio.timeline import RATE_HZ, origin_after
from trio_bridge.ears import Audience, InnerEar
from trio_bridge.intake import Intake
from trio_bridge.pacing import Playout
from trio_bridge.unpack import Header, Parcel

SHORTEST_BYTES, LONGEST_BYTES = 126, 0xFFFF
"""Of a message: its frame gives its length in 16 bits (RFC 6455 §5.2), as all of real audio."""
LONG = RATE_HZ * 40 // 1000
"""Samples of a frame that is resampled in the very read that something comes of it, and not
when the agent runs, in case more has come by then: 100 ms in two calls cost soxr only a tenth
more than in one, and what has just been read is in the processor's caches (2 % of the CPU with
100 ms). From two of 20 ms on, which it gets in one call."""


class Stretch:
    """Frames that follow each other, heard by one idle ear, until one is different.

    Whoever changes what its frames rely on ends it, after `settle`: the inflow does when a
    channel comes or goes, when the clock fills a gap, and when a frame goes the general way;
    and it stops it when the agent speaks. That the agent is busy or listens twice it sees for
    itself.
    """

    __slots__ = (
        "_audience",
        "_ear",
        "_frames",
        "_head",
        "_header",
        "_intake",
        "_lacking",
        "_length",
        "_length_s",
        "_masked",
        "_needed",
        "_origin_s",
        "_parcel",
        "_step",
        "_stopped",
        "_strand",
        "_waits",
        "arrived_s",
        "needs",
    )

    def __init__(
        self,
        intake: Intake,
        audience: Audience,
        ear: InnerEar,
        strand: Strand,
        header: bytes,
        length: int,
        now_s: float,
    ) -> None:
        self._intake, self._audience = intake, audience
        self._ear, self._strand = ear, strand
        self._header = Header(header, len(header) + 2 * intake.channels * length)
        self._length, self._length_s = length, length / RATE_HZ
        self._parcel = Parcel(len(header), length, intake.channels)
        self._masked = self._parcel.frames
        self._stopped = False
        timeline = intake.timeline
        self._origin_s, self._head = timeline.origin_s, timeline.head
        self._frames = 0
        self.arrived_s = now_s
        """When the last frame came."""
        self._needed, self._step = strand.samples_until_more, strand.samples_from_more_to_more
        self._lacking = -(-self._needed // length)
        """So many frames more, and something will come of what is held."""
        self._waits = strand.tells_each_time and length < LONG
        """Frames of which something surely comes are resampled when the agent runs."""
        self.needs: tuple[object, ...] = (
            *self._header.needs,
            self._parcel,
            self._masked,
            *ear.needs,
            *strand.needs,
        )
        """What `take`, `_pour` and the agent's turn will look at."""

    @classmethod
    def after(
        cls,
        message: bytes | str,
        intake: Intake,
        audience: Audience,
        playout: Playout,
        now_s: float,
    ) -> Stretch | None:
        """A stretch that goes on behind ``message``, just heard; None if the next frame could
        not be heard this way."""
        known, timeline, ear = intake.known, intake.timeline, audience.only_ear
        if known is None or known.own or ear is None or playout.audible(now_s):
            return None
        if not isinstance(message, bytes) or not message.startswith(known.header):
            return None
        length, rest = divmod(len(message) - len(known.header), 2 * intake.channels)
        if rest or not length or not timeline.follows(known.speaker):
            return None
        if not SHORTEST_BYTES <= len(message) <= LONGEST_BYTES:
            return None
        strand = ear.hearing.strand_at(timeline.head, known.speaker)
        if strand is None:
            return None
        return cls(intake, audience, ear, strand, known.header, length, now_s)

    def take(self, frame: bytes, now_s: float) -> bool:
        """Hear ``frame``, as many bytes as the WebSocket frame of the message that this goes on
        behind; False: it is no frame of this stretch, and nothing was done."""
        ear = self._ear
        if self._stopped or not ear.idle or not self._header.begins(frame):
            return False
        head = self._head
        self._origin_s = origin_after(self._origin_s, now_s, head, self._length_s)
        self._head = head + self._length
        self._frames += 1
        self.arrived_s = now_s
        self._masked.append(frame)
        self._lacking = lacking = self._lacking - 1
        if lacking <= 0:
            if self._waits:
                ear.wake_for(self._pour)
            elif events := self._pour():
                ear.wake_with(events)
        return True

    def _pour(self) -> list[HeardEvent]:
        """Let the strand have what is held; what comes of it."""
        masked, length = self._masked, self._length
        if not masked:
            return []
        held = len(masked) * length
        parcel, strand = self._parcel, self._strand
        events = strand.go_on(parcel.take())
        while masked:
            events += strand.go_on(parcel.take())
        self._needed = needed = (self._needed - held) % self._step or self._step
        self._lacking = -(-needed // length)
        return events

    def stop(self) -> None:
        """Take no more frames."""
        self._stopped = True

    def end(self) -> None:
        """The next frame is heard another way: nothing is held back any more. The last call."""
        self._stopped = True
        self.settle()
        if self._masked:
            self._ear.put_off = None  # it was ours
            if events := self._pour():
                self._ear.wake_with(events)
        # Who keeps this must not keep the resampler: the next one is to have its place.
        self.needs = ()
        del self._strand

    def settle(self) -> None:
        """Book what was heard since the last time, as the general way would have."""
        frames = self._frames
        if not frames:
            return
        self._frames = 0
        samples = frames * self._length
        self._intake.book(frames, samples)
        self._intake.timeline.book(samples, self._length, self.arrived_s, self._origin_s)
        self._audience.book(self._ear, samples)
