"""Faults of a bot's channels and of agents."""

from __future__ import annotations

import itertools
import time
from contextlib import suppress

import trio

from tests.chaos.attack import Attack
from tests.chaos.clients import (
    READ_S,
    answered,
    cut,
    interruption,
    join,
    leave,
    reset,
    sound,
    user_message,
)
from tests.chaos.pieces import FRAMES, GONE, leave_both
from tests.edge.peers import Peer


async def all_channel_orders(attack: Attack) -> None:
    """Each order in which two channels can open and close, in each way of closing."""
    orders = [
        order
        for order in itertools.permutations(("+audio", "-audio", "+control", "-control"))
        if order.index("+audio") < order.index("-audio")
        and order.index("+control") < order.index("-control")
    ]
    ways = [(order, way) for order in orders for way in ("1000", "1001", "vanish", "reset")]
    attack.chance.shuffle(ways)
    for order, way in ways:
        await _one_order(attack, order, way)


async def _one_order(attack: Attack, order: tuple[str, ...], way: str) -> None:
    bot_id, peers = attack.new_bot(), dict[str, Peer]()
    for step in order:
        kind = step[1:]
        if step[0] == "+":
            peers[kind] = await join(attack.port, kind, bot_id)
        elif way == "vanish":
            await cut(peers[kind])
        elif way == "reset":
            reset(peers[kind])
        else:
            await leave(peers[kind], int(way))


async def reconnects(attack: Attack, *, each_s: float = 0.0) -> None:
    """A bot that loses its sockets a hundred times, in five seconds or less."""
    bot_id = attack.new_bot()
    control, audio = await attack.meet(bot_id)
    for n in range(1, 101):
        kind = attack.chance.choice(("audio", "control"))
        old = audio if kind == "audio" else control
        if kind == "audio":
            await audio.send(sound(1))
            attack.sent[bot_id].add(0, perhaps=1)
        if attack.chance.random() < 0.5:
            reset(old)
        else:
            await cut(old)
        new = await join(attack.port, kind, bot_id)
        audio, control = (new, control) if kind == "audio" else (audio, new)
        await trio.sleep(each_s)
        if n % 20 == 0:
            await answered(control, f"still here {n}")
    await leave_both(control, audio)


async def duplicate_channels(attack: Attack) -> None:
    """Eight sockets of each channel at once: the newest is the bot's, the others are told."""
    bot_id = attack.new_bot()
    control, audio = await attack.meet(bot_id)
    for _ in range(7):
        newer_control, newer_audio = await attack.meet(bot_id)
        with trio.fail_after(READ_S):
            assert await control.close_code() == 1000
            assert await audio.close_code() == 1000
        await cut(control, audio)
        control, audio = newer_control, newer_audio
    await audio.send(sound(FRAMES))
    await answered(control, f"heard {FRAMES}", "heard")
    attack.sent[bot_id].add(FRAMES)
    await leave_both(control, audio)


async def both_close_while_the_agent_starts(attack: Attack) -> None:
    """Bots that are gone again before their agent listens."""
    for way in ("1000", "vanish", "reset") * 3:
        control, audio = await attack.meet(attack.new_bot("late"))
        if way == "1000":
            await leave_both(control, audio)
        elif way == "vanish":
            await cut(control, audio)
        else:
            reset(audio)
            reset(control)


async def interrupt_storm(attack: Attack) -> None:
    """A thousand interrupts as fast as they go, at an agent that talks."""
    bot_id = attack.new_bot("storm")
    control, audio = await attack.meet(bot_id)
    with trio.fail_after(READ_S):
        while True:  # until it speaks
            _, payload = await control.read()
            if b'"sendaudio"' in payload:
                break
    async with trio.open_nursery() as nursery:

        async def read_on() -> None:
            with suppress(*GONE):
                while True:
                    await control.stream.receive_some(65_536)

        nursery.start_soon(read_on)
        for _ in range(50):
            await control.send(interruption() * 20)
            await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    await cut(control, audio)


async def control_never_reads(attack: Attack, *, last_s: float = 0.7) -> None:
    """A bot whose control socket takes nothing, and whose agent has much to say."""
    bot_id = attack.new_bot("chatter")
    control = await join(attack.port, "control", bot_id, receive_bytes=4_096)
    audio = await join(attack.port, "audio", bot_id)
    until_s = trio.current_time() + last_s
    frames = 0
    while trio.current_time() < until_s:
        await audio.send(sound(5))
        frames += 5
        await trio.sleep(0.1)
    attack.sent[bot_id].add(frames)
    await leave(audio, 1001)
    reset(control)


async def slow_agent(attack: Attack) -> None:
    """An agent that takes ten times as long over audio as it lasts: its own is dropped."""
    bot_id = attack.new_bot("slow")
    control, audio = await attack.meet(bot_id)
    for _ in range(20):
        await audio.send(sound(5))
        attack.sent[bot_id].add(5)
        await trio.sleep(0.05)
    await leave_both(control, audio)


async def agent_raises(attack: Attack) -> None:
    """Agents that raise: their bots are told 1011."""
    for _ in range(3):
        bot_id = attack.new_bot("raise")
        control, audio = await attack.meet(bot_id)
        await control.send(user_message("now"))
        attack.injected["agent failed", bot_id] += 1
        with trio.fail_after(READ_S):
            assert await control.close_code() == 1011
            assert await audio.close_code() == 1011
        await cut(control, audio)


async def agent_refuses_to_stop(attack: Attack) -> None:
    """An agent that swallows its cancellation; that is reported, and nobody waits for it."""
    bot_id = attack.new_bot("stubborn")
    control, audio = await attack.meet(bot_id)
    attack.injected["meeting would not stop", bot_id] += 1
    await leave_both(control, audio)


async def blocked_loop(attack: Attack) -> None:
    """An agent that holds the loop of all for a quarter of a second, twice."""
    bot_id = attack.new_bot("block")
    control, audio = await attack.meet(bot_id)
    for _ in range(2):
        from_s = time.monotonic()
        await answered(control, "now", "blocked")
        attack.blocked.append((from_s, time.monotonic()))
        await trio.sleep(0.3)
    await leave_both(control, audio)


async def clock_steps(attack: Attack) -> None:
    """The wall clock of the bridge's process jumps by days, to and fro.

    A bot that loses its sockets just then, and is back within its grace, is in its old meeting.
    """
    control, audio = await attack.meet(attack.new_bot("clock"))
    bot_id = attack.new_bot()
    lost = await attack.meet(bot_id)
    for days in (1, -400, 3_000, 0):
        await cut(*lost)
        await trio.sleep(0.05)  # the bridge has noticed before the clock jumps
        await answered(control, str(days), "stepped")
        await trio.sleep(0.15)
        lost = await attack.meet(bot_id)
        await lost[1].send(sound(FRAMES))
        attack.sent[bot_id].add(FRAMES)
    await answered(lost[0], f"heard {4 * FRAMES}", "heard")
    await leave_both(*lost)
    await leave_both(control, audio)
