"""What an agent is promised: turns, interrupts, and speech that a bot plays without a gap."""

from __future__ import annotations

import base64
from functools import partial
from typing import Literal

import numpy as np
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.core.rooms import RATE_HZ, Room, bridge, listener, quiet, tone
from trio_bridge.audio.pcm import Samples, from_pcm16
from trio_bridge.audio.resample import DELAY_MS
from trio_bridge.audio.speakers import LONGEST_TEXT
from trio_bridge.ears import Ear
from trio_bridge.ledger import Ledger
from trio_bridge.meeting import (
    AudioChunk,
    Event,
    Interrupt,
    Meeting,
    Turn,
    UserMessage,
    Utterance,
)
from trio_bridge.simulator import Report, Scenario, SpeakerPart, simulate

pytestmark = pytest.mark.usefixtures("autojump_clock")

CHUNK_MS, LEAD_MS = 100, 300
Platform = Literal["meet", "zoom", "teams"]


async def attend(room: Room, scenario: Scenario) -> tuple[Report, Ledger]:
    """Let a simulated bot play ``scenario``; what it saw and what the bridge counted."""
    ledgers: list[Ledger] = []

    def look(_: object) -> None:
        for session in room.server.registry:
            ledgers.append(session.ledger)

    report = await simulate(scenario, on_event=look, open_stream=room.door.open_stream)
    return report, ledgers[-1]


def scenario(**fields: object) -> Scenario:
    return Scenario(url="ws://bridge:80", **fields)  # type: ignore[arg-type]


# -- the meeting as the agent hears it -----------------------------------------------------


async def test_60_s_of_two_alternating_speakers_arrive_whole_and_under_the_right_names() -> (
    None
):
    mixed: list[AudioChunk] = []
    alone: list[AudioChunk] = []
    final: list[Ledger] = []

    async def agent(meeting: Meeting) -> None:
        async def mix() -> None:
            async for chunk in meeting.audio(rate_hz=16_000, chunk_ms=20):
                mixed.append(chunk)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(mix)
            async for chunk in meeting.audio(rate_hz=48_000, chunk_ms=20, by="speaker"):
                alone.append(chunk)
        final.append(room.session.ledger)

    async with bridge(agent) as room:
        audio, control = await room.audio(), await room.control()
        for n in range(12):
            who = ("alice", "bruno")[n % 2]
            await audio.hear(who, tone(5.0, level=0.25 if who == "alice" else 0.5))
        await wait_all_tasks_blocked()
        ledger = room.session.ledger
        assert ledger.faults == []
        assert ledger.received == ledger.mixed == 60 * RATE_HZ
        assert ledger.delivered == ledger.offered == 2 * 60 * RATE_HZ
        await control.leave()
        await audio.leave()
        await room.server.registry.empty()

    assert sum(len(chunk.samples) for chunk in mixed) == 60 * 16_000
    for name, level in (("alice", 0.25), ("bruno", 0.5)):
        own = np.concatenate([c.samples for c in alone if c.speaker and c.speaker.id == name])
        said = own[own != 0]
        assert len(own) == 30 * RATE_HZ
        assert np.abs(said).max() == pytest.approx(level, abs=1e-3)
        periods = np.abs(own).reshape(-1, 960).max(axis=1)
        assert periods.min() == pytest.approx(level, abs=1e-2)  # nobody else's in between


