"""What agents listen with: each ear a lane of its own, so a slow one harms no other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar, cast, runtime_checkable

import attrs
import trio

from trio_bridge.audio.hearing import Hearing, View
from trio_bridge.audio.mixing import Piece
from trio_bridge.audio.speakers import Speaker
from trio_bridge.audio.timeline import Heard
from trio_bridge.bell import Bell
from trio_bridge.lanes import Lane, Overflow

NOTES_COST, NOTE_COST = 1 << 20, 1 << 10
"""Events that may wait for a slow agent, besides audio: a thousand short ones, or a million
characters; then the oldest is dropped."""
SPEAKERS_AT_ONCE = 4
"""A lane of single speakers holds a backlog for each of as many as talk at once."""
SHORTEST_PIECE = 48
"""A lane holds no more pieces than of this length, 1 ms, would fill it. One of a single sample
costs 60 times its audio, and real ones are 20 times as long."""
TURN = 32
"""Events handed out before other tasks get to run, and a cancellation arrives."""

Event = TypeVar("Event")


def _samples(piece: Piece) -> int:
    return len(piece.samples)


def _new_notes(inner: InnerEar) -> Lane[object]:
    return _notes(inner.audio.bell)


def _notes(bell: Bell) -> Lane[object]:
    return Lane("notes", NOTES_COST, Overflow.DROP_OLDEST, cost=_note_cost, bell=bell)


def _note_cost(event: object) -> int:
    cost = NOTE_COST
    if isinstance(event, Texted):
        cost += len(event.text)
        if event.speaker is not None:
            cost += len(event.speaker.id) + len(event.speaker.name)
    return cost


@runtime_checkable
class Texted(Protocol):
    """An event that holds a stranger's text."""

    text: str
    speaker: Speaker | None


@attrs.define(eq=False)
class InnerEar:
    """The part of an ear that its meeting knows; the agent holds the other one."""

    hearing: Hearing
    audio: Lane[Piece]
    told: bool
    """Messages, interrupts and the like are for it too."""
    notes: Lane[object] = attrs.field(
        default=attrs.Factory(_new_notes, takes_self=True), init=False
    )
    ready: list[object] = attrs.field(factory=list, init=False)
    """Events made and not given yet: of one piece, or of what one read brought."""
    bell: Bell = attrs.field(
        default=attrs.Factory(lambda inner: inner.audio.bell, takes_self=True), init=False
    )
    """Of both lanes."""
    alone: bool = attrs.field(default=False, init=False)
    """It is the only ear: what is heard twice is queued, and heard when it is taken."""
    put_off: Callable[[], Iterable[object]] | None = attrs.field(default=None, init=False)
    """Makes the events of what was heard and is still to be worked on; None: nothing is."""
    idle: bool = attrs.field(default=False, init=False)
    """The agent has taken everything and waits, or has been woken and did not run yet."""

    @property
    def needs(self) -> tuple[object, ...]:
        """What waking the agent will look at."""
        return self, self.ready, self.bell, *self.bell.needs

    def hear(self, piece: Piece) -> None:
        """Take one piece; never waits.

        While the agent is idle the piece is heard in this very step, and the agent is woken
        only when something came of it: a resampler gives nothing for every other frame.
        """
        if not self.idle:
            self.audio.put_nowait(piece)
            return
        self.audio.count(len(piece.samples))
        events = self.hearing.feed(piece)
        if events:
            self.wake_with(events)

    def wake_with(self, events: Iterable[object]) -> None:
        """Something came of what was heard while the agent was idle.

        It stays idle until it runs, so that all that one read brings is heard in one step.
        """
        self.ready.extend(events)
        self.bell.wake()

    def wake_for(self, work: Callable[[], Iterable[object]]) -> None:
        """The same where the events are made only when the agent runs: then whatever else has
        come by then is resampled along with it, in one step."""
        self.put_off = work
        self.bell.wake()

    def take_put_off(self) -> None:
        """Make the events that were put off."""
        work, self.put_off = self.put_off, None
        if work is not None:
            self.ready.extend(work())


