"""Meetings, their channels and their end: the real server on memory streams and a virtual
clock."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed
from wsproto.events import BytesMessage

from tests.core.rooms import BOT, Channel, Door, Room, bridge, listener, quiet, tone
from trio_bridge.attendance import Attendance, Link
from trio_bridge.audio.timeline import ABSENT_S, RATE_HZ, Heard, Timeline
from trio_bridge.clock import GRID_S
from trio_bridge.config import Settings
from trio_bridge.errors import SessionEndedError
from trio_bridge.meeting import AudioChunk, Interrupt, Meeting, UnknownMessage, UserMessage
from trio_bridge.pump import SILENT_S, Pump
from trio_bridge.server import Server
from trio_bridge.wire.frames import AudioFrame, encode_frame, encode_legacy_frame
from trio_bridge.wire.hello import encode_hello

pytestmark = pytest.mark.usefixtures("autojump_clock")

Join = Callable[[Room], Awaitable[Channel]]
ORDERS: list[tuple[Join, Join]] = [(Room.control, Room.audio), (Room.audio, Room.control)]


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.getMessage() == name]


@pytest.mark.parametrize("order", ORDERS, ids=["control first", "audio first"])
async def test_two_channels_share_one_session_whichever_comes_first(
    order: tuple[Join, Join],
) -> None:
    meetings: list[Meeting] = []

    async def agent(meeting: Meeting) -> None:
        meetings.append(meeting)
        await listener(meeting)

    async with bridge(agent) as room:
        first, second = [await join(room) for join in order]
        assert [meeting.bot_id for meeting in meetings] == [BOT]
        await first.leave()
        await wait_all_tasks_blocked()
        assert len(room.server.registry) == 1
        await second.leave()
        await wait_all_tasks_blocked()
        assert len(room.server.registry) == room.server.registry.running == 0
        assert room.server.served == 1


async def test_two_bots_are_two_meetings() -> None:
    async with bridge(listener) as room:
        await room.control("a")
        await room.control("b")
        await room.audio("a")
        assert {session.bot_id for session in room.server.registry} == {"a", "b"}


@pytest.mark.parametrize("kind", ["control", "audio"])
async def test_the_newest_socket_wins_and_the_old_ones_late_end_changes_nothing(
    kind: str,
) -> None:
    async with bridge(listener) as room:
        join = room.control if kind == "control" else room.audio
        old = await join()
        new = await join()
        assert await old.closed() == (1000, "replaced by a newer connection")
        await old.vanish()
        await trio.sleep(60)
        session = room.session
        if kind == "control":
            await session.meeting.chat("still here")
            assert (await new.next("sendmsg"))["message"] == "still here"
        else:
            await new.hear("alice", tone(0.1))
            await wait_all_tasks_blocked()
            assert session.ledger.received == 4_800
        assert session.inflow.stale == 0


async def test_a_lost_bot_may_come_back_within_the_grace_and_finds_its_agent() -> None:
    async with bridge(listener, grace_s=15.0) as room:
        control, audio = await room.control(), await room.audio()
        session = room.session
        await control.vanish()
        await audio.vanish()
        await trio.sleep(14.9)
        assert room.session is session
        await session.meeting.chat("for when you are back")
        control = await room.join("/bridge")
        assert (await control.next("sendmsg"))["message"] == "for when you are back"
        await trio.sleep(100)
        assert room.session is session


async def test_a_bot_that_does_not_come_back_ends_its_meeting_when_the_grace_is_over() -> None:
    async with bridge(listener, grace_s=15.0) as room:
        control = await room.control()
        left_s = trio.current_time()
        await control.vanish()
        await room.server.registry.empty()
        assert trio.current_time() - left_s == pytest.approx(15.0)


async def test_one_channel_that_leaves_properly_leaves_the_other_its_grace() -> None:
    async with bridge(listener, grace_s=15.0) as room:
        control, audio = await room.control(), await room.audio()
        await control.leave()
        await audio.vanish()
        await trio.sleep(14)
        assert len(room.server.registry) == 1
        await room.server.registry.empty()


@pytest.mark.parametrize("error", [RuntimeError("model fell over"), SystemExit(3)])
async def test_an_agent_that_raises_ends_its_own_meeting_only(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def agent(meeting: Meeting) -> None:
        if meeting.bot_id == "bad":
            await meeting.chat("about to fail")
            await trio.sleep(1)
            raise error
        await listener(meeting)

    async with bridge(agent) as room:
        good = await room.control("good")
        bad, bad_audio = await room.control("bad"), await room.audio("bad")
        assert await bad.closed() == (1011, "the agent failed")
        assert await bad_audio.closed() == (1011, "the agent failed")
        await wait_all_tasks_blocked()
        assert room.session.bot_id == "good"
        await room.session.meeting.chat("hello")
        assert (await good.next("sendmsg"))["message"] == "hello"
    (failure,) = events(caplog, "agent failed")
    assert failure.__dict__["bot_id"] == "bad"
    assert failure.exc_info is not None


async def test_an_agent_that_raises_at_once_is_started_once_and_again_after_a_pause() -> None:
    async def agent(_: Meeting) -> None:
        raise RuntimeError("no key for the model")

    async with bridge(agent) as room:
        for attempt in (1, 2):
            for path in ("/bridge", "/bridge/audio", "/bridge"):
                channel = await room.join(path)
                assert await channel.closed() == (1011, "the agent failed")
            assert room.server.served == attempt
            await trio.sleep(10)
        for number in range(100):  # nor are those of other bots remembered for ever
            await (await room.join("/bridge", str(number))).closed()
        await trio.sleep(10)
        await (await room.join("/bridge")).closed()
        await trio.sleep(1)
        assert len(room.server.registry._failed_s) == 1


async def test_an_agent_that_returns_leaves_its_meeting_running() -> None:
    async def agent(meeting: Meeting) -> None:
        await meeting.chat("hello and goodbye")

    async with bridge(agent) as room:
        control, audio = await room.control(), await room.audio()
        assert (await control.next("sendmsg"))["message"] == "hello and goodbye"
        await audio.hear("alice", tone(1.0))
        await wait_all_tasks_blocked()
        assert room.session.ledger.faults == []


async def test_an_agent_may_wrap_up_after_its_meeting_and_is_then_cancelled() -> None:
    ended: list[tuple[str, float]] = []

    async def agent(meeting: Meeting) -> None:
        try:
            await listener(meeting)
            ended.append(("iterator", trio.current_time()))
            await trio.sleep(1000)
        finally:
            ended.append(("cancelled", trio.current_time()))

    async with bridge(agent, wrap_up_s=2.0) as room:
        control, audio = await room.control(), await room.audio()
        await control.leave()
        await audio.leave()
        left_s = trio.current_time()
        await room.server.registry.empty()
    assert [what for what, _ in ended] == ["iterator", "cancelled"]
    assert [at_s - left_s for _, at_s in ended] == pytest.approx([0.0, 2.0], abs=0.01)


async def test_speech_after_the_meeting_is_told_that_nobody_is_left() -> None:
    told: list[str] = []

    async def agent(meeting: Meeting) -> None:
        await listener(meeting)
        for speak in (
            meeting.chat("x"),
            meeting.caption("x"),
            meeting.show_image_url("https://x"),
        ):
            with pytest.raises(SessionEndedError) as caught:
                await speak
            told.append(str(caught.value))
        async with meeting.turn() as turn:
            await turn.say(tone(1.0), rate_hz=48_000)

    async with bridge(agent) as room:
        control, audio = await room.control(), await room.audio()
        await control.leave()
        await audio.leave()
        await room.server.registry.empty()
    assert told == ["the meeting is over: nobody is left to read this"] * 3


async def test_an_agent_that_will_not_stop_is_reported_and_its_bot_can_meet_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = trio.Event()

    async def agent(meeting: Meeting) -> None:
        with trio.CancelScope(shield=True):
            await release.wait()

    async with bridge(agent, wrap_up_s=1.0, teardown_s=5.0) as room:
        control, audio = await room.control(), await room.audio()
        first = room.session
        await control.leave()
        await audio.leave()
        await trio.sleep(7)
        (stuck,) = events(caplog, "meeting would not stop")
        assert stuck.__dict__["bot_id"] == BOT
        assert any("agent" in name for name in stuck.__dict__["tasks"])
        await room.control()
        assert room.session is not first
        assert room.server.registry.running == 2
        release.set()


async def test_a_cancelled_server_ends_though_an_agent_shields_what_it_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "trio_bridge")
    ends: list[tuple[float, bool]] = []

    async def agent(meeting: Meeting) -> None:
        async with meeting.turn() as turn:
            # The deadline is the test's way out, should nobody tell it that it is over.
            with trio.move_on_after(60) as scope:
                scope.shield = True
                try:
                    await turn.say(tone(30), rate_hz=48_000)
                finally:
                    ends.append((trio.current_time(), scope.cancelled_caught))

    async with bridge(agent, wrap_up_s=0.0) as room:
        await room.control()
        await wait_all_tasks_blocked()
    ((end_s, given_up),) = ends
    assert end_s < 5.0
    assert not given_up
    (ended,) = events(caplog, "meeting ended")
    assert (ended.__dict__["code"], ended.__dict__["reason"]) == (1001, "going away")


async def test_a_fault_while_a_channel_leaves_gives_its_socket_back_and_ends_the_meeting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    links: list[Link] = []
    given_back: list[bool] = []

    def boom(_: Attendance, link: Link, *__: object) -> bool:
        links.append(link)
        raise RuntimeError("a bug of ours")

    async with bridge(listener) as room:
        control, audio = await room.control("bad"), await room.audio("bad")
        with monkeypatch.context() as patch:
            patch.setattr(Attendance, "leave", boom)
            await control.leave()
            await trio.sleep(1)
            given_back += [link.done for link in links]
        assert await audio.closed() == (1011, "internal error")
        neighbour = await room.control("good")
        await room.session.meeting.chat("hello")
        assert (await neighbour.next("sendmsg"))["message"] == "hello"
    assert given_back
    assert all(given_back)


async def test_a_drain_closes_every_socket_with_1001_and_ends_every_meeting() -> None:
    async with bridge(listener) as room:
        channels = [await room.control(str(n)) for n in range(10)]
        began_s = trio.current_time()
        room.server.stop()
        codes = [await channel.closed() for channel in channels]
        assert codes == [(1001, "going away")] * 10
        await room.server.stopped.wait()
        assert trio.current_time() - began_s < 1.0


async def test_a_drain_lets_meetings_end_by_themselves_until_its_deadline() -> None:
    async with bridge(listener) as room:
        quick, quick_audio = await room.control("quick"), await room.audio("quick")
        slow = await room.control("slow")
        began_s = trio.current_time()
        room.server.stop(drain_s=30.0)
        await quick.leave()
        await quick_audio.leave()
        assert await slow.closed() == (1001, "going away")
        assert trio.current_time() - began_s == pytest.approx(30.0, abs=0.5)


async def test_a_bot_that_comes_while_the_server_drains_is_refused() -> None:
    async with bridge(listener) as room:
        await room.control()
        room.server.stop(drain_s=30.0)
        await wait_all_tasks_blocked()
        assert await room.refusal("/bridge") == 503


HELLOS = [
    (b"\x01\x02", 1003, "first message is binary, expected a ready message"),
    ("hi", 1003, "first message is not JSON, expected ready"),
    ('{"type": "usermsg"}', 1003, "first message is not of type ready"),
    ('{"type": "ready"}', 1003, "the ready message has no bot_id"),
    ('{"type": "ready", "bot_id": 7}', 1003, "bot_id is not text"),
    ('{"type": "ready", "bot_id": ""}', 1008, "bot_id is empty"),
    (encode_hello("x" * 129), 1008, "bot_id is longer than 128 characters"),
]


@pytest.mark.parametrize(("message", "code", "reason"), HELLOS)
@pytest.mark.parametrize("path", ["/bridge", "/bridge/audio"])
async def test_a_bad_hello_is_closed_with_a_reason_and_makes_no_session(
    path: str, message: str | bytes, code: int, reason: str
) -> None:
    async with bridge(listener) as room:
        channel = await room.connect(path)
        await channel.send(message)
        assert await channel.closed() == (code, reason)
        assert room.server.served == 0


async def test_the_paths_id_must_be_the_hellos() -> None:
    async with bridge(listener) as room:
        wrong = await room.join("/other/bridge")
        assert await wrong.closed() == (1008, "bot_id is not the one in the path")
        assert room.server.served == 0
        await room.join(f"/{BOT}/bridge/audio/")
        await wait_all_tasks_blocked()
        assert room.session.bot_id == BOT


async def test_a_bot_that_says_nothing_is_refused_at_the_deadline() -> None:
    async with bridge(listener, hello_s=10.0) as room:
        began_s = trio.current_time()
        channel = await room.connect("/bridge")
        assert await channel.closed() == (1008, "no ready message in 10 s")
        assert trio.current_time() - began_s == pytest.approx(10.0)
        assert room.server.served == 0


@pytest.mark.parametrize(
    "path", ["/bridge?token=s3cret", "/t/s3cret/bridge", f"/{BOT}/t/s3cret/bridge/audio"]
)
async def test_a_token_lets_in_and_its_absence_does_not(path: str) -> None:
    async with bridge(listener, token=("other", "s3cret")) as room:
        for wrong in (path.replace("s3cret", "guess"), "/bridge"):
            assert await room.refusal(wrong) == 401
        await room.join(path)
        await wait_all_tasks_blocked()
        assert room.server.served == 1


BAD_FRAMES: list[tuple[str | bytes, str]] = [
    (b"", "short"),
    (b"\x01\x00", "short"),
    (b"\x02" + bytes(30), "unknown type"),
    (b"\x01\xff\xff" + bytes(10), "truncated speaker_id"),
    (b"\x01" + bytes(4) + bytes(200_000), "longer than 2 s"),
    ("[]", "JSON is not an object"),
    ("{", "not JSON"),
    ('{"type": "PCMChunk", "speakerName": 7, "audioData": ""}', "speakerName is not text"),
    ('{"type": "PCMChunk", "audioData": "*"}', "bad base64"),
]


async def test_bad_audio_is_counted_by_reason_and_logged_once_a_second_and_the_next_is_heard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bridge(listener) as room:
        audio = await room.audio()
        for message, _ in BAD_FRAMES:
            await audio.send(message)
        await audio.hear("alice", tone(0.1))
        await wait_all_tasks_blocked()
        session = room.session
        assert set(session.inflow.intake.rejected) == {reason for _, reason in BAD_FRAMES}
        assert session.ledger.received == session.ledger.delivered == 4_800
        await trio.sleep(1.1)
        await audio.send("[]")
        await wait_all_tasks_blocked()
    logged = events(caplog, "message rejected")
    assert [record.__dict__["more_before"] for record in logged] == [0, len(BAD_FRAMES) - 1]


async def test_an_odd_byte_and_bad_utf8_are_counted_and_the_audio_is_heard() -> None:
    async with bridge(listener) as room:
        audio = await room.audio()
        await audio.send(b"\x01\x01\x00\xff\x00\x00" + bytes(961))
        await wait_all_tasks_blocked()
        assert dict(room.session.inflow.intake.flawed) == {"odd byte": 1, "bad UTF-8": 1}
        assert room.session.ledger.received == 480


@pytest.mark.parametrize("kind", ["control", "audio"])
async def test_a_long_run_of_bad_messages_ends_the_socket_and_not_the_meeting(
    kind: str,
) -> None:
    async with bridge(listener, bad_frames=5) as room:
        control, audio = await room.control(), await room.audio()
        bad, good = (control, audio) if kind == "control" else (audio, control)
        for _ in range(5):
            await bad.send("nonsense")
        assert await bad.closed() == (1003, "5 bad messages in a row")
        await (room.control() if kind == "control" else room.audio())
        assert len(room.server.registry) == 1
        await good.leave()


async def test_user_messages_reach_the_agent_once_and_unknown_ones_are_surfaced() -> None:
    heard: list[object] = []

    async def agent(meeting: Meeting) -> None:
        async for event in meeting.events():
            heard.append(event)

    async with bridge(agent) as room:
        control = await room.control()
        await control.send({"command": "usermsg", "message": " one ", "id": "1"})
        await control.send({"command": "usermsg", "message": "one", "id": "1"})
        await control.send({"command": "usermsg", "message": "  "})
        await control.send({"command": "usermsg", "message": "half", "is_final": False})
        await control.send({"type": "usermsg", "text": "two", "speakerName": "Zoë"})
        await control.send({"command": "dance"})
        await control.send({"type": "ready", "bot_id": BOT})
        await control.send({"type": "ready", "bot_id": "another"})
        await control.send(b"\x00")
        await wait_all_tasks_blocked()
        session = room.session
        assert session.bot_id == BOT
        assert session.ignored == 6
        assert dict(session.inflow.intake.rejected) == {
            "binary message on the control channel": 1
        }
    first, second, unknown = heard
    assert first == UserMessage("one")
    assert isinstance(second, UserMessage)
    assert (second.text, str(second.speaker)) == ("two", "Zoë")
    assert unknown == UnknownMessage("dance")


async def test_message_ids_are_remembered_only_so_far() -> None:
    heard: list[object] = []

    async def agent(meeting: Meeting) -> None:
        async for event in meeting.events():
            heard.append(event)

    async with bridge(agent) as room:
        control = await room.control()
        for n in range(600):
            await control.send({"command": "usermsg", "message": "x", "id": str(n)})
            await wait_all_tasks_blocked()
        await control.send({"command": "usermsg", "message": "x", "id": "0"})
        await wait_all_tasks_blocked()
        assert len(room.session._inbox._seen_ids) == 512
    assert len(heard) == 601


async def test_an_ear_for_audio_gets_audio_only_and_the_rest_waits_for_another() -> None:
    chunks: list[object] = []
    told: list[object] = []
    later = trio.Event()

    async def agent(meeting: Meeting) -> None:
        async def listen() -> None:
            async for chunk in meeting.audio():
                chunks.append(chunk)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await later.wait()
            async for event in meeting.events():
                told.append(event)

    async with bridge(agent) as room:
        control, audio = await room.control(), await room.audio()
        await control.send({"command": "usermsg", "message": "x", "id": "1"})
        await control.send({"command": "interrupt"})
        for _ in range(10):
            await audio.ws.send_message(encode_frame(AudioFrame("1", "Ann", bytes(1920))))
        await wait_all_tasks_blocked()
        assert chunks
        assert {type(chunk) for chunk in chunks} == {AudioChunk}
        assert told == []
        later.set()
        await wait_all_tasks_blocked()
        assert told[0] == UserMessage("x")
        assert isinstance(told[1], Interrupt)


async def test_the_bots_own_voice_is_silence_and_never_an_utterance() -> None:
    heard: list[object] = []

    async def agent(meeting: Meeting) -> None:
        async for event in meeting.events():
            heard.append(event)

    async with bridge(agent, bot_name=("My Bot",)) as room:
        audio = await room.audio()
        await audio.hear("my bot", tone(2.0))
        await audio.hear("Abbott", quiet(2.0))
        await wait_all_tasks_blocked()
        assert room.session.inflow.intake.own == 96_000
        assert room.session.ledger.mixed == 4 * 48_000
    assert [type(event).__name__ for event in heard] == ["SpeakerChange"]


async def test_legacy_text_frames_and_fragmented_ones_are_heard_too() -> None:
    async with bridge(listener) as room:
        audio = await room.audio()
        await audio.send(
            json.dumps({"type": "PCMChunk", "speakerName": "A", "audioData": "AAAAAAAA"})
        )
        frame = encode_frame(AudioFrame("a", "A", bytes(1920)))
        await audio.ws._send(_fragment(frame[:100], opening=True))
        await audio.ws._send(_fragment(frame[100:], opening=False))
        await wait_all_tasks_blocked()
        assert room.session.ledger.received == 3 + 960


def _fragment(payload: bytes, *, opening: bool) -> BytesMessage:
    return BytesMessage(data=payload, message_finished=not opening)


async def test_audio_without_a_listener_is_unheard_and_the_books_still_balance() -> None:
    async def agent(meeting: Meeting) -> None:
        ear = meeting.audio()
        await ear.__anext__()
        ear.close()
        await trio.sleep_forever()

    async with bridge(agent) as room:
        audio = await room.audio()
        await audio.hear("alice", tone(1.0))
        await wait_all_tasks_blocked()
        ledger = room.session.ledger
        assert ledger.faults == []
        assert ledger.unheard > 40_000
        assert ledger.unheard + ledger.offered == 48_000


async def test_a_slow_agent_loses_the_oldest_audio_and_every_sample_is_counted() -> None:
    async def agent(meeting: Meeting) -> None:
        async for chunk in meeting.audio(chunk_ms=100, backlog_ms=500):
            await trio.sleep(chunk.duration_s * 4)

    async with bridge(agent) as room:
        audio = await room.audio()
        await audio.hear("alice", tone(10.0))
        ledger = room.session.ledger
        assert ledger.faults == []
        assert ledger.dropped > 5 * 48_000
        assert ledger.queued <= 24_000


async def test_audio_that_stops_becomes_silence_that_ends_the_utterance() -> None:
    heard: list[tuple[str, float]] = []

    async def agent(meeting: Meeting) -> None:
        async for event in meeting.events():
            heard.append((type(event).__name__, trio.current_time()))

    async with bridge(agent) as room:
        audio = await room.audio()
        await audio.hear("alice", tone(1.0))
        stopped_s = trio.current_time()
        await trio.sleep(3)
        assert heard[-1][0] == "Utterance"
        assert heard[-1][1] - stopped_s < 1.2


async def test_the_clock_leaves_a_meeting_alone_while_its_audio_flows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = list[float]()
    tick = Timeline.tick

    def counted(timeline: Timeline, now_s: float) -> Heard:
        ticks.append(now_s)
        return tick(timeline, now_s)

    monkeypatch.setattr(Timeline, "tick", counted)
    async with bridge(listener) as room:
        audio = await room.audio()
        await audio.hear("alice", tone(1))
        ticks.clear()
        await audio.hear("alice", tone(5))
        assert not ticks
        await trio.sleep(ABSENT_S + 2 * GRID_S)
        assert ticks
        assert room.session.ledger.filled > 0


async def test_what_speaking_needed_is_given_back_while_others_talk() -> None:
    async def agent(meeting: Meeting) -> None:
        async with meeting.turn() as turn:
            await turn.say(tone(0.5), rate_hz=RATE_HZ)
        await listener(meeting)

    async with bridge(agent) as room:
        control, audio = await room.control(), await room.audio()
        room.nursery.start_soon(control.closed)
        await trio.sleep(1)
        playout = room.session.pump.playout
        assert playout.sent == RATE_HZ // 2
        assert playout._spool.held_bytes > 0
        await audio.hear("alice", tone(SILENT_S + 1))
        assert playout._spool.held_bytes == 0


async def test_a_clean_end_is_not_an_error(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO)
    async with bridge(listener) as room:
        control, audio = await room.control(), await room.audio()
        await audio.hear("alice", tone(0.5))
        await control.leave()
        await audio.leave()
        await room.server.registry.empty()
    (ended,) = events(caplog, "meeting ended")
    assert ended.__dict__["ledger"] == "balanced"
    assert ended.__dict__["received_s"] == 0.5
    assert [r.getMessage() for r in caplog.records if r.levelno > logging.INFO] == []


# -- what a review found ---------------------------------------------------------------------


async def test_of_two_control_sockets_that_join_at_once_the_newest_gets_the_output() -> None:
    """Whichever of their tasks Trio runs first; that is chance, so it is tried many times."""
    for _ in range(30):
        async with bridge(listener) as room:
            pair = [await room.connect("/bridge") for _ in range(2)]
            async with trio.open_nursery() as nursery:
                for channel in pair:
                    nursery.start_soon(channel.send, encode_hello(BOT))
            await wait_all_tasks_blocked()
            await room.session.meeting.chat("for the newest")
            outcomes: dict[Channel, str] = {}

            async with trio.open_nursery() as nursery:
                for channel in pair:
                    nursery.start_soon(_chat_or_end, channel, outcomes)
                await trio.sleep(1)
                nursery.cancel_scope.cancel()
            assert sorted(outcomes.values()) == [
                "for the newest", "replaced by a newer connection",
            ]  # fmt: skip
            assert room.server.served == 1


async def _chat_or_end(channel: Channel, outcomes: dict[Channel, str]) -> None:
    """Note the first chat message of ``channel``, or why it was closed before one came."""
    try:
        outcomes[channel] = (await channel.next("sendmsg"))["message"]
    except ConnectionClosed as end:
        outcomes[channel] = (end.reason.reason if end.reason else None) or ""


class NotOurs(BaseException):
    """As `asyncio.CancelledError`, or the outcome exceptions of test frameworks."""


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError(),
        NotOurs("x"),
        BaseExceptionGroup("x", [NotOurs("x"), ValueError("y")]),
    ],
    ids=["asyncio", "bare", "group"],
)
async def test_an_agent_that_raises_no_exception_but_a_base_one_ends_its_own_meeting_only(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def agent(meeting: Meeting) -> None:
        if meeting.bot_id == "bad":
            await trio.sleep(1)
            raise error
        await listener(meeting)

    async with bridge(agent) as room:
        good, bad = await room.control("good"), await room.control("bad")
        assert await bad.closed() == (1011, "the agent failed")
        await wait_all_tasks_blocked()
        await room.session.meeting.chat("hello")
        assert (await good.next("sendmsg"))["message"] == "hello"
    (failure,) = events(caplog, "agent failed")
    assert failure.__dict__["bot_id"] == "bad"


async def test_ctrl_c_in_an_agent_is_not_the_agents_failure_and_ends_the_program() -> None:
    async def agent(_: Meeting) -> None:
        raise KeyboardInterrupt

    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012 - it is the room that fails
        async with bridge(agent) as room:
            await room.join("/bridge")
            await trio.sleep(1)
    assert caught.value.subgroup(KeyboardInterrupt) is not None
    assert caught.value.split(KeyboardInterrupt)[1] is None


async def test_empty_frames_take_no_room_while_nobody_listens_and_flip_no_layout() -> None:
    async def agent(_: Meeting) -> None:
        await trio.sleep_forever()

    async with bridge(agent) as room:
        audio = await room.audio()
        for n in range(2_000):
            who = ("alice", "bruno")[n % 2]
            await audio.send(encode_frame(AudioFrame(who, who, b"")))
        await audio.hear("alice", tone(0.1))
        await wait_all_tasks_blocked()
        session = room.session
        assert session.inflow.frames == 2_005
        assert not session.inflow.intake.timeline.separate
        assert {view: len(lane) for view, lane in session.inflow.audience._early.items()} == {
            "mix": 5, "speaker": 5,
        }  # fmt: skip
        assert session.ledger.faults == []
        assert session.ledger.received == 4_800


async def test_a_long_message_id_is_heard_but_not_remembered() -> None:
    heard: list[object] = []

    async def agent(meeting: Meeting) -> None:
        async for event in meeting.events():
            heard.append(event)

    async with bridge(agent) as room:
        control = await room.control()
        for length in (256, 257, 100_000):
            for _ in range(2):
                identity = "x" * length
                await control.send({"command": "usermsg", "message": "m", "id": identity})
        await wait_all_tasks_blocked()
        assert list(room.session._inbox._seen_ids) == ["x" * 256]
        assert room.session.ignored == 1
    assert heard == [UserMessage("m")] * 5


@pytest.mark.parametrize("broken", [(Timeline, "tick"), (Pump, "_send")], ids=["time", "pump"])
async def test_a_fault_of_ours_closes_both_channels_with_1011_and_harms_no_neighbour(
    broken: tuple[type, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def boom(*_: object) -> None:
        raise RuntimeError("a bug of ours")

    async with bridge(listener) as room:
        control, audio = await room.control("bad"), await room.audio("bad")
        session = room.session
        with monkeypatch.context() as patch:
            patch.setattr(*broken, boom)
            await session.meeting.chat("x")  # wakes the pump
            await trio.sleep(1.5)  # ... and time passes
        assert await control.closed() == (1011, "internal error")
        assert await audio.closed() == (1011, "internal error")
        neighbour = await room.control("good")
        await room.session.meeting.chat("hello")
        assert (await neighbour.next("sendmsg"))["message"] == "hello"
    (failure,) = events(caplog, "meeting failed")
    assert failure.__dict__["bot_id"] == "bad"
    assert failure.exc_info is not None


async def test_an_agent_that_will_not_stop_is_reported_though_the_server_is_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = trio.Event()
    reported_s: list[float] = []

    async def agent(_: Meeting) -> None:
        with trio.CancelScope(shield=True):
            await release.wait()

    class Clocked(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "meeting would not stop":
                reported_s.append(trio.current_time())

    clocked = Clocked()
    log = logging.getLogger("trio_bridge.session")
    log.addHandler(clocked)
    try:
        async with bridge(agent, wrap_up_s=1.0, teardown_s=5.0) as room:
            await room.control()
            stopped_s = trio.current_time()
            room.server.stop()
            await trio.sleep(60)
            assert not room.server.stopped.is_set()
            release.set()
            await room.server.stopped.wait()
    finally:
        log.removeHandler(clocked)
    (stuck,) = events(caplog, "meeting would not stop")
    assert any("agent" in name for name in stuck.__dict__["tasks"])
    assert stuck.__dict__["after_s"] == 5.0
    # Cancelled when its time to wrap up was over, 1 s after the stop.
    assert [at_s - stopped_s for at_s in reported_s] == pytest.approx([6.0], abs=0.1)


async def test_a_meeting_that_stops_in_time_at_a_shutdown_is_not_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def agent(_: Meeting) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(4)

    async with bridge(agent, wrap_up_s=1.0, teardown_s=5.0) as room:
        await room.control()
        room.server.stop()
        await room.server.stopped.wait()
    assert events(caplog, "meeting would not stop") == []


@pytest.mark.parametrize("path", ["/bridge", "/bridge/audio"])
async def test_a_socket_that_introduces_itself_during_the_drain_makes_no_session(
    path: str,
) -> None:
    async with bridge(listener) as room:
        await room.control("old")
        late, known = await room.connect(path), await room.connect("/bridge/audio")
        await wait_all_tasks_blocked()
        room.server.stop(drain_s=30.0)
        await trio.sleep(1)
        began_s = trio.current_time()
        await late.send(encode_hello("new"))
        assert await late.closed() == (1001, "going away")
        assert trio.current_time() - began_s < 1.0
        await known.send(encode_hello("old"))  # of a meeting that goes on: it may join
        await wait_all_tasks_blocked()
        assert [session.bot_id for session in room.server.registry] == ["old"]
        assert "audio" in room.session._attendance
        assert room.server.served == 1


async def test_stereo_frames_of_two_seconds_are_heard_in_either_form() -> None:
    frame = AudioFrame("a", "A", bytes(2 * 48_000 * 4))
    async with bridge(listener, channels=2) as room:
        audio = await room.audio()
        await audio.send(encode_frame(frame))
        await audio.send(encode_legacy_frame(frame))
        await trio.sleep(5)
        assert room.session.inflow.frames == 2
        assert room.session.inflow.intake.rejected == {}
        assert room.session.ledger.received == 2 * 2 * 48_000


async def test_an_agent_that_fails_by_another_meetings_end_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    meetings: dict[str, Meeting] = {}

    async def agent(meeting: Meeting) -> None:
        meetings[meeting.bot_id] = meeting
        if meeting.bot_id == "b":
            await trio.sleep(30)
            await meetings["a"].chat("a question from the other meeting")
        await trio.sleep_forever()

    async with bridge(agent, grace_s=1.0) as room:
        a, b = await room.control("a"), await room.control("b")
        await a.vanish()
        assert await b.closed() == (1011, "the agent failed")
    (failure,) = events(caplog, "agent failed")
    assert failure.__dict__["bot_id"] == "b"


async def test_an_agent_that_still_speaks_when_its_own_bot_has_left_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def agent(meeting: Meeting) -> None:
        await listener(meeting)
        await meeting.chat("goodbye")

    async with bridge(agent) as room:
        control, audio = await room.control(), await room.audio()
        await control.leave()
        await audio.leave()
        await room.server.registry.empty()
    assert events(caplog, "agent failed") == []


FLOODS: list[tuple[dict[str, str], list[str]]] = [
    ({"command": "interrupt"}, ["interrupted", "interrupt sent"]),
    (
        {"type": "ready", "bot_id": "another"},
        ["second ready with another bot_id ignored"],
    ),
]


@pytest.mark.parametrize(("message", "names"), FLOODS, ids=["interrupt", "ready"])
async def test_a_flood_is_logged_once_a_second_with_how_many_were_left_out(
    message: dict[str, str], names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with bridge(listener) as room:
        control = await room.control()
        room.nursery.start_soon(control.closed)
        for _ in range(300):
            await control.send(message)
            await wait_all_tasks_blocked()
        assert trio.current_time() < 1.0
        assert [len(events(caplog, name)) for name in names] == [1] * len(names)
        await trio.sleep(1.1)
        await control.send(message)
        await wait_all_tasks_blocked()
    for name in names:
        logged = events(caplog, name)
        assert len(logged) == 2
        left_out = [r.__dict__.get("more", r.__dict__.get("more_before")) for r in logged]
        assert left_out == [0, 299]


async def test_a_repeated_ready_of_the_same_bot_hides_no_bad_message_from_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bridge(listener) as room:
        control = await room.control()
        await control.send({"type": "ready", "bot_id": BOT})
        await control.send("nonsense")
        await wait_all_tasks_blocked()
    (rejected,) = events(caplog, "message rejected")
    assert rejected.__dict__["more_before"] == 0


async def test_a_server_that_is_cancelled_has_stopped() -> None:
    door = Door()
    server = Server(listener, Settings())
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, [door])
        assert not server.stopped.is_set()
        nursery.cancel_scope.cancel()
    assert server.stopped.is_set()


async def test_a_server_whose_agent_is_hit_by_ctrl_c_has_stopped() -> None:
    rooms: list[Room] = []

    async def agent(_: Meeting) -> None:
        raise KeyboardInterrupt

    with pytest.raises(BaseExceptionGroup):  # noqa: PT012 - it is the room that fails
        async with bridge(agent) as room:
            rooms.append(room)
            await room.join("/bridge")
            await trio.sleep(1)
    assert rooms[0].server.stopped.is_set()