@pytest.mark.parametrize("frame_ms", [20, 100])
async def test_60_s_of_two_overlapping_speakers_have_the_length_of_the_meeting(
    frame_ms: int,
) -> None:
    mixed: list[AudioChunk] = []
    alone: dict[str, list[Samples]] = {"alice": [], "bruno": []}

    async def agent(meeting: Meeting) -> None:
        async def mix() -> None:
            async for chunk in meeting.audio(rate_hz=16_000, chunk_ms=20):
                mixed.append(chunk)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(mix)
            async for chunk in meeting.audio(rate_hz=48_000, by="speaker"):
                assert chunk.speaker is not None
                alone[chunk.speaker.id].append(chunk.samples)

    async with bridge(agent) as room:
        audio, control = await room.audio(), await room.control()
        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            for who, level in (("alice", 0.25), ("bruno", 0.5)):
                sound = np.full(60 * RATE_HZ, level, np.float32)
                nursery.start_soon(partial(audio.hear, who, sound, frame_ms=frame_ms))
        lasted_s = trio.current_time() - began_s + frame_ms / 1000
        await wait_all_tasks_blocked()
        heard_s = sum(chunk.duration_s for chunk in mixed)
        ledger = room.session.ledger
        assert ledger.faults == []
        assert ledger.received == 2 * 60 * RATE_HZ
        # A chunk of 20 ms, what the resampler holds back, and the frame a mix waits for.
        slack_s = 0.02 + DELAY_MS["HQ"][1] / 1000 + frame_ms / 1000
        assert heard_s == pytest.approx(lasted_s, abs=slack_s)
        await control.leave()
        await audio.leave()
        await room.server.registry.empty()
    total_s = sum(chunk.duration_s for chunk in mixed)
    assert total_s == pytest.approx(60.0, abs=frame_ms / 1000 + 1e-9)
    for name, level in (("alice", 0.25), ("bruno", 0.5)):
        own = np.concatenate(alone[name])
        assert len(own) == 60 * RATE_HZ
        assert np.all(np.abs(own - level) < 1e-4)


# -- speech --------------------------------------------------------------------------------


async def speech_after_one_second(meeting: Meeting, seconds: float) -> Turn:
    await trio.sleep(1)
    async with meeting.turn() as turn:
        await turn.say(tone(seconds)[::2], rate_hz=24_000)
    return turn


@pytest.mark.parametrize("platform", ["meet", "zoom", "teams"])
async def test_60_s_of_speech_never_run_dry_and_the_lead_does_not_drift(
    platform: Platform,
) -> None:
    async def agent(meeting: Meeting) -> None:
        await speech_after_one_second(meeting, 60.0)
        await listener(meeting)

    async with bridge(agent) as room:
        report, ledger = await attend(room, scenario(duration_s=65.0, platform=platform))
    assert report.gaps.count == 0
    assert report.heard_s == pytest.approx(60.0, abs=0.001)
    assert report.lead is not None
    assert report.lead.drift_ms is not None
    assert report.lead.drift_ms <= CHUNK_MS
    assert LEAD_MS - CHUNK_MS <= report.lead.max_ms <= LEAD_MS + 1
    assert ledger.faults == []


@pytest.mark.parametrize("platform", ["meet", "zoom", "teams"])
async def test_an_interrupt_2_s_into_20_s_leaves_lead_and_one_chunk_at_most(
    platform: Platform,
) -> None:
    turns: list[Turn] = []

    async def agent(meeting: Meeting) -> None:
        turns.append(await speech_after_one_second(meeting, 20.0))
        await listener(meeting)

    async with bridge(agent) as room:
        report, ledger = await attend(
            room, scenario(duration_s=25.0, interrupts_s=(3.0,), platform=platform)
        )
    (interrupt,) = report.interrupts
    bound_ms = 20 if platform == "meet" else LEAD_MS + CHUNK_MS
    assert interrupt.tail_ms <= bound_ms
    assert interrupt.answered_ms is not None
    assert interrupt.answered_ms < 5
    (turn,) = turns
    assert turn.interrupted
    assert turn.heard_s == pytest.approx(2.0, abs=0.15)
    assert turn.heard_s <= report.heard_s + 0.001 <= turn.heard_s + turn.heard_error_s + 0.05
    assert ledger.faults == []
    assert ledger.speech_flushed > 0