class Ear(Generic[Event]):
    """An endless iterator of what one agent hears, until the meeting is over.

    Dropping it (``break``, or the end of its task) closes it; `close` does so at once. Not for
    two tasks at once. A checkpoint when it waits, and every `TURN` events while it does not;
    on `trio.Cancelled` nothing is lost.
    """

    def __init__(self, audience: Audience, inner: InnerEar) -> None:
        self._audience, self._inner = audience, inner
        self._given = 0
        self._finished = False

    def __aiter__(self) -> Ear[Event]:
        return self

    async def __anext__(self) -> Event:
        inner = self._inner
        self._given += 1
        if self._given >= TURN:
            self._given = 0
            await trio.lowlevel.checkpoint()
        ready: list[Any] = inner.ready
        bell = inner.bell
        while True:
            if inner.put_off is not None:  # first, so that it lies about no longer than it must
                inner.take_put_off()
            if bell.rung and inner.notes.queued:
                return cast(Event, inner.notes.take_nowait())
            if ready:
                event: Event = ready.pop(0)
                return event
            if bell.rung:  # else nothing was put in the lanes: they need not be looked at
                self._look(inner)
                continue
            self._given = 0
            inner.idle = inner.alone
            try:
                await bell.waiting()
            finally:
                inner.idle = False

    def _look(self, inner: InnerEar) -> None:
        """Hear the oldest piece that waits, or what the end brings; if there is none, wait for
        the next ring.

        Raises:
            StopAsyncIteration: that was all.
        """
        if (piece := inner.audio.take_nowait()) is not None:
            inner.ready.extend(inner.hearing.feed(piece))
        elif not inner.audio.closed:
            inner.bell.rung = False
        elif not self._finished:
            self._finished = True
            inner.ready.extend(inner.hearing.finish())
        else:
            raise StopAsyncIteration

    @property
    def dropped_samples(self) -> int:
        """Samples at 48 kHz that this ear lost, because its agent was slower than the audio."""
        return self._inner.audio.dropped

    def close(self) -> None:
        """Stop listening; the iterator ends after what it has taken."""
        self._audience.leave(self._inner)

    def __del__(self) -> None:
        self.close()


