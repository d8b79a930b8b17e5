"""The agent of the soak: listens all the time, and talks for a while every now and then."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import trio

from benchmarks.signals import AGENT_RATE_HZ, tone
from benchmarks.stamps import index_of
from trio_bridge.meeting import Meeting

SPEECH_S = 5
PAUSE_S = 3.0
"""Longer than any silence that still counts as a gap within an answer."""
CYCLE_S = SPEECH_S + PAUSE_S


async def take_turns(meeting: Meeting) -> None:
    """Speak for `SPEECH_S`, be quiet for `PAUSE_S`, until the meeting ends."""
    speech = tone(AGENT_RATE_HZ * SPEECH_S).reshape(-1, AGENT_RATE_HZ // 10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_talk, meeting, speech)
        async for _ in meeting.audio(rate_hz=AGENT_RATE_HZ, chunk_ms=20):
            pass
        nursery.cancel_scope.cancel()


async def _talk(meeting: Meeting, speech: npt.NDArray[np.float32]) -> None:
    await trio.sleep(index_of(meeting.bot_id) * 0.37 % CYCLE_S)  # not all in step
    while True:
        async with meeting.turn() as turn:
            for piece in speech:  # as a model would bring it
                await turn.say(piece, rate_hz=AGENT_RATE_HZ)
        await trio.sleep(PAUSE_S)