async def test_a_person_who_speaks_up_interrupts_and_a_cough_does_not() -> None:
    told: list[Interrupt] = []
    turns: list[Turn] = []

    async def agent(meeting: Meeting) -> None:
        async def listen() -> None:
            async for event in meeting.events():
                if isinstance(event, Interrupt):
                    told.append(event)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            turns.append(await speech_after_one_second(meeting, 20.0))

    async with bridge(agent, barge_in_ms=300) as room:
        parts = (
            SpeakerPart("Alice", "a", tone(0.1), 3.0),
            SpeakerPart("Alice", "a", tone(1.0), 5.0),
        )
        report, _ = await attend(
            room, scenario(duration_s=10.0, speakers=parts, platform="zoom")
        )
    (interrupt,) = told
    assert interrupt.source == "barge-in"
    assert turns[0].heard_s == pytest.approx(4.3, abs=0.15)
    assert report.heard_s <= 4.3 + (LEAD_MS + CHUNK_MS) / 1000


async def test_barge_in_can_be_off_and_nobody_in_particular_never_barges_in() -> None:
    turns: list[Turn] = []

    async def agent(meeting: Meeting) -> None:
        turns.append(await speech_after_one_second(meeting, 3.0))
        await listener(meeting)

    loud = (SpeakerPart("Alice", "a", tone(2.0), 1.5),)
    async with bridge(agent, barge_in_ms=0) as room:
        await attend(room, scenario(duration_s=6.0, speakers=loud))
    noise = (SpeakerPart("NoSpeaker", "", tone(2.0), 1.5),)
    async with bridge(agent) as room:
        await attend(room, scenario(duration_s=6.0, speakers=noise))
    assert [turn.interrupted for turn in turns] == [False, False]


async def test_new_speech_after_an_interrupt_plays_without_a_gap_and_within_the_lead() -> None:
    async def agent(meeting: Meeting) -> None:
        await speech_after_one_second(meeting, 20.0)
        async with meeting.turn() as turn:
            await turn.say(tone(5.0), rate_hz=RATE_HZ)

    for platform in ("meet", "zoom"):
        async with bridge(agent) as room:
            report, _ = await attend(
                room,
                scenario(duration_s=12.0, interrupts_s=(3.0,), platform=platform),
            )
        assert report.gaps.count == 0
        assert report.lead is not None
        assert report.lead.max_ms <= LEAD_MS + 1


async def test_a_tone_that_the_agent_says_back_keeps_its_frequency() -> None:
    async def agent(meeting: Meeting) -> None:
        async with meeting.turn() as turn:
            async for chunk in meeting.audio(rate_hz=16_000, chunk_ms=20):
                await turn.say(chunk.samples, rate_hz=16_000)

    async with bridge(agent, barge_in_ms=0) as room:
        control, audio = await room.control(), await room.audio()
        heard: list[Samples] = []

        async def collect() -> None:
            while True:
                command = await control.next("sendaudio")
                heard.append(from_pcm16(base64.b64decode(command["audiochunk"])))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect)
            await audio.hear("alice", tone(5.0, tone_hz=1_000.0))
            nursery.cancel_scope.cancel()
    said = np.concatenate(heard)[4_800 : 4_800 + 4 * RATE_HZ]
    spectrum = np.abs(np.fft.rfft(said * np.hanning(len(said)))) ** 2
    peak = int(np.argmax(spectrum))
    assert peak / 4 == pytest.approx(1_000.0, abs=0.26)
    noise = spectrum.sum() - spectrum[peak - 8 : peak + 9].sum()
    assert 10 * np.log10(spectrum.sum() / noise) > 80


async def test_turns_take_turns_and_one_task_cannot_hold_two() -> None:
    order: list[str] = []

    async def agent(meeting: Meeting) -> None:
        async def speak(name: str) -> None:
            async with meeting.turn() as turn:
                order.append(f"{name} begins")
                await turn.say(tone(1.0), rate_hz=RATE_HZ)
            order.append(f"{name} ends")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(speak, "first")
            await wait_all_tasks_blocked()
            nursery.start_soon(speak, "second")
        async with meeting.turn():
            with pytest.raises(RuntimeError):
                async with meeting.turn():
                    pass
        order.append("done")

    async with bridge(agent) as room:
        await attend(room, scenario(duration_s=5.0))
    assert order == ["first begins", "first ends", "second begins", "second ends", "done"]