@attrs.define(eq=False)
class Audience:
    """The open ears of one meeting.

    Until the first ear opens, audio waits for it in a lane of its own. Balance, in samples of
    the mix at 48 kHz: every ear's lane balances, and ``heard`` is the mix's length.
    """

    backlog: int
    """Samples at 48 kHz that may wait in an ear; then the oldest are dropped."""
    settle: Callable[[], None] = lambda: None
    """Called before the books are read: some of what was heard may not be booked yet."""
    regroup: Callable[[], None] = lambda: None
    """Called before an ear comes or goes: who gave audio to the only one straight must end."""
    unheard: int = attrs.field(default=0, init=False)
    """Samples of the mix that came while no ear was open."""
    _heard: int = attrs.field(default=0, init=False)
    _ears: list[InnerEar] = attrs.field(factory=list, init=False)
    _early: dict[View, Lane[Piece]] = attrs.field(init=False)
    _past: Counter[str] = attrs.field(factory=Counter, init=False)
    _early_notes: Lane[object] = attrs.field(factory=lambda: _notes(Bell()), init=False)
    _nobody_told: bool = attrs.field(default=True, init=False)
    """There was no ear to tell yet: what there is to tell waits for the first."""
    _over: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._early = {"mix": self._new_lane("mix"), "speaker": self._new_lane("speaker")}

    def open(
        self, hearing: Hearing, backlog: int | None = None, *, told: bool = True
    ) -> Ear[Event]:
        """A new ear, for audio and, if it is to be ``told``, for notes. The first one of a
        meeting also gets what came just before it."""
        self.regroup()
        lane = self._early.get(hearing.by) or self._new_lane(hearing.by)
        self._early = {}
        lane.capacity = _room(hearing.by, backlog or self.backlog)
        lane.most = _most(lane.capacity)
        if self._over:
            lane.close()
        inner = InnerEar(hearing, lane, told)
        while told and (note := self._early_notes.take_nowait()) is not None:
            inner.notes.put_nowait(note)
        self._nobody_told = self._nobody_told and not told
        self._seat([*self._ears, inner])
        return Ear(self, inner)

    @property
    def heard(self) -> int:
        """The length of the mix so far, in samples."""
        self.settle()
        return self._heard

    @property
    def ears(self) -> int:
        """How many are open."""
        return len(self._ears)

    @property
    def notes_dropped(self) -> int:
        """Messages and other events that a slow agent never got, added up over its ears."""
        lanes = [self._early_notes, *(ear.notes for ear in self._ears)]
        return self._past["notes_dropped"] + sum(lane.dropped_items for lane in lanes)

    @property
    def only_ear(self) -> InnerEar | None:
        """The one ear that is open, if its agent waits for audio."""
        if len(self._ears) != 1 or not self._ears[0].idle:
            return None
        return self._ears[0]

    def book(self, ear: InnerEar, samples: int) -> None:
        """Count ``samples`` that ``ear``, the only one, heard without a queue."""
        self._heard += samples
        ear.audio.count(samples)

    def hear(self, heard: Heard) -> None:
        """Give new audio to every ear; never waits."""
        for piece in heard.mix:
            self._heard += len(piece.samples)
        for ear in self._ears:
            for piece in heard.mix if ear.hearing.by == "mix" else heard.voices:
                ear.hear(piece)
        if self._ears:
            return
        if not self._early:
            self.unheard += sum(len(piece.samples) for piece in heard.mix)
        for by, lane in self._early.items():
            for piece in heard.mix if by == "mix" else heard.voices:
                lane.put_nowait(piece)

    def note(self, event: object) -> None:
        """Give an event to every ear that is told, ahead of audio that waits."""
        if self._nobody_told:
            self._early_notes.put_nowait(event)
        for ear in self._ears:
            if ear.told:
                ear.notes.put_nowait(event)

    def leave(self, inner: InnerEar) -> None:
        """Close one ear; what it lost stays in the books."""
        if inner in self._ears:
            self.regroup()
            inner.idle, inner.put_off = False, None
            self._seat([ear for ear in self._ears if ear is not inner])
            inner.audio.flush()
            inner.audio.close()
            self._past.update(_books(inner.audio))
            self._past["notes_dropped"] += inner.notes.dropped_items

    def _seat(self, ears: list[InnerEar]) -> None:
        self._ears = ears
        for ear in ears:
            ear.alone = len(ears) == 1
            ear.idle = ear.idle and ear.alone

    def close(self) -> None:
        """The meeting is over: every ear ends after what is queued."""
        self._over = True
        for ear in self._ears:
            ear.audio.close()

    def books(self) -> Counter[str]:
        """All ears' lanes added up, in samples: offered, taken, dropped, flushed, queued."""
        self.settle()
        total = Counter(self._past)
        for ear in self._ears:
            total.update(_books(ear.audio))
        if self._early:
            total.update(_books(self._early["mix"]))
        return total

    def _new_lane(self, by: View) -> Lane[Piece]:
        capacity = _room(by, self.backlog)
        most = _most(capacity)
        return Lane("audio", capacity, Overflow.DROP_OLDEST, cost=_samples, most=most)


def _room(by: View, backlog: int) -> int:
    return backlog if by == "mix" else backlog * SPEAKERS_AT_ONCE


def _most(capacity: int) -> int:
    return max(1, capacity // SHORTEST_PIECE)


def _books(lane: Lane[Piece]) -> dict[str, int]:
    names = ("offered", "taken", "dropped", "flushed", "queued")
    return {name: getattr(lane, name) for name in names}
