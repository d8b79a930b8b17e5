"""A meeting that ended is freed at once: what it held must not wait for the collector.

Speech that was queued is some hundred KiB, and the collector comes rarely in a long-running
server: a cycle through the session cost 100 MiB an hour where bots lose their sockets.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Awaitable, Callable

import pytest
import trio

from tests.core.rooms import Channel, bridge, tone
from trio_bridge.meeting import Meeting
from trio_bridge.pacing import Playout
from trio_bridge.pump import SILENT_S

pytestmark = pytest.mark.usefixtures("autojump_clock")


async def talker(meeting: Meeting) -> None:
    """Listens, and talks all the while."""

    async def talk() -> None:
        while True:
            async with meeting.turn() as turn:
                await turn.say(tone(3)[::3], rate_hz=16_000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk)
        async for _ in meeting.audio():
            pass
        nursery.cancel_scope.cancel()


async def goodbye(control: Channel, audio: Channel) -> None:
    await audio.leave()
    await control.leave()


async def vanish(control: Channel, audio: Channel) -> None:
    await audio.vanish()
    await control.vanish()


async def interrupt_and_leave(control: Channel, audio: Channel) -> None:
    await control.send({"command": "interrupt", "action": "clear_audio_queue"})
    await goodbye(control, audio)


@pytest.mark.parametrize("end", [goodbye, vanish, interrupt_and_leave])
async def test_a_meeting_is_freed_when_it_ends(
    end: Callable[[Channel, Channel], Awaitable[None]],
) -> None:
    async with bridge(talker, grace_s=1.0) as room:
        control, audio = await room.control(), await room.audio()
        await audio.hear("Alice", tone(1.0, 0.01))
        session = room.session
        parts = [session, session.inflow, session.pump, session.pump.playout, session.meeting]
        held = [weakref.ref(part) for part in parts]
        del session, parts
        gc.collect()
        gc.disable()
        try:
            await end(control, audio)
            await trio.sleep(30)
            assert not len(room.server.registry)
            assert [ref() for ref in held if ref() is not None] == []
        finally:
            gc.enable()


async def test_the_speech_of_a_failed_agent_is_freed_when_its_meeting_ends() -> None:
    playouts: list[Playout] = []

    async def talk(meeting: Meeting) -> None:
        async with meeting.turn() as turn:
            await turn.say(tone(5), rate_hz=48_000)

    async def agent(meeting: Meeting) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, meeting)
            await trio.sleep(0.5)
            playouts.append(meeting._pump.playout)
            raise RuntimeError("model fell over")

    async with bridge(agent) as room:
        gc.collect()
        gc.disable()  # Trio's nurseries and a failure hold each other until the collector comes
        try:
            control = await room.join("/bridge")
            assert (await control.closed())[0] == 1011
            await trio.sleep(1)
            (playout,) = playouts
            assert playout.queued > 48_000
            assert playout._spool.held_bytes == 0
        finally:
            gc.enable()


async def test_a_meeting_whose_agent_is_silent_keeps_nothing_of_what_it_said() -> None:
    async def agent(meeting: Meeting) -> None:
        async with meeting.turn() as turn:
            await turn.say(tone(1.0)[::3], rate_hz=16_000)
        await trio.sleep_forever()

    async with bridge(agent) as room:
        control = await room.join("/bridge")
        room.nursery.start_soon(control.closed)
        await trio.sleep(2)
        pump = room.session.pump
        assert pump.playout.queued == 0
        assert pump.playout._spool.held_bytes > 48_000
        assert pump._resampler is not None
        await trio.sleep(SILENT_S + 1)
        assert pump.playout._spool.held_bytes == 0
        assert pump._resampler is None


async def test_what_speaking_needs_is_kept_for_a_while_though_an_interrupt_came_first() -> None:
    async with bridge(nobody) as room:
        await room.control()
        pump = room.session.pump
        pump.playout.push(tone(0.2))
        pump.playout.flush(trio.current_time())
        await trio.sleep(SILENT_S / 2)
        assert pump.playout._spool.held_bytes
        await trio.sleep(SILENT_S)
        assert not pump.playout._spool.held_bytes


async def nobody(meeting: Meeting) -> None:
    """Neither listens nor speaks."""
    await trio.sleep_forever()