async def test_leaving_a_turn_waits_until_it_was_played_and_knows_what_was_heard() -> None:
    figures: list[float] = []

    async def agent(meeting: Meeting) -> None:
        began_s = trio.current_time()
        async with meeting.turn() as turn:
            await turn.say(tone(0.25)[:12_000], rate_hz=RATE_HZ)
            await turn.say(tone(0.75)[::3], rate_hz=16_000)
            figures.append(turn.heard_s)
            assert meeting.speaking
        figures.extend([turn.said_s, turn.heard_s, turn.heard_error_s, meeting.heard_s])
        figures.append(trio.current_time() - began_s)
        assert not meeting.speaking
        assert not turn.interrupted

    async with bridge(agent) as room:
        await attend(room, scenario(duration_s=3.0))
    at_first, said_s, heard_s, error_s, all_heard_s, took_s = figures
    assert at_first < 0.1
    assert (said_s, heard_s, error_s, all_heard_s) == (1.0, 1.0, 0.0, 1.0)
    assert took_s == pytest.approx(1.0, abs=0.01)


async def test_an_agent_that_shields_itself_says_nothing_more_after_an_interrupt() -> None:
    async def agent(meeting: Meeting) -> None:
        async with meeting.turn() as turn:
            await turn.say(tone(1.0), rate_hz=RATE_HZ)
            meeting.interrupt()
            with trio.CancelScope(shield=True):
                await turn.say(tone(5.0), rate_hz=RATE_HZ)
        assert turn.interrupted
        assert turn.heard_s < 0.5

    async with bridge(agent) as room:
        report, ledger = await attend(room, scenario(duration_s=5.0))
    assert report.heard_s < 0.5
    assert ledger.said == RATE_HZ


async def test_an_interrupt_before_anything_was_said_cancels_the_thinking() -> None:
    interrupted: list[bool] = []

    async def agent(meeting: Meeting) -> None:
        async with meeting.turn() as turn:
            await trio.sleep(100)
        interrupted.append(turn.interrupted)
        await listener(meeting)

    async with bridge(agent) as room:
        control = await room.control()
        await control.send({"command": "interrupt"})
        assert (await control.next("interrupt"))["action"] == "clear_audio_queue"
        await wait_all_tasks_blocked()
    assert interrupted == [True]


async def test_speech_goes_on_after_a_lost_control_channel_comes_back() -> None:
    async def agent(meeting: Meeting) -> None:
        await speech_after_one_second(meeting, 6.0)
        await listener(meeting)

    async with bridge(agent) as room:
        await room.audio()
        control = await room.control()
        heard = 0
        with trio.move_on_after(3.0):
            while True:
                chunk = await control.next("sendaudio")
                heard += len(base64.b64decode(chunk["audiochunk"])) // 2
        await control.vanish()
        await trio.sleep(5)
        control = await room.control()
        with trio.move_on_after(10.0):
            while True:
                chunk = await control.next("sendaudio")
                heard += len(base64.b64decode(chunk["audiochunk"])) // 2
        # What was in flight when the socket died may be lost; nothing else is.
        assert 6 * RATE_HZ - heard <= 2 * 4_800
        assert room.session.ledger.faults == []


async def test_pictures_captions_and_chat_reach_the_bot_and_a_wrong_picture_is_refused() -> (
    None
):
    async def agent(meeting: Meeting) -> None:
        await meeting.caption("so", final=False)
        await meeting.caption("so far", role="user")
        await meeting.show_image(b"\xff\xd8\xff\xe0")
        await meeting.show_image_url("https://example.com/a.png")
        with pytest.raises(ValueError, match="JPEG or PNG"):
            await meeting.show_image(b"GIF89a")
        with pytest.raises(ValueError, match="scale it down"):
            await meeting.show_image(b"\xff\xd8\xff" + bytes(600_000))
        with pytest.raises(ValueError, match="chunk_ms 2001"):
            meeting.audio(chunk_ms=2_001)
        with pytest.raises(ValueError, match="rate_hz 7: expected 4000 to 192000"):
            meeting.audio(rate_hz=7)
        meeting.log("checked", value=1)
        await meeting.chat("all done")
        await listener(meeting)

    async with bridge(agent) as room:
        control = await room.control()
        names = []
        while (command := await control.command())["command"] != "sendmsg":
            names.append(command["command"])
        assert command["msg"] == "all done"
        assert names == ["sendchat", "sendchat", "sendimg", "sendimg_url"]
        assert room.session.meeting.now_s == 0.0


