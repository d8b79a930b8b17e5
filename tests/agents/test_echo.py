"""The agent `echo`, in a real meeting on a virtual clock."""

from __future__ import annotations

import numpy as np
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.agents.room import ALICE, BRUNO, open_room, tone
from trio_bridge.agents.echo import MESSAGES, RATE_HZ, echo


async def test_it_says_back_what_it_heard(autojump_clock: MockClock) -> None:
    async with open_room(echo) as room:
        room.says(ALICE, tone(1.0, RATE_HZ), RATE_HZ)
        await trio.sleep(3)
    assert abs(room.played_s - 1.0) < 0.001
    spectrum = np.abs(np.fft.rfft(room.played))
    assert abs(np.argmax(spectrum) / room.played_s - 440) < 2


async def test_it_writes_back_what_it_reads_while_it_speaks(autojump_clock: MockClock) -> None:
    async with open_room(echo) as room:
        room.says(ALICE, tone(5.0, RATE_HZ), RATE_HZ)
        await trio.sleep(1)
        room.writes("hello there", BRUNO)
        await wait_all_tasks_blocked()
        assert room.chats == ["hello there"]
        assert room.meeting.speaking


async def test_an_interrupt_stops_it_at_once_and_drops_what_waits(
    autojump_clock: MockClock,
) -> None:
    async with open_room(echo) as room:
        for _ in range(3):
            room.says(ALICE, tone(10.0, RATE_HZ), RATE_HZ)
        await trio.sleep(2)
        room.meeting.interrupt("meeting")
        await trio.sleep(30)
        assert room.played_s < 2.0 + 0.3 + 0.1
        room.says(BRUNO, tone(1.0, RATE_HZ), RATE_HZ)  # it still listens
        before_s = room.played_s
        await trio.sleep(3)
        assert abs(room.played_s - before_s - 1.0) < 0.001


async def test_what_was_asked_in_another_tasks_turn_and_interrupted_is_not_said(
    autojump_clock: MockClock,
) -> None:
    async with open_room(echo) as room:
        async with room.meeting.turn() as other:
            await other.say(tone(0.5), rate_hz=16_000)
            await trio.sleep(1)
            room.says(ALICE, tone(1.0, RATE_HZ), RATE_HZ)
            await wait_all_tasks_blocked()
            room.meeting.interrupt("meeting")
            await wait_all_tasks_blocked()
        await trio.sleep(3)
    assert abs(room.played_s - 0.5) < 0.05


async def test_it_listens_while_the_bot_is_away(autojump_clock: MockClock) -> None:
    async with open_room(echo, bot=False) as room:
        for n in range(2 * MESSAGES):
            room.writes(f"{n}")
            await wait_all_tasks_blocked()
        room.pump.attach(room)
        room.pump._bell.ring()
        await trio.sleep(1)
        assert room.chats == [str(n) for n in range(2 * MESSAGES)]


async def test_it_ends_with_a_meeting_that_ends_in_mid_sentence(
    autojump_clock: MockClock,
) -> None:
    with trio.fail_after(5):
        async with open_room(echo) as room:
            room.says(ALICE, tone(60.0, RATE_HZ), RATE_HZ)
            room.writes("bye")
            await trio.sleep(1)
            room.leave()
            room.pump.stop()
