"""Every queue of a meeting has a bound, and here is what reaches it."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import attrs
import numpy as np
import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.core.rooms import RATE_HZ, Channel, Door, Room, bridge, listener
from tests.edge.peers import Pipe
from trio_bridge import budget
from trio_bridge.audio.hearing import LABELS_KEPT, Hearing
from trio_bridge.audio.mixing import Piece
from trio_bridge.audio.pcm import from_pcm16, silence
from trio_bridge.audio.speakers import LONGEST_TEXT, OwnVoice, Speaker
from trio_bridge.audio.timeline import Timeline
from trio_bridge.audio.vad import VadSettings
from trio_bridge.config import Settings
from trio_bridge.ears import SHORTEST_PIECE, Audience, Ear
from trio_bridge.inbox import MESSAGE_IDS, Inbox
from trio_bridge.intake import LONG_NAME, RESAMPLERS_REMEMBERED, Intake
from trio_bridge.lanes import Lane, Overflow
from trio_bridge.meeting import MOST_EARS, Agent, AudioChunk, Meeting
from trio_bridge.pacing import SAMPLE_BYTES, Playout
from trio_bridge.registry import FAILURE_PAUSE_S, FAILURES_REMEMBERED
from trio_bridge.server import Server
from trio_bridge.wire.commands import SendImage
from trio_bridge.wire.control import UserText
from trio_bridge.wire.frames import AudioFrame, encode_frame, encode_legacy_frame

pytestmark = pytest.mark.usefixtures("autojump_clock")

PICTURE = b"\xff\xd8\xff" + bytes(300_000)


def test_the_table_says_what_is_computed_and_the_sum() -> None:
    text = budget.__doc__ or ""
    for queue in budget.queues(Settings()):
        figure = f"{queue.most_bytes / 2**20:.1f}"
        assert any(
            line.strip().startswith(queue.name) and figure in line.split()
            for line in text.splitlines()
        ), (queue.name, figure)
    assert f"{budget.most_bytes(Settings()) / 2**20:.1f} MiB" in text
    assert budget.most_bytes(Settings()) < 64 << 20  # as the README says


def test_what_an_operator_lowers_lowers_the_sum() -> None:
    least = Settings(audio_backlog_ms=40, command_backlog_kib=1_024, speech_backlog_ms=100)
    assert budget.most_bytes(least) < budget.most_bytes(Settings()) - (3 << 20)


# -- towards the agent -----------------------------------------------------------------------


def test_a_live_lane_holds_only_so_many_items_however_little_they_cost() -> None:
    lane = Lane[int]("x", 1_000_000, Overflow.DROP_OLDEST, most=10)
    for number in range(25):
        lane.put_nowait(number)
    assert (len(lane), lane.dropped, lane.dropped_items) == (10, 15, 15)
    assert lane.take_nowait() == 15


async def test_frames_of_one_sample_fill_no_ear_beyond_its_pieces() -> None:
    ears: list[Ear[AudioChunk]] = []

    async def agent(meeting: Meeting) -> None:
        ears.append(meeting.audio())
        await trio.sleep_forever()

    async with bridge(agent) as room:
        audio = await room.audio()
        message = encode_frame(AudioFrame("a", "A", b"\1\0"))
        for _ in range(1_000):
            await audio.send(message)
        await wait_all_tasks_blocked()
        (ear,) = room.session.inflow.audience._ears
        assert len(ear.audio) == ear.audio.most == 400 * RATE_HZ // 1000 // SHORTEST_PIECE
        assert ears[0].dropped_samples == 600
        assert room.session.ledger.faults == []
        assert room.session.ledger.dropped == 600


def test_real_frames_are_bounded_by_their_length_alone() -> None:
    audience = Audience(RATE_HZ * 4 // 10)
    ear: Ear[AudioChunk] = audience.open(Hearing(16_000))
    for n in range(100):
        audience.hear(Timeline("mixed").add(Speaker("a", "A"), silence(960), n * 0.02))
    assert ear.dropped_samples == 80 * 960


async def test_a_meeting_has_so_many_ears_and_one_that_is_closed_makes_room() -> None:
    said: list[str] = []

    async def agent(meeting: Meeting) -> None:
        ears = [meeting.audio() for _ in range(MOST_EARS)]
        with pytest.raises(RuntimeError) as caught:
            meeting.events()
        said.append(str(caught.value))
        ears.pop().close()
        ears.append(meeting.audio())
        ears.clear()
        meeting.events()
        await meeting.chat("done")
        await trio.sleep_forever()

    async with bridge(agent) as room:
        control = await room.control()
        await control.next("sendmsg")
    assert said == ["32 ears are open: close() those that are not used"]


def test_names_that_change_with_each_sample_leave_only_so_many_labels() -> None:
    hearing = Hearing(16_000, 20, vad=VadSettings())
    for n in range(3 * LABELS_KEPT):
        hearing.feed(Piece(Speaker(str(n), ""), n, silence(1)))
    (strand,) = hearing._strands.values()
    assert len(strand._labels) == LABELS_KEPT


def test_a_long_name_is_heard_under_its_beginning_and_counted() -> None:
    intake = Intake(Timeline("mixed"), OwnVoice(("Helper",)))
    whole = "n" * LONGEST_TEXT
    long = encode_frame(AudioFrame("i" * 65_535, whole + "!" * 60_000, bytes(1920)))
    for n in range(3):
        (piece,) = intake.take(long, n * 0.02).mix
        assert piece.speaker == Speaker("i" * LONGEST_TEXT, whole)
    assert intake.flawed == {LONG_NAME: 3}
    fits = encode_frame(AudioFrame("1", whole, bytes(1920)))
    assert intake.take(fits, 0.06).mix[0].speaker == Speaker("1", whole)
    assert intake.flawed == {LONG_NAME: 3}


def test_a_flood_of_speakers_at_another_rate_keeps_only_so_many_resamplers() -> None:
    intake = Intake(Timeline("mixed"), OwnVoice(("Helper",)))
    frame = encode_legacy_frame(AudioFrame("", "x", bytes(640)))
    for n in range(3 * RESAMPLERS_REMEMBERED):
        other = frame.replace('"x"', f'"x{n}"')[:-1] + ', "sampleRate": 16000}'
        intake.take(other, n * 0.02)
        assert len(intake._resamplers) <= RESAMPLERS_REMEMBERED
    assert intake.frames == 3 * RESAMPLERS_REMEMBERED


def test_ids_of_messages_that_came_long_ago_are_forgotten_and_counted() -> None:
    inbox = Inbox()
    for n in range(MESSAGE_IDS + 7):
        assert inbox.accept(UserText("x", message_id=str(n))) is not None
    assert (len(inbox._seen_ids), inbox.forgotten) == (MESSAGE_IDS, 7)
    assert inbox.accept(UserText("x", message_id="0")) is not None
    assert inbox.accept(UserText("x", message_id=str(MESSAGE_IDS + 6))) is None


async def test_messages_that_a_slow_agent_never_got_are_in_its_meetings_last_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def agent(meeting: Meeting) -> None:
        ear = meeting.events()
        await trio.sleep(500)
        ear.close()
        await trio.sleep_forever()

    async with bridge(agent) as room:
        control = await room.control()
        for _ in range(70):  # of each 17 KiB are kept, of all 1 MiB
            await control.send({"command": "usermsg", "message": "y" * 250_000})
            await trio.sleep(1)
        await trio.sleep(600)
    (ended,) = [r for r in caplog.records if r.getMessage() == "meeting ended"]
    assert ended.__dict__["notes_dropped"] == 10


# -- towards the meeting ---------------------------------------------------------------------


@attrs.define(eq=False)
class StallingDoor(Door):
    """A door behind which connections can be made to take no more bytes."""

    pipes: list[Pipe] = attrs.field(factory=list)

    def __attrs_pre_init__(self) -> None:
        Door.__init__(self)

    async def open_stream(self) -> trio.abc.Stream:
        ours, theirs = memory_stream_pair()
        pipe = Pipe(theirs)
        self.pipes.append(pipe)
        await self._send.send(pipe)
        return ours


@asynccontextmanager
async def stalling_bridge(agent: object, **settings: object) -> AsyncIterator[Room]:
    door = StallingDoor()
    server = Server(cast(Agent, agent), Settings(**settings))  # type: ignore[arg-type]
    async with trio.open_nursery() as peers:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run, [door])
            yield Room(server, door, peers)
            nursery.cancel_scope.cancel()
        peers.cancel_scope.cancel()


async def test_a_flood_of_pictures_to_a_bot_that_never_reads_is_bounded_and_arrives_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded = 0
    encode = SendImage.encode

    def counting(self: SendImage, bot_id: str) -> str:
        nonlocal encoded
        encoded += 1
        return encode(self, bot_id)

    monkeypatch.setattr(SendImage, "encode", counting)
    meetings: dict[str, Meeting] = {}

    async def agent(meeting: Meeting) -> None:
        meetings[meeting.bot_id] = meeting
        if meeting.bot_id == "good":
            await listener(meeting)
            return
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(meeting.show_image, PICTURE)

    async with stalling_bridge(agent, command_backlog_kib=2_048) as room:
        good = await room.control("good")
        door = cast(StallingDoor, room.door)
        await room.control("bad")
        door.pipes[-1].stalled = True
        bad = next(s for s in room.server.registry if s.bot_id == "bad")
        commands = bad.pump._commands
        for _ in range(10):  # writes fail after 5 s, and the bot comes back and never reads
            assert commands.queued <= commands.capacity + 500_000
            assert encoded <= 2 + commands.capacity // len(PICTURE)
            await trio.sleep(10)
            await room.control("bad")
            door.pipes[-1].stalled = True
        await meetings["good"].chat("hello")
        assert (await good.next("sendmsg"))["message"] == "hello"
        channel = await room.control("bad")
        pictures = 0
        with trio.move_on_after(60):
            while (await channel.next("sendimg"))["img"]:
                pictures += 1
        assert pictures == encoded == 100
        assert bad.pump.waits > 50


def test_speech_in_single_samples_takes_no_more_than_in_one_piece() -> None:
    playout = Playout(0.1, 0.3)
    for n in range(20_000):
        playout.push(np.full(1, n / 20_000, np.float32))
    assert (playout.said, playout.queued) == (20_000, 20_000)
    assert playout._spool.held_bytes <= 5 * 4_800 * SAMPLE_BYTES
    whole = from_pcm16(b"".join(playout.take(0.0) for _ in range(5)))
    assert whole == pytest.approx(np.arange(20_000) / 20_000, abs=1 / 32_768)


async def test_an_hour_said_at_once_keeps_nobody_waiting_and_nothing_in_memory() -> None:
    kept: list[weakref.ref[object]] = []
    turns: list[int] = []

    async def agent(meeting: Meeting) -> None:
        speech = np.zeros(60 * RATE_HZ, np.float32)  # a minute will do
        kept.append(weakref.ref(speech))
        for rate_hz in (RATE_HZ, 16_000):
            with trio.move_on_after(10):
                async with meeting.turn() as turn:
                    await turn.say(speech, rate_hz=rate_hz)
            meeting.interrupt()
        async with meeting.turn() as turn:
            with trio.move_on_after(0.5):
                await turn.say(speech, rate_hz=RATE_HZ)
            del speech
            await trio.sleep_forever()

    async with bridge(agent) as room:
        channel: Channel = await room.control()
        room.nursery.start_soon(channel.closed)
        await trio.sleep(21)
        playout = room.session.pump.playout
        gc.collect()
        assert playout.queued > RATE_HZ
        assert playout.queued <= 2 * RATE_HZ
        assert kept[0]() is None, "what is queued is a copy of a second, not a view of it all"
        assert playout._spool.held_bytes <= 2.1 * RATE_HZ * SAMPLE_BYTES
        turns.append(room.session.pump.waits)
    assert turns[0] > 3


# -- beside the meetings ---------------------------------------------------------------------


async def test_a_flood_of_bots_whose_agents_fail_is_remembered_only_so_far() -> None:
    async def agent(_: Meeting) -> None:
        raise RuntimeError("no key for the model")

    async with bridge(agent) as room:
        registry = room.server.registry
        logging.disable(logging.ERROR)
        try:
            for n in range(FAILURES_REMEMBERED + 20):
                registry.join(f"bot-{n}")
                if n % 50 == 0:
                    await registry.empty()
            await registry.empty()
        finally:
            logging.disable(logging.NOTSET)
        assert trio.current_time() < FAILURE_PAUSE_S
        assert len(registry._failed_s) == FAILURES_REMEMBERED
        assert registry.failures_forgotten == 20
        late = await room.join("/bridge", f"bot-{FAILURES_REMEMBERED}")
        assert await late.closed() == (1011, "the agent failed")