async def test_the_first_ear_also_hears_what_came_just_before_it() -> None:
    heard: list[AudioChunk] = []

    async def agent(meeting: Meeting) -> None:
        await trio.sleep(1.0)
        async for chunk in meeting.audio(rate_hz=RATE_HZ):
            heard.append(chunk)

    async with bridge(agent, audio_backlog_ms=400) as room:
        audio = await room.audio()
        await audio.hear("alice", tone(2.0))
        await wait_all_tasks_blocked()
        assert room.session.ledger.faults == []
    assert heard[0].start_s == pytest.approx(0.6, abs=0.05)
    assert sum(chunk.duration_s for chunk in heard) == pytest.approx(1.4, abs=0.05)


@pytest.mark.parametrize("chunk_ms", [0, 20])
async def test_an_ear_that_is_opened_while_another_listens_hears_all_that_follows(
    chunk_ms: int,
) -> None:
    """Opened between two frames, in the step in which the first one's agent was woken."""
    heard = {"first": 0, "second": 0}

    async def listen(ear: Ear[AudioChunk]) -> None:
        async for chunk in ear:
            heard["second"] += len(chunk.samples)

    async def agent(meeting: Meeting) -> None:
        async with trio.open_nursery() as nursery:
            async for event in meeting.events(chunk_ms=chunk_ms):
                if isinstance(event, UserMessage):
                    nursery.start_soon(listen, meeting.audio(chunk_ms=chunk_ms))
                    heard["first"] = 0
                elif isinstance(event, AudioChunk):
                    heard["first"] += len(event.samples)

    async with bridge(agent) as room:
        control, audio = await room.control(), await room.audio()
        await audio.hear("Alice", tone(1.0))
        await control.send({"command": "usermsg", "message": "listen twice"})
        await trio.sleep(0.01)
        await audio.hear("Alice", tone(3.0))
        await trio.sleep(0.2)
        books = room.session.inflow.ledger
    assert heard["second"] >= 2.9 * 16_000
    assert abs(heard["first"] - heard["second"]) <= 0.1 * 16_000
    assert not books.faults


async def test_an_ear_that_is_let_go_is_closed_and_an_ear_opened_too_late_is_empty() -> None:
    late: list[object] = []

    async def agent(meeting: Meeting) -> None:
        async for _ in meeting.audio():
            break
        assert room.session.inflow.audience._ears == []
        ear = meeting.events(chunk_ms=20)
        assert ear.dropped_samples == 0
        async for event in ear:
            late.append(event)
        late.extend([event async for event in meeting.events()])

    async with bridge(agent) as room:
        audio, control = await room.audio(), await room.control()
        await audio.hear("alice", tone(1.0))
        await audio.hear("alice", quiet(1.0))
        await control.leave()
        await audio.leave()
        await room.server.registry.empty()
    assert isinstance(late[-1], AudioChunk | Utterance)


# -- what a review found ---------------------------------------------------------------------


