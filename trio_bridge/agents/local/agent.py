"""The agent `local`: it listens, writes a transcript and answers a few commands, offline."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import attrs
import trio

from trio_bridge.agents.answers import Answers, Waiting
from trio_bridge.agents.local.errors import AgentError
from trio_bridge.agents.local.grammar import Skill, parse
from trio_bridge.agents.local.notes import MeetingNotes, spoken_s
from trio_bridge.agents.local.senses import RATE_HZ, Ears, Voice, open_ears, open_voice
from trio_bridge.agents.local.skills import HELP, answer, split_sentences, understand
from trio_bridge.errors import SessionEndedError
from trio_bridge.meeting import Interrupt, Meeting, UserMessage, Utterance

UNHEARD = 8
"""Utterances and messages that may wait their turn. The recogniser is ten times faster than
people talk, so more than this means that it is stuck."""


async def local(meeting: Meeting) -> None:
    """Answer the commands of `grammar.Skill`, spoken or typed, aloud and in the chat.

    Everything that is said becomes a transcript line. Its two child processes (150 MB and
    50 MB) start when first needed and have ended when this returns or is cancelled.
    """
    async with open_ears(meeting.log) as ears, open_voice(meeting.log) as voice:
        await converse(meeting, ears, voice, now=datetime.now)


async def converse(
    meeting: Meeting, ears: Ears, voice: Voice, *, now: Callable[[], datetime]
) -> None:
    """The agent, with the ears, the voice and the clock that it is given."""
    try:
        await _Conversation(meeting, ears, voice, now).run()
    except* SessionEndedError:
        pass  # the meeting ended before everything was said, which is no failure of ours


@attrs.define(eq=False)
class _Conversation:
    """One meeting: a task that listens, one that recognises, one that speaks."""

    meeting: Meeting
    ears: Ears
    voice: Voice
    now: Callable[[], datetime]
    notes: MeetingNotes = attrs.field(factory=MeetingNotes, init=False)
    answers: Answers[str] = attrs.field(factory=Answers, init=False)
    heard: Answers[Utterance | UserMessage] = attrs.field(
        factory=lambda: Answers(UNHEARD), init=False
    )
    hinted: bool = attrs.field(default=False, init=False)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._recognise)
            nursery.start_soon(self._speak)
            # The mix, not each speaker alone: a platform names a speaker only once it is sure,
            # and a speaker's own audio begins there. "The" and "thank" were lost that way.
            async for event in self.meeting.events(rate_hz=RATE_HZ):
                match event:
                    case Utterance():
                        self.heard.put(event)
                    case UserMessage(text=text):
                        if parse(text) is Skill.STOP:
                            self._stop()
                        self.heard.put(event)
                    case Interrupt(source=source) if source != "agent":  # that was `_stop`
                        self.answers.interrupted()
            self.heard.close()

    async def _recognise(self) -> None:
        while True:
            try:
                waiting = await self.heard.take()
            except trio.EndOfChannel:
                self.answers.close()
                return
            try:
                if isinstance(waiting.answer, UserMessage):
                    await self._read(waiting.answer)
                else:
                    await self._hear(waiting.answer)
            except AgentError as error:  # this one is lost; typed commands still work
                self.meeting.log("utterance not recognised", reason=str(error))

    async def _hear(self, utterance: Utterance) -> None:
        speaker = utterance.speaker
        name = str(speaker or "somebody")
        seconds = spoken_s(utterance.samples, utterance.rate_hz)
        self.notes.add_speech(speaker.key if speaker else "", name, seconds)
        heard = await self.ears.hear(utterance.samples)
        skill = understand(heard)
        text = heard.command if skill and parse(heard.free) is None else heard.free
        if not text:
            return
        if skill is Skill.STOP:
            self._stop()  # before anything that may wait
        await self.meeting.caption(f"{name}: {text}", role="user")
        self.meeting.log("heard", speaker=name, skill=skill.value if skill else "")
        if skill is None:
            self.notes.add_line(name, text)
        else:
            await self._do(skill)

    async def _read(self, message: UserMessage) -> None:
        skill = parse(message.text)
        if skill is not None:
            await self._do(skill)
            return
        self.notes.add_line(str(message.speaker or "somebody"), message.text)
        if not self.hinted:
            # Once: the chat belongs to the people, and may send our own lines back to us.
            self.hinted = True
            await self.meeting.chat(HELP)

    async def _do(self, skill: Skill) -> None:
        text = answer(skill, self.notes, self.now())
        if text:
            self.notes.last_answer = text
            self.answers.put(text)
            await self.meeting.chat(text)

    def _stop(self) -> None:
        self.meeting.interrupt()
        self.answers.interrupted()

    async def _speak(self) -> None:
        while True:
            try:
                waiting = await self.answers.take()
            except trio.EndOfChannel:
                return
            try:
                await self._say(waiting)
            except AgentError as error:  # it stands in the chat
                self.meeting.log("answer not spoken", reason=str(error))

    async def _say(self, waiting: Waiting[str]) -> None:
        said = ""
        async with self.meeting.turn() as turn:
            if self.answers.is_stale(waiting):
                return
            for sentence in split_sentences(waiting.answer):
                speech = await self.voice.speak(sentence)
                said = f"{said} {sentence}".lstrip()
                await self.meeting.caption(said, final=said == waiting.answer)
                await turn.say(speech.samples, rate_hz=speech.rate_hz)
        if turn.interrupted:
            self.answers.cut(waiting)
            if said and said != waiting.answer:
                await self.meeting.caption(said)  # as far as it came
        self.meeting.log(
            "answered",
            said_s=round(turn.said_s, 2),
            heard_s=round(turn.heard_s, 2),
            interrupted=turn.interrupted,
        )
