"""The agent under test: takes 16 kHz mixed audio, stamps its arrival and throws it away."""

from __future__ import annotations

import trio

from benchmarks.signals import AGENT_RATE_HZ, tone
from benchmarks.stamps import Stamps, cut_ms, index_of, is_spoken_to, open_stamps
from trio_bridge.meeting import Meeting

_open: list[Stamps] = []  # one file for all meetings; opened late so that imports stay harmless


async def null(meeting: Meeting) -> None:
    """Listen until the meeting ends; to the bots chosen for it, say a tone all the while."""
    if not _open:
        _open.append(open_stamps())
    stamps, bot = _open[0], index_of(meeting.bot_id)
    async with trio.open_nursery() as nursery:
        if is_spoken_to(bot):
            nursery.start_soon(_talk, meeting)
        samples = 0
        async for chunk in meeting.audio(rate_hz=AGENT_RATE_HZ, chunk_ms=cut_ms()):
            samples += len(chunk.samples)
            stamps.note(bot, samples)
        nursery.cancel_scope.cancel()


async def _talk(meeting: Meeting) -> None:
    """As fast as it may, so that its lane is always full; after an interrupt at once again."""
    speech = tone(AGENT_RATE_HZ // 10)
    while True:
        async with meeting.turn() as turn:
            while True:
                await turn.say(speech, rate_hz=AGENT_RATE_HZ)
