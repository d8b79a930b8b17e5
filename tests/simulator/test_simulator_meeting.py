"""Whole meetings against a small server: on a virtual clock for times, on TCP for the rest."""

from __future__ import annotations

import errno
import socket
import ssl
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair
from trio_websocket import wrap_server_stream

from tests.simulator.small_server import RATE_HZ, SmallServer, tone, voice
from trio_bridge.simulator import (
    Reconnect,
    RecordingError,
    Report,
    Scenario,
    SimulatorError,
    SpeakerPart,
    UserMessage,
    events,
    simulate,
)
from trio_bridge.simulator.events import SimEvent
from trio_bridge.simulator.listening import Listener

URL = "ws://meeting.test"


@asynccontextmanager
async def small_server(**options: Any) -> AsyncIterator[SmallServer]:
    async with trio.open_nursery() as nursery:
        yield SmallServer(nursery, **options)
        nursery.cancel_scope.cancel()


async def run(server: SmallServer, **options: Any) -> tuple[Report, list[SimEvent]]:
    """A meeting over memory streams, with all that was told of it."""
    told: list[SimEvent] = []
    scenario = Scenario(url=URL, bot_id="bot-1", **options)
    with trio.fail_after(600):
        report = await simulate(scenario, on_event=told.append, open_stream=server.open_stream)
    return report, told


async def test_a_well_paced_answer_has_no_gaps_and_a_constant_lead(
    autojump_clock: MockClock,
) -> None:
    async with small_server(answer=tone(60.0)) as server:
        report, told = await run(server, messages=(UserMessage("hi", 1.0),))
    assert report.heard_s == pytest.approx(60.0)
    assert report.gaps.count == 0
    assert report.lead is not None
    assert report.lead.max_ms == pytest.approx(300, abs=1)
    assert report.lead.drift_ms == pytest.approx(0, abs=1)
    assert report.chats == ("you wrote hi",)
    assert [type(event) for event in told if not isinstance(event, events.Joined)] == [
        events.MessageSent,
        events.ChatPosted,
        events.AudioStarted,
        events.AudioStopped,
        events.Closed,
        events.Closed,
    ]
    assert [hello["bot_id"] for hello in server.hellos] == ["bot-1", "bot-1"]
    assert server.closes == [1000, 1000]
    assert server.paths == ["/bridge", "/bridge/audio"]


async def test_an_answer_that_stalls_is_one_gap_of_its_length(
    autojump_clock: MockClock,
) -> None:
    async with small_server(pause_after_s=1.0) as server:
        report, _ = await run(server, messages=(UserMessage("hi", 0.5),))
    assert report.gaps.count == 1
    # Half a second of pause, against the 0.2 s that are queued just before a chunk is sent.
    assert report.gaps.longest_ms == pytest.approx(300, abs=1)
    assert len(report.answers) == 1
    assert report.heard_s == pytest.approx(2.0)


@pytest.mark.parametrize("platform", ["zoom", "teams"])
async def test_where_nothing_is_cleared_the_tail_is_what_was_queued(
    platform: str, autojump_clock: MockClock
) -> None:
    async with small_server(answer=tone(20.0)) as server:
        report, told = await run(
            server,
            platform=platform,
            messages=(UserMessage("hi", 0.0),),
            interrupts_s=(2.0,),
        )
    (cut,) = report.interrupts
    assert 200 <= cut.tail_ms <= 301
    assert cut.tail_after_command_ms == pytest.approx(cut.tail_ms, abs=1)
    assert (cut.dropped_ms, report.cleared_s) == (0, 0)
    assert cut.answered_ms == pytest.approx(0, abs=1)
    assert report.answers[0].cut
    (stopped,) = [event for event in told if isinstance(event, events.AudioStopped)]
    assert stopped.cut
    assert stopped.at_s == pytest.approx(cut.at_s + cut.tail_ms / 1000, abs=1e-3)


async def test_meet_clears_its_queue_and_nothing_more_is_heard(
    autojump_clock: MockClock,
) -> None:
    async with small_server(answer=tone(20.0)) as server:
        report, told = await run(
            server, platform="meet", messages=(UserMessage("hi", 0.0),), interrupts_s=(2.0,)
        )
    (cut,) = report.interrupts
    assert cut.tail_ms == pytest.approx(0, abs=1)
    assert 200 <= cut.dropped_ms <= 301
    assert report.received_s == pytest.approx(report.heard_s + report.cleared_s)
    assert [event.left_s for event in told if isinstance(event, events.Cleared)] == [0]