async def test_a_buffer_that_the_agent_uses_again_was_spoken_as_it_was() -> None:
    async def agent(meeting: Meeting) -> None:
        for rate_hz in (RATE_HZ, 24_000):
            block = np.full(rate_hz // 5, 0.5, np.float32)
            async with meeting.turn() as turn:
                await turn.say(block, rate_hz=rate_hz)
                block[:] = 0.0
                await turn.say(block, rate_hz=rate_hz)
        await meeting.chat("done")

    heard: list[Samples] = []
    async with bridge(agent, barge_in_ms=0) as room:
        control = await room.control()
        while (command := await control.command())["command"] != "sendmsg":
            if command["command"] == "sendaudio":
                heard.append(from_pcm16(base64.b64decode(command["audiochunk"])))
    said = np.concatenate(heard)
    length = RATE_HZ // 5
    assert len(said) == 4 * length
    assert np.all(np.abs(said[:length] - 0.5) < 1e-3)
    assert not said[length : 2 * length].any()
    middle = said[2 * length + 500 : 3 * length - 500]
    assert np.all(np.abs(middle - 0.5) < 1e-2)


async def test_what_was_written_before_the_agent_listened_is_told_to_its_first_ear_only() -> (
    None
):
    told: list[list[object]] = [[], []]

    async def agent(meeting: Meeting) -> None:
        await trio.sleep(1)  # it connects to its model
        first, second = meeting.events(), meeting.events()

        async def listen(number: int) -> None:
            async for event in (first, second)[number]:
                told[number].append(event)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, 0)
            nursery.start_soon(listen, 1)

    async with bridge(agent) as room:
        control = await room.control()
        for text in ("hello?", "anybody?"):
            await control.send({"command": "usermsg", "message": text})
        await trio.sleep(3)
        await control.send({"command": "usermsg", "message": "ah"})
        await wait_all_tasks_blocked()
    late = UserMessage("ah")
    assert told == [[UserMessage("hello?"), UserMessage("anybody?"), late], [late]]


@pytest.mark.parametrize("field", ["message", "speakerName", "speakerId"])
@pytest.mark.parametrize("early", [True, False], ids=["before any ear", "slow ear"])
async def test_what_waits_for_a_slow_agent_is_bounded_in_characters(
    field: str, early: bool
) -> None:
    ears: list[Ear[Event]] = []

    async def agent(meeting: Meeting) -> None:
        if not early:
            ears.append(meeting.events())
        await trio.sleep_forever()

    async with bridge(agent) as room:
        control = await room.control()
        for _ in range(100):
            fields = {"command": "usermsg", "message": "x", "speakerId": "7"}
            await control.send(fields | {field: "y" * 20_000})
            await trio.sleep(1)
        audience = room.session.inflow.audience
        notes = audience._early_notes if early else audience._ears[0].notes
        waiting = 0
        while (note := notes.take_nowait()) is not None:
            assert isinstance(note, UserMessage)
            assert note.speaker is not None
            waiting += len(note.text) + len(note.speaker.id) + len(note.speaker.name)
        if field == "message":
            assert 0.9 * 2**20 < waiting <= 2**20
        else:  # who says it is cut where it is read
            assert waiting == 100 * (1 + LONGEST_TEXT + (field == "speakerName"))
        ears.clear()


async def test_a_few_hundred_interrupts_push_no_user_message_out() -> None:
    got: list[object] = []

    async def agent(meeting: Meeting) -> None:
        ear = meeting.events()
        await trio.sleep(60)
        async for event in ear:
            got.append(event)

    async with bridge(agent) as room:
        control = await room.control()
        room.nursery.start_soon(control.closed)
        await control.send({"command": "usermsg", "message": "before all the noise"})
        for _ in range(900):
            await control.send({"command": "interrupt"})
        await trio.sleep(61)
    assert got[0] == UserMessage("before all the noise")
    assert len(got) == 901


async def test_speaking_after_the_turn_is_told_so_and_an_interrupted_turn_is_only_silent() -> (
    None
):
    spoken: list[bool] = []

    async def agent(meeting: Meeting) -> None:
        async with meeting.turn() as turn:
            await turn.say(tone(0.1), rate_hz=RATE_HZ)
        with pytest.raises(RuntimeError, match="the turn is over"):
            await turn.say(tone(1.0), rate_hz=RATE_HZ)
        spoken.append(meeting.speaking)
        assert turn.said_s == turn.heard_s == 0.1
        async with meeting.turn() as cut:
            await cut.say(tone(0.1), rate_hz=RATE_HZ)
            meeting.interrupt()
            await trio.sleep_forever()
        await cut.say(tone(1.0), rate_hz=RATE_HZ)
        spoken.append(meeting.speaking)
        await listener(meeting)

    async with bridge(agent) as room:
        await attend(room, scenario(duration_s=3.0))
    assert spoken == [False, False]
