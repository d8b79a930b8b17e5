"""The agent `local`, in a real meeting on a virtual clock, with made-up ears and voice."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.agents.room import ALICE, BRUNO, Room, open_room, tone
from trio_bridge.agents.local.agent import converse
from trio_bridge.agents.local.errors import AgentError
from trio_bridge.agents.local.skills import HELP, Heard, split_sentences
from trio_bridge.agents.local.speech import Speech
from trio_bridge.audio.pcm import Samples
from trio_bridge.meeting import Meeting

NOON = datetime(2026, 1, 2, 12, 5)
TIME = "It is 12:05 PM."


@attrs.define(eq=False)
class Senses:
    """Ears that hear what was prepared, and a voice of one second a sentence."""

    words: list[str | Heard | AgentError] = attrs.field(factory=list)
    spoken: list[str] = attrs.field(factory=list)
    mute: bool = False
    hearing_s: float = 0.2

    async def hear(self, samples: Samples) -> Heard:
        await trio.sleep(self.hearing_s)
        heard = self.words.pop(0)
        if isinstance(heard, AgentError):
            raise heard
        return Heard(heard, "", 0.0) if isinstance(heard, str) else heard

    async def speak(self, sentence: str) -> Speech:
        await trio.sleep(0.02)
        if self.mute:
            raise AgentError("no voice today")
        self.spoken.append(sentence)
        return Speech(tone(1.0, 22_050), 22_050)

    @property
    def agent(self) -> Callable[[Meeting], Coroutine[Any, Any, None]]:
        async def agent(meeting: Meeting) -> None:
            await converse(meeting, self, self, now=lambda: NOON)

        return agent


async def says(room: Room, senses: Senses, who: Any, text: str, wait_s: float = 5.0) -> None:
    senses.words.append(text)
    room.says(who, tone(2.0))
    await trio.sleep(wait_s)


async def test_a_question_is_answered_aloud_in_the_chat_and_in_the_transcript(
    autojump_clock: MockClock,
) -> None:
    senses = Senses()
    async with open_room(senses.agent) as room:
        await says(room, senses, ALICE, "what time is it")
    assert room.chats == [TIME]
    assert room.captions == [
        ("user", "Alice: what time is it", True),
        ("assistant", TIME, True),
    ]
    assert abs(room.played_s - 1.0) < 0.01


async def test_ordinary_talk_becomes_a_transcript_and_no_answer(
    autojump_clock: MockClock,
) -> None:
    senses = Senses()
    async with open_room(senses.agent) as room:
        await says(room, senses, ALICE, "we have plenty of time")
        await says(room, senses, None, "who said that")
        await says(room, senses, BRUNO, "")
    assert room.chats == []
    assert [text for _, text, _ in room.captions] == [
        "Alice: we have plenty of time",
        "somebody: who said that",
    ]
    assert room.played_s == 0.0


async def test_a_command_that_the_grammar_heard_is_shown_as_such(
    autojump_clock: MockClock,
) -> None:
    senses = Senses([Heard("why was said so flyer", "what was said so far", 31.7)])
    async with open_room(senses.agent) as room:
        room.says(BRUNO, tone(1.0))
        await trio.sleep(5)
    assert room.captions[0] == ("user", "Bruno: what was said so far", True)
    assert room.chats == ["Nothing was said so far."]


async def test_it_remembers_who_spoke_what_was_said_and_its_last_answer(
    autojump_clock: MockClock,
) -> None:
    senses = Senses()
    async with open_room(senses.agent) as room:
        await says(room, senses, ALICE, "we ship on friday")
        await says(room, senses, BRUNO, "who has spoken and for how long", 8)
        await says(room, senses, ALICE, "repeat that", 8)
        await says(room, senses, ALICE, "what was said so far", 8)
    who = "Alice has spoken for 2 seconds. Bruno has spoken for 2 seconds."
    assert room.chats == [who, who, "Alice said: we ship on friday."]


async def test_a_typed_command_is_answered_in_the_chat_and_aloud(
    autojump_clock: MockClock,
) -> None:
    senses = Senses()
    async with open_room(senses.agent) as room:
        room.writes("Time?", BRUNO)
        await trio.sleep(5)
    assert room.chats == [TIME]
    assert senses.spoken == [TIME]


async def test_typed_talk_gets_a_hint_once_so_that_our_own_chat_starts_no_loop(
    autojump_clock: MockClock,
) -> None:
    senses = Senses()
    async with open_room(senses.agent) as room:
        for text in ("hello", HELP, TIME):
            room.writes(text, BRUNO)
        await trio.sleep(5)
        room.writes("notes")
        await trio.sleep(9)
    assert room.chats[0] == HELP
    assert len(room.chats) == 2
    assert room.chats[1].startswith("Bruno said: hello.")


async def test_sentences_stream_and_the_caption_grows_with_them(
    autojump_clock: MockClock,
) -> None:
    senses = Senses()
    async with open_room(senses.agent) as room:
        room.writes("help")
        await trio.sleep(0.1)
        assert len(senses.spoken) < len(split_sentences(HELP))  # not all before the first sound
        assert room.played_s > 0.0
        await trio.sleep(10)
    assert senses.spoken == split_sentences(HELP)
    captions = [c for c in room.captions if c[0] == "assistant"]
    assert captions[-1] == ("assistant", HELP, True)
    assert all(HELP.startswith(text) and not final for _, text, final in captions[:-1])


async def test_stop_stops_the_speech_and_drops_what_waits(autojump_clock: MockClock) -> None:
    senses = Senses()
    async with open_room(senses.agent) as room:
        for _ in range(3):
            room.writes("help")
        await trio.sleep(2)
        await says(room, senses, BRUNO, "stop", 30)
        assert room.played_s < 2.0 + 0.2 + 0.3 + 0.2
        assert {"command": "interrupt", "bot_id": "bot-1", "action": "clear_audio_queue"} in (
            room.commands
        )
        last = [c for c in room.captions if c[0] == "assistant"][-1]
        assert last[2]  # the transcript says how far it came, for good
        assert last[1] != HELP
        before_s = room.played_s
        room.writes("time")  # and it still answers
        await trio.sleep(5)
        assert room.played_s - before_s > 0.9


async def test_a_typed_stop_does_not_wait_for_the_recogniser(autojump_clock: MockClock) -> None:
    senses = Senses(hearing_s=10.0)
    async with open_room(senses.agent) as room:
        room.writes("help")
        await trio.sleep(1)
        senses.words.append("slow speech")
        room.says(ALICE, tone(1.0))
        await trio.sleep(0.5)
        room.writes("stop")
        await wait_all_tasks_blocked()
        assert not room.meeting.speaking or room.pump.playout.queued == 0
        await trio.sleep(15)
    assert room.played_s < 2.1


async def test_an_interrupt_of_the_meeting_drops_what_waits_but_not_what_comes_after(
    autojump_clock: MockClock,
) -> None:
    senses = Senses()
    async with open_room(senses.agent) as room:
        for _ in range(3):
            room.writes("help")
        await trio.sleep(2)
        room.meeting.interrupt("barge-in")
        await trio.sleep(20)
        assert room.played_s < 2.5
        before_s = room.played_s
        await says(room, senses, ALICE, "what time is it")
        assert abs(room.played_s - before_s - 1.0) < 0.01


async def test_an_answer_interrupted_while_another_task_spoke_is_not_said(
    autojump_clock: MockClock,
) -> None:
    senses = Senses()
    async with open_room(senses.agent) as room:
        async with room.meeting.turn() as other:
            await other.say(tone(0.5), rate_hz=16_000)
            await trio.sleep(1)
            room.writes("time")
            await wait_all_tasks_blocked()
            room.meeting.interrupt("meeting")
            await wait_all_tasks_blocked()
        await trio.sleep(5)
    assert senses.spoken == []
    assert room.chats == [TIME]


async def test_without_a_voice_the_answer_stands_in_the_chat(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    senses = Senses(mute=True)
    async with open_room(senses.agent) as room:
        room.writes("time")
        await trio.sleep(1)
        room.writes("help")
        await trio.sleep(1)
    assert room.chats == [TIME, HELP]
    assert [r.getMessage() for r in caplog.records].count("answer not spoken") == 2


async def test_what_cannot_be_recognised_is_logged_and_the_next_words_are_heard(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    senses = Senses([AgentError("the recogniser died")])
    async with open_room(senses.agent) as room:
        room.says(ALICE, tone(1.0))
        await trio.sleep(1)
        await says(room, senses, ALICE, "what time is it")
    assert room.chats == [TIME]
    assert "utterance not recognised" in [r.getMessage() for r in caplog.records]


async def test_it_ends_with_a_meeting_that_ends_while_it_speaks(
    autojump_clock: MockClock,
) -> None:
    senses = Senses()
    with trio.fail_after(10):
        async with open_room(senses.agent) as room:
            room.writes("help")
            await trio.sleep(1)
            senses.words += ["what time is it"] * 2
            room.says(ALICE, tone(1.0))
            room.says(ALICE, tone(1.0))
            room.leave()
            room.pump.stop()