async def test_a_server_that_ignores_an_interrupt_has_its_whole_answer_as_tail(
    autojump_clock: MockClock,
) -> None:
    async with small_server(answer=tone(10.0), deaf=True) as server:
        report, _ = await run(server, messages=(UserMessage("hi", 0.0),), interrupts_s=(2.0,))
    (cut,) = report.interrupts
    assert cut.answered_ms is None
    assert cut.tail_ms == pytest.approx(8000, abs=30)


async def test_delay_counts_from_the_end_of_speech_and_not_of_the_file(
    autojump_clock: MockClock,
) -> None:
    quiet = np.zeros(RATE_HZ, np.float32)
    part = SpeakerPart("Ann", "u1", np.concatenate([quiet, voice(1.0), quiet]), 1.0, "hello")
    async with small_server() as server:
        report, told = await run(server, speakers=(part,), messages=(UserMessage("hi", 3.5),))
    assert report.speakers[0].start_s == pytest.approx(2.0, abs=1e-3)
    assert report.speakers[0].end_s == pytest.approx(3.0, abs=1e-3)
    assert report.first_audio_ms == pytest.approx(520, abs=21)  # when its frame ends
    (spoke,) = [event for event in told if isinstance(event, events.Spoke)]
    assert (spoke.speaker_name, spoke.duration_s, spoke.text) == ("Ann", 3.0, "hello")


async def test_frames_leave_at_absolute_times(autojump_clock: MockClock) -> None:
    async with small_server() as server:
        report, _ = await run(server, duration_s=60.0)
        steps = np.diff(server.frame_times_s)
    assert report.frames_sent == len(server.frames) == 3000
    assert steps == pytest.approx(0.02)
    assert server.frame_times_s[-1] - server.frame_times_s[0] == pytest.approx(59.98)
    assert report.late_ms == 0


@pytest.mark.parametrize("how", ["clean", "abrupt", "overlap"])
@pytest.mark.parametrize("channel", ["control", "audio"])
async def test_a_lost_channel_comes_back_and_says_ready_again(
    channel: Any, how: Any, autojump_clock: MockClock
) -> None:
    async with small_server() as server:
        report, told = await run(
            server,
            reconnects=(Reconnect(channel, 1.0, how, pause_s=0.5),),
            messages=(UserMessage("still there?", 3.0),),
        )
    assert len(server.hellos) == 3
    assert report.chats == ("you wrote still there?",)
    assert report.heard_s == pytest.approx(2.0)
    lost = 25 if channel == "audio" and how != "overlap" else 0
    assert report.frames_lost == pytest.approx(lost, abs=2)
    assert len(report.closes) == 3
    assert {close.by for close in report.closes} == {"bot"}
    assert sum(isinstance(event, events.Joined) for event in told) == 3
    assert not report.faults


async def test_what_the_bot_plays_comes_back_under_its_name(autojump_clock: MockClock) -> None:
    async with small_server() as server:
        report, _ = await run(
            server,
            bot_name="Robin",
            own_voice_echo=True,
            messages=(UserMessage("hi", 0.0),),
        )
        own = [frame for frame in server.frames if frame.speaker_name == "Robin"]
    heard = np.frombuffer(b"".join(frame.pcm for frame in own), np.int16)
    said = tone(2.0)
    start = np.flatnonzero(heard)[0] - np.flatnonzero(said)[0]
    assert np.array_equal(heard[start : start + len(said)], said)
    assert report.heard_s == pytest.approx(2.0)


