"""The short way of a frame hears and books what the general way does, to the bit."""

from __future__ import annotations

import contextlib
import functools

import attrs
import numpy as np
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_bridge.audio.hearing import AudioChunk, HeardEvent, Hearing, Utterance, View
from trio_bridge.audio.pcm import from_pcm16
from trio_bridge.audio.speakers import OwnVoice
from trio_bridge.audio.timeline import Timeline
from trio_bridge.audio.vad import VadSettings
from trio_bridge.bargein import BargeIn
from trio_bridge.ears import Audience, Ear
from trio_bridge.edge.frames import Cutter
from trio_bridge.edge.limits import EdgeLimits
from trio_bridge.inflow import Inflow
from trio_bridge.intake import Intake
from trio_bridge.ledger import Ledger
from trio_bridge.pacing import Playout
from trio_bridge.stretch import LONG, Stretch
from trio_bridge.unpack import ROOM_SAMPLES
from trio_bridge.wire.frames import (
    AudioFrame,
    FrameError,
    decode_frame,
    encode_frame,
    encode_legacy_frame,
)

from ..edge.peers import BINARY, frame

CHANNEL, OLDER_CHANNEL = object(), object()
KINDS = ("ann", "bob", "own", "short", "odd", "junk", "text", "stale", "gap", "say", "busy")
Step = tuple[str, int]

scripts = st.lists(
    st.tuples(st.sampled_from(["ann"] * 12 + list(KINDS)), st.integers(0, 3)), max_size=60
)


def message(kind: str, n: int, length: int = 960) -> bytes | str:
    """The ``n``-th frame of a noisy stream, of ``length`` samples unless ``kind`` is short."""
    if kind == "junk":
        return b"\x01\xff\xff"
    name = {"bob": "Bob", "own": "Helper"}.get(kind, "Ann")
    noise = np.random.default_rng(n).integers(-9_000, 9_000, 480 if kind == "short" else length)
    frame = AudioFrame(name.lower(), name, noise.astype("<i2").tobytes())
    if kind == "text":
        return encode_legacy_frame(frame)
    return encode_frame(frame) + (b"\x01" if kind == "odd" else b"")


def described(event: object) -> object:
    if isinstance(event, AudioChunk | Utterance):
        return type(event), event.speaker, event.start_s, event.samples.tobytes()
    return event


@attrs.define(eq=False)
class Room:
    """A meeting's way in and one listener who takes at once what there is."""

    by: View
    told: bool
    short: bool
    """May take the short way."""
    chunk_ms: int = 20
    rate_hz: int = 16_000
    length: int = 960
    """Samples of most frames."""
    now_s: float = 100.0
    events: list[object] = attrs.field(factory=list)
    kept: list[object] = attrs.field(factory=list)
    """The events themselves, as an agent may keep them."""
    taken: list[int] = attrs.field(factory=list)
    """How many events there were after each step."""
    barged_in_s: list[float] = attrs.field(factory=list)
    shortened: int = 0
    cutters: dict[object, Cutter] = attrs.field(factory=dict)
    playout: Playout = attrs.field(factory=lambda: Playout(0.1, 0.3))
    audience: Audience = attrs.field(factory=lambda: Audience(1_000_000))
    inflow: Inflow = attrs.field(init=False)
    ear: Ear[HeardEvent] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        vad = VadSettings()
        intake = Intake(Timeline("auto"), OwnVoice(("Helper",)))
        self.inflow = Inflow(
            intake,
            self.audience,
            self.playout,
            BargeIn(0.1, vad),
            lambda: self.barged_in_s.append(self.now_s),
        )
        hearing = Hearing(
            self.rate_hz,
            self.chunk_ms,
            self.by,
            vad=vad if self.told else None,
            changes=self.told,
        )
        self.ear = self.audience.open(hearing, told=self.told)
        self.inflow.listen_to(CHANNEL)
        self.take_all()

    def live(self, script: list[Step]) -> None:
        for n, (kind, beat) in enumerate(script):
            self.now_s += 0.9 if kind == "gap" else 0.015 + 0.005 * beat
            if kind != "busy":
                self.take_all()
                self.taken.append(len(self.events))
            if not self.short:
                self.inflow._end_stretch()
            if kind == "gap":
                self.inflow.tick(self.now_s)
            elif kind == "say":
                self.playout.push(np.zeros(4_800, np.float32))
                self.playout.complete()
                self.playout.take(self.now_s)
            else:
                self.hear(kind, n)
            assert not self.inflow.ledger.faults
        self.take_all()
        self.inflow.finish(self.now_s)
        self.take_all()
        self.events += map(described, self.ear._inner.hearing.finish())

    def hear(self, kind: str, n: int) -> None:
        before = self.inflow._stretch
        if kind == "busy":
            self.ear._inner.idle = False
        channel = OLDER_CHANNEL if kind == "stale" else CHANNEL
        said = message(kind, n, self.length)
        if isinstance(said, str):
            self.take(channel, said)
        else:
            self.read(channel, frame(BINARY, said, mask=n.to_bytes(4, "little")))
        self.shortened += before is not None and self.inflow._stretch is before

    def read(self, channel: object, data: bytes) -> None:
        """What the edge does with the bytes of a frame."""
        cutter = self.cutters.get(channel)
        if cutter is None:
            cutter = self.cutters[channel] = Cutter(EdgeLimits())
            cutter.arm(1 << 20, functools.partial(self.take, channel))
        if rest := cutter.hear_usual(data, 64, self.now_s):
            cutter.feed(rest)
            assert cutter.cut(self.now_s, turn=64) is None

    def take(self, channel: object, said: bytes | str) -> Stretch | None:
        with contextlib.suppress(FrameError):
            return self.inflow.hear(channel, said, self.now_s)
        return None

    def take_all(self) -> None:
        """What `Ear` does between two waits."""
        inner = self.ear._inner
        while inner.ready or inner.audio.queued or inner.put_off:
            if inner.put_off:
                inner.take_put_off()
            elif inner.ready:
                self.kept.append(inner.ready.pop(0))
                self.events.append(described(self.kept[-1]))
            elif (piece := inner.audio.take_nowait()) is not None:
                inner.ready.extend(inner.hearing.feed(piece))
        inner.idle = not inner.audio.closed

    def books(self) -> dict[str, object]:
        intake, timeline = self.inflow.intake, self.inflow.intake.timeline
        return {
            "ledger": self.inflow.ledger,
            "frames": intake.frames,
            "bad in a row": intake.rejected_in_a_row,
            "rejected": intake.rejected,
            "origin": timeline.origin_s,
            "due": timeline.tick_due_s(self.now_s),
            "heard": self.audience.heard,
            "stale": self.inflow.stale,
            "barged in": self.barged_in_s,
        }


