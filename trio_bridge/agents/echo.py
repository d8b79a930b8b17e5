"""The agent that needs nothing: it says back what it hears and writes back what it reads."""

from __future__ import annotations

import trio

from trio_bridge.agents.answers import Answers
from trio_bridge.errors import SessionEndedError
from trio_bridge.meeting import Interrupt, Meeting, UserMessage, Utterance

RATE_HZ = 24_000
"""Speech is said back with its sibilants: 12 kHz of bandwidth."""

MESSAGES = 32
"""Messages that may wait while the bot is away; then the oldest goes unanswered."""


async def echo(meeting: Meeting) -> None:
    """Say back each utterance after it ends; answer a message with the same text in the chat.

    Listening goes on while it speaks. An interrupt cuts what is being said and drops what
    waits. Returns when the meeting is over and all was said.
    """
    answers: Answers[Utterance] = Answers()
    messages: Answers[str] = Answers(MESSAGES)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_speak, meeting, answers)
            nursery.start_soon(_write, meeting, messages)
            async for event in meeting.events(rate_hz=RATE_HZ):
                match event:
                    case Utterance():
                        answers.put(event)
                    case UserMessage(text=text):
                        messages.put(text)
                    case Interrupt():
                        answers.interrupted()
            answers.close()
            messages.close()
    except* SessionEndedError:
        pass  # the meeting ended before everything was said, which is no failure of ours


async def _speak(meeting: Meeting, answers: Answers[Utterance]) -> None:
    while True:
        try:
            waiting = await answers.take()
        except trio.EndOfChannel:
            return
        utterance = waiting.answer
        async with meeting.turn() as turn:
            if not answers.is_stale(waiting):  # asked while another task held the turn
                await turn.say(utterance.samples, rate_hz=utterance.rate_hz)
        if turn.interrupted:
            answers.cut(waiting)
        meeting.log(
            "echoed",
            speaker=str(utterance.speaker or "somebody"),
            said_s=round(turn.said_s, 3),
            heard_s=round(turn.heard_s, 3),
            interrupted=turn.interrupted,
        )


async def _write(meeting: Meeting, messages: Answers[str]) -> None:
    while True:
        try:
            text = (await messages.take()).answer
        except trio.EndOfChannel:
            return
        await meeting.chat(text)  # waits while the bot is away: not in the task that listens