async def test_the_recording_holds_people_and_bot_at_their_places(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "heard.wav"
    async with small_server(answer=tone(1.0)) as server:
        report, _ = await run(
            server,
            speakers=(SpeakerPart("Ann", "u1", voice(1.0), 0.5),),
            messages=(UserMessage("hi", 3.0),),
            duration_s=6.0,
            save=path,
        )
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (48000, 1, 2)
        heard = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    assert len(heard) == 6 * RATE_HZ
    assert np.array_equal(heard[RATE_HZ // 2 : RATE_HZ * 3 // 2], tone(1.0))
    start = round(report.answers[0].start_s * RATE_HZ)
    assert np.array_equal(heard[start : start + RATE_HZ], tone(1.0))
    assert not heard[RATE_HZ * 3 // 2 : start].any()
    assert report.saved == str(path)


async def test_two_people_at_once_are_two_streams_or_one_mixed(
    autojump_clock: MockClock,
) -> None:
    people = (
        SpeakerPart("Ann", "u1", voice(1.0, 0.5), 0.0),
        SpeakerPart("Ben", "u2", voice(1.0, 0.1), 0.5),
    )
    async with small_server() as server:
        await run(server, speakers=people, layout="separate", duration_s=2.0)
        names = [frame.speaker_name for frame in server.frames]
        assert (names.count("Ann"), names.count("Ben")) == (100, 100)
        sound = b"".join(f.pcm for f in server.frames if f.speaker_id == "u2")
        ben = np.frombuffer(sound, np.int16)
        assert np.array_equal(ben[24_000:72_000], tone(1.0, 0.1))
        assert not ben[:24_000].any()

        server.frames.clear()
        await run(server, speakers=people, layout="mixed", duration_s=2.0)
        names = [frame.speaker_name for frame in server.frames]
        assert names == ["Ann"] * 50 + ["Ben"] * 25 + ["NoSpeaker"] * 25

        server.frames.clear()
        await run(server, speakers=people, silence_label="last", duration_s=2.0)
        assert [frame.speaker_name for frame in server.frames[75:]] == ["Ben"] * 25


async def test_faults_are_counted_by_reason_and_the_meeting_goes_on(
    autojump_clock: MockClock,
) -> None:
    greeting = (
        "{",
        "[]",
        '{"command": "dance", "bot_id": "BOT"}',
        '{"command": "ack", "bot_id": "BOT"}',
        '{"command": "sendmsg", "bot_id": "BOT", "message": "half"}',
        '{"command": "sendchat", "bot_id": "BOT", "role": "user", "text": "a",'
        ' "is_final": false}',
        '{"command": "sendchat", "bot_id": "BOT", "role": "user", "text": "ab",'
        ' "is_final": true}',
        '{"command": "sendimg_url", "bot_id": "BOT", "img_url": "https://x/y.png"}',
    )
    async with small_server(greeting=greeting) as server:
        report, told = await run(server, messages=(UserMessage("hi", 0.5),))
    assert report.faults == {
        "not JSON": 1,
        "JSON is not an object": 1,
        "sendmsg without msg": 1,
    }
    assert report.unknown_commands == {"dance": 1}
    assert (report.acks, report.images, report.partial_captions) == (1, 1, 1)
    assert report.captions == (("user", "ab"),)
    assert report.chats == ("half", "you wrote hi")
    assert sum(isinstance(event, events.FaultSeen) for event in told) == 3
    assert "dance" in report.to_text()


async def test_a_server_that_closes_first_ends_the_meeting(autojump_clock: MockClock) -> None:
    async with small_server(close_control=(1008, "no room")) as server:
        report, _ = await run(server, duration_s=60.0)
    assert report.duration_s < 1
    assert {(close.code, close.reason, close.by) for close in report.closes} == {
        (1008, "no room", "server")
    }


async def test_stopping_leaves_properly_and_reports(autojump_clock: MockClock) -> None:
    stop = trio.Event()
    reports = []
    async with small_server() as server:

        async def attend() -> None:
            scenario = Scenario(url=URL, messages=(UserMessage("hi", 1.0),))
            reports.append(await simulate(scenario, stop=stop, open_stream=server.open_stream))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(attend)
            await trio.sleep(2.0)
            stop.set()
    (report,) = reports
    assert report.duration_s == pytest.approx(2.0, abs=0.03)
    assert report.unplayed_s > 0
    assert server.closes == [1000, 1000]


async def test_a_server_that_never_answers_is_given_up(autojump_clock: MockClock) -> None:
    async def silent() -> trio.abc.Stream:
        ours, _ = memory_stream_pair()
        return ours

    with pytest.raises(SimulatorError, match=r"did not answer within 10 s"):
        await simulate(Scenario(url=URL), open_stream=silent)
    assert trio.current_time() == 10.0


@pytest.mark.parametrize("form", ["binary", "headed", "legacy"])
async def test_every_form_arrives_over_tcp_as_it_was_spoken(form: Any) -> None:
    part = SpeakerPart("Ann", "u1", voice(1.0), 0.0)
    with trio.fail_after(20):
        async with small_server() as server:
            url = await server.listen()
            report = await simulate(
                Scenario(url=url, speakers=(part,), form=form, speed=0, duration_s=2.0)
            )
            heard = np.frombuffer(b"".join(f.pcm for f in server.frames), np.int16)
    assert np.array_equal(heard[:RATE_HZ], tone(1.0))
    assert {f.speaker_id for f in server.frames} <= {"u1", "NoSpeaker", ""}
    assert report.frames_sent == 100
    assert report.late_ms < 1000


@pytest.mark.parametrize("platform", ["meet", "zoom"])
async def test_an_interrupt_over_tcp_is_answered_and_measured(platform: Any) -> None:
    with trio.fail_after(20):
        async with small_server(answer=tone(20.0)) as server:
            url = await server.listen()
            scenario = Scenario(
                url=url,
                platform=platform,
                messages=(UserMessage("hi", 0.0),),
                interrupts_s=(0.6,),
                duration_s=1.4,
            )
            report = await simulate(scenario)
    (cut,) = report.interrupts
    assert cut.answered_ms is not None
    assert (cut.dropped_ms > 0) == (platform == "meet")
    assert (cut.tail_ms > 100) == (platform == "zoom")


async def test_abrupt_loss_over_tcp_is_a_reset() -> None:
    with trio.fail_after(20):
        async with small_server() as server:
            url = await server.listen()
            scenario = Scenario(
                url=url,
                reconnects=(Reconnect("audio", 0.1, "abrupt", pause_s=0.1),),
                duration_s=0.6,
                order="together",
            )
            report = await simulate(scenario)
    assert len(server.hellos) == 3
    assert sorted(server.closes) == [1000, 1000, 1006]
    assert not report.faults


async def test_prefix_query_and_headers_reach_the_server() -> None:
    with trio.fail_after(20):
        async with small_server() as server:
            url = await server.listen()
            scenario = Scenario(
                url=f"{url}/t/secret/?token=x",
                bot_id="a b",
                prefix_bot_id=True,
                headers=(("Authorization", "Bearer secret"),),
                duration_s=0.0,
                order="audio",
            )
            report = await simulate(scenario)
    assert server.paths == [
        "/a%20b/t/secret/bridge/audio?token=x",
        "/a%20b/t/secret/bridge?token=x",
    ]
    assert server.headers[0][b"authorization"] == b"Bearer secret"
    assert "secret" not in str(report.to_json()) + report.to_text() + repr(scenario)


async def test_a_refused_upgrade_and_a_closed_port_are_one_line() -> None:
    with trio.fail_after(20):
        async with small_server() as server:
            url = await server.listen()
            with pytest.raises(
                SimulatorError, match=r"HTTP 401: the server wants a token: .*/t/"
            ):
                await simulate(Scenario(url=f"{url}/refuse"))
        with pytest.raises(SimulatorError) as caught:
            await simulate(Scenario(url=url))
    assert str(caught.value) == (
        f"cannot reach {url}: connection refused: is the server running there?"
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "is the host's name right?"),
        (ssl.SSLError(1, "wrong version number"), "is it ws:// and not wss://?"),
        (UnicodeError("label too long"), "that is no host name"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "connection reset by peer: is the"),
    ],
)
async def test_why_there_is_no_connection_is_said_in_words(
    error: Exception, words: str
) -> None:
    async def connect() -> trio.abc.Stream:
        raise error

    with pytest.raises(SimulatorError) as caught:
        await simulate(Scenario(url=URL), open_stream=connect)
    assert words in str(caught.value)
    assert "Errno" not in str(caught.value)


async def test_a_recording_that_cannot_be_written_is_found_out_before_the_meeting(
    tmp_path: Path,
) -> None:
    async def connect() -> trio.abc.Stream:
        raise AssertionError("not reached")

    with pytest.raises(SimulatorError, match="cannot write"):
        await simulate(Scenario(url=URL, save=tmp_path / "none" / "a"), open_stream=connect)


async def test_a_recording_that_fails_at_the_end_does_not_cost_the_report(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    directory = tmp_path / "gone"
    directory.mkdir()
    async with small_server() as server:

        async def connect() -> trio.abc.Stream:
            if directory.exists():
                directory.rmdir()
            return await server.open_stream()

        scenario = Scenario(url=URL, duration_s=1.0, save=directory / "a.wav")
        with pytest.raises(RecordingError, match="cannot write") as caught:
            await simulate(scenario, open_stream=connect)
    assert caught.value.report.frames_sent == 50
    assert caught.value.report.saved is None


async def test_the_time_is_0_until_both_channels_are_open(autojump_clock: MockClock) -> None:
    async with small_server(greeting=('{"command": "dance", "bot_id": "BOT"}',)) as server:
        _, told = await run(server, order_gap_s=3.0, duration_s=1.0)
    times_s = [event.at_s for event in told]
    assert times_s[:2] == [0.0, 0.0]
    assert times_s == sorted(times_s)


async def deaf_after_hello(stream: trio.abc.Stream) -> None:
    """Takes the upgrade and ``ready`` and then reads no more."""
    async with trio.open_nursery() as nursery:
        request = await wrap_server_stream(nursery, cast(trio.SocketStream, stream))
        socket = await request.accept()
        await socket.get_message()
        nursery.cancel_scope.cancel()
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("make_pair", "fault"),
    [
        # Without a buffer, as a TCP connection whose buffers are full; and with one.
        (lockstep_stream_pair, "the server stopped reading"),
        (memory_stream_pair, "the server did not answer our Close"),
    ],
)
async def test_a_server_that_reads_no_more_is_a_fault_after_five_seconds(
    make_pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]],
    fault: str,
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:

        async def connect() -> trio.abc.Stream:
            ours, theirs = make_pair()
            nursery.start_soon(deaf_after_hello, ours)
            return theirs

        with trio.fail_after(60):
            report = await simulate(Scenario(url=URL, duration_s=2.0), open_stream=connect)
        nursery.cancel_scope.cancel()
    assert report.faults[fault] >= 1
    assert trio.current_time() < 20


async def test_an_interrupt_that_cannot_be_sent_is_a_fault(autojump_clock: MockClock) -> None:
    async with small_server() as server:
        report, _ = await run(
            server,
            reconnects=(Reconnect("control", 1.0, "clean", pause_s=3.0),),
            interrupts_s=(2.0,),
            messages=(UserMessage("hi", 2.0),),
        )
    assert report.faults == {
        "an interrupt could not be sent": 1,
        "a usermsg could not be sent": 1,
    }
    assert not report.interrupts


@pytest.mark.parametrize("answer", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_something_else_than_a_websocket_server_is_one_line(
    answer: bytes, autojump_clock: MockClock
) -> None:
    async def connect() -> trio.abc.Stream:
        ours, theirs = memory_stream_pair()
        await theirs.send_all(answer)
        await theirs.send_eof()
        return ours

    with pytest.raises(SimulatorError, match=r"ws://meeting.test (refused|is no|did not)"):
        await simulate(Scenario(url=URL), open_stream=connect)


async def test_garbage_in_the_middle_ends_the_channel_and_is_reported(
    autojump_clock: MockClock,
) -> None:
    async with small_server() as server:

        async def connect() -> trio.abc.Stream:
            ours, theirs = memory_stream_pair()
            server.nursery.start_soon(server.serve, theirs)
            server.nursery.start_soon(spoil, theirs)
            return ours

        async def spoil(stream: trio.abc.Stream) -> None:
            await trio.sleep(1.0)
            await stream.send_all(b"\xff\xff\xff\xff")

        report = await simulate(Scenario(url=URL, duration_s=20.0), open_stream=connect)
    assert report.duration_s < 2
    assert {close.channel for close in report.closes} == {"control", "audio"}
    assert 1000 not in {close.code for close in report.closes}


async def test_reconnecting_to_a_server_that_is_gone_is_a_fault(
    autojump_clock: MockClock,
) -> None:
    async with small_server() as server:
        left = [server.open_stream, server.open_stream]

        async def connect() -> trio.abc.Stream:
            if not left:
                raise OSError("gone")
            return await left.pop()()

        scenario = Scenario(url=URL, reconnects=(Reconnect("audio", 1.0),), duration_s=3.0)
        report = await simulate(scenario, open_stream=connect)
    assert report.duration_s == pytest.approx(3.0, abs=0.03)
    assert report.frames_lost == pytest.approx(100, abs=3)
    (fault,) = report.faults
    assert fault.startswith("could not reconnect audio: cannot reach ws://meeting.test: gone")


async def test_what_comes_on_the_audio_channel_is_counted() -> None:
    told: list[SimEvent] = []
    ears = Listener(Scenario(url=URL), told.append)
    for message in ('{"type": "ack"}', '{"type": "hum"}', "x"):
        ears.on_audio(message)
    report = ears.report()
    assert (report.acks, report.unknown_commands) == (1, {"hum": 1})
    assert report.faults == {"not JSON on the audio channel": 1}
    assert [type(event) for event in told] == [events.FaultSeen]