@settings(max_examples=60, deadline=None)
@given(
    scripts,
    st.sampled_from(["mix", "speaker"]),
    st.booleans(),
    st.sampled_from([0, 20, 60]),
    st.sampled_from([960, 4_800]),
)
@example([("ann", 1)] * 30 + [("gap", 0)] + [("ann", 0)] * 9, "mix", True, 20, 960)
@example([("ann", 1)] * 9 + [("say", 1)] + [("ann", 1)] * 20, "mix", False, 0, 960)
@example([("ann", 1)] * 9 + [("say", 1)] + [("ann", 1)] * 20, "mix", False, 0, 4_800)
@example([("ann", 1), ("ann", 1), ("stale", 1), ("ann", 1)], "mix", False, 60, 960)
def test_the_short_way_hears_and_books_what_the_general_way_does(
    script: list[Step], by: View, told: bool, chunk_ms: int, length: int
) -> None:
    short = Room(by, told, short=True, chunk_ms=chunk_ms, length=length)
    general = Room(by, told, short=False, chunk_ms=chunk_ms, length=length)
    short.live(script)
    general.live(script)
    assert short.events == general.events
    assert short.taken == general.taken, "as early"
    assert short.books() == general.books()
    assert not general.shortened


def test_frames_that_are_alike_do_take_the_short_way() -> None:
    room = Room("mix", told=False, short=True)
    room.live([("ann", 1)] * 50)
    assert room.shortened == 49
    assert room.inflow.intake.frames == 50


def test_chunks_that_are_kept_stay_what_they_were_also_where_nothing_is_resampled() -> None:
    """At 48 kHz what is heard lies where the next frames of all meetings are unpacked."""
    room = Room("mix", told=False, short=True, chunk_ms=0, rate_hz=48_000)
    room.live([("ann", 1)] * 30)
    assert room.shortened == 29
    said = [message("ann", n) for n in range(30)]
    frames = [decode_frame(one) for one in said if isinstance(one, bytes)]
    chunks = [chunk.samples for chunk in room.kept if isinstance(chunk, AudioChunk)]
    assert np.array_equal(
        np.concatenate(chunks), np.concatenate([from_pcm16(frame.pcm) for frame in frames])
    )


def test_what_piles_up_before_the_agent_runs_is_heard_as_if_it_had_run_each_time() -> None:
    heard = []
    for piles in (False, True):
        room = Room("mix", told=False, short=True, chunk_ms=20)
        for n in range(3 * ROOM_SAMPLES // 960 + 10):
            room.now_s += 0.02
            if n < 5 or not piles:
                room.take_all()
            room.hear("ann", n)
        assert not piles or room.ear._inner.put_off, "all of it waits for one turn"
        room.take_all()
        room.inflow.finish(room.now_s)
        room.take_all()
        heard.append(room.events)
    assert heard[0] == heard[1]


@pytest.mark.parametrize(("length", "waits"), [(960, True), (LONG - 1, True), (LONG, False)])
def test_a_long_frame_is_resampled_where_it_is_read_and_a_short_one_waits_for_the_agent(
    length: int, waits: bool
) -> None:
    room = Room("mix", told=False, short=True, chunk_ms=0, length=length)
    inner = room.ear._inner
    for n in range(10):
        room.now_s += length / 48_000
        room.take_all()
        room.hear("ann", n)
    assert room.shortened == 9
    assert (inner.put_off is not None) == waits
    assert bool(inner.ready) == (not waits)


def test_speech_of_ours_ends_the_short_way_so_that_a_barge_in_is_noticed() -> None:
    room = Room("mix", told=False, short=True)
    room.live([("ann", 1)] * 10 + [("say", 1)] + [("ann", 1)] * 10)
    assert room.barged_in_s


def test_while_the_agent_is_busy_its_lane_is_bounded_and_the_oldest_audio_is_dropped() -> None:
    room = Room("mix", told=False, short=True, audience=Audience(4_800))
    room.live([("ann", 1)] * 5 + [("busy", 1)] * 20)
    assert room.audience.books()["dropped"] == 20 * 960 - 4_800


def test_a_channel_that_was_replaced_is_not_heard() -> None:
    room = Room("mix", told=False, short=True)
    room.live([("ann", 1)] * 5 + [("stale", 1)] * 3)
    assert room.inflow.stale == 3
    assert room.inflow.intake.frames == 5


@pytest.mark.parametrize("ends", ["the channel leaves", "the ear leaves", "another ear comes"])
def test_a_stretch_that_is_over_holds_nothing_that_it_needed(ends: str) -> None:
    """A soxr stream above all: the next one is to have its place in memory."""
    room = Room("mix", told=False, short=True)
    for n in range(5):
        room.hear("ann", n)
        room.take_all()
    stretch = room.inflow._stretch
    assert stretch is not None
    assert room.ear._inner in stretch.needs
    if ends == "the channel leaves":
        room.inflow.listen_to(None)
    elif ends == "the ear leaves":
        room.ear.close()
    else:
        room.audience.open(Hearing(16_000, 20))
    assert stretch.needs == ()
    assert room.inflow._stretch is None


Beat = tuple[int, float, bool]
"""A frame's samples, how long after it the next one comes, and whether the agent is told
something in between."""

beats = st.lists(
    st.tuples(
        st.sampled_from([960] * 8 + [4_800] * 3 + [333, 480, 1_920, 77]),
        st.sampled_from([0.02] * 8 + [0.0, 0.001, 1.0]),
        st.sampled_from([False] * 9 + [True]),
    ),
    max_size=60,
)


async def heard_by_an_agent(
    script: list[Beat], chunk_ms: int, leaves_at: int, short: bool
) -> tuple[list[object], list[object], Ledger]:
    """What an agent hears and is told with its own iterator; it listens anew after as many
    events as ``leaves_at``. With the ledger at the end."""
    intake = Intake(Timeline("auto"), OwnVoice(("Helper",)))
    audience, vad = Audience(1_000_000), VadSettings()
    inflow = Inflow(intake, audience, Playout(0.1, 0.3), BargeIn(0.1, vad), lambda: None)
    inflow.listen_to(CHANNEL)
    heard, told = list[object](), list[object]()

    async def agent() -> None:
        over = False
        while not over:
            over = True
            ear: Ear[object] = audience.open(Hearing(16_000, chunk_ms))
            async for event in ear:
                (told if isinstance(event, str) else heard).append(described(event))
                if len(heard) == leaves_at:
                    over = False
                    heard.append("listens anew")
                    ear.close()

    follower, size = None, 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent)
        await wait_all_tasks_blocked()
        for n, (length, pause_s, tells) in enumerate(script):
            noise = np.random.default_rng(n).integers(-9_000, 9_000, length)
            said = encode_frame(AudioFrame("ann", "Ann", noise.astype("<i2").tobytes()))
            masked = frame(BINARY, said, mask=n.to_bytes(4, "little"))
            now_s = trio.current_time()
            if not (
                short
                and follower is not None
                and size == len(masked)
                and follower.take(masked, now_s)
            ):
                follower, size = inflow.hear(CHANNEL, said, now_s), len(masked)
            if tells:
                audience.note(f"note {n}")
            await trio.sleep(pause_s)
            if pause_s == 1.0:
                inflow.tick(trio.current_time())
            await wait_all_tasks_blocked()
            assert not inflow.ledger.faults
        inflow.finish(trio.current_time())
    return heard, told, inflow.ledger


@settings(max_examples=40, deadline=None)
@given(beats, st.sampled_from([0, 10, 20, 100]), st.integers(0, 9))
@example([(960, 0.02, False)] * 20, 20, 3)
@example([(960, 0.02, n == 5) for n in range(12)], 20, 0)
@example([(4_800, 0.1, n == 5) for n in range(12)], 0, 3)
def test_with_its_own_iterator_an_agent_hears_the_short_way_what_it_does_the_general_way(
    script: list[Beat], chunk_ms: int, leaves_at: int
) -> None:
    short, general = (
        trio.run(
            heard_by_an_agent,
            script,
            chunk_ms,
            leaves_at,
            way,
            clock=MockClock(autojump_threshold=0),
        )
        for way in (True, False)
    )
    assert short == general
