"""The faults. Each is bounded, and leaves no socket and no process of its own behind.

Where a frame was acknowledged by its agent before the fault, it must be in the ledger; where
the fault itself may have lost it (an RST discards what the other end has not read), it may.
"""

from __future__ import annotations

import itertools
import os
import resource
import subprocess
import sys
import time
from contextlib import suppress

import trio

from tests.chaos.attack import Attack, Fault
from tests.chaos.bridge import ROOT
from tests.chaos.clients import (
    READ_S,
    answered,
    cut,
    dial,
    go_deaf,
    interruption,
    introduction,
    join,
    leave,
    reset,
    sound,
    user_message,
)
from tests.edge.peers import CLOSE, Peer, close_payload, frame, head

FRAMES = 10
FLOOD_FROM, LORIS_FROM, EXHAUST_FROM = "127.0.0.2", "127.0.0.3", "127.0.0.4"
"""The flood's caps are an address's: the bots of the meetings have another one."""
GONE = (EOFError, OSError, trio.BrokenResourceError)


# -- the network and the machine -------------------------------------------------------------


async def client_killed(attack: Attack) -> None:
    """kill -9 of a client process that is streaming."""
    bot_id = attack.new_bot()
    async with await trio.open_file(os.devnull) as nothing:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "tests.chaos.victim", str(attack.port), bot_id],
            stdout=subprocess.PIPE,
            stderr=nothing.wrapped,
            cwd=ROOT,
        )
    assert process.stdout is not None
    told = b""
    try:
        with trio.fail_after(READ_S):
            while told.count(b".") < FRAMES + attack.chance.randrange(FRAMES):
                told += await process.stdout.receive_some()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
    told += b"".join([data async for data in process.stdout])
    await process.stdout.aclose()
    attack.sent[bot_id].add(told.count(b"."), perhaps=1)  # sent, and not told any more


async def reset_in_mid_frame(attack: Attack) -> None:
    """RST in the middle of a frame, on both channels of a few bots."""
    for _ in range(4):
        bot_id = attack.new_bot()
        control, audio = await attack.meet(bot_id)
        await audio.send(sound(FRAMES))
        await answered(control, f"heard {FRAMES}", "heard")
        attack.sent[bot_id].add(FRAMES)
        await audio.send(sound(1)[: attack.chance.randrange(1, 1_900)])
        await control.send(user_message("never")[:-3])
        reset(audio)
        reset(control)


async def half_open_for_a_while(attack: Attack) -> None:
    """The client's machine is gone, and the connection is reset before keepalive finds it."""
    bot_id = attack.new_bot("storm")
    control, audio = await attack.meet(bot_id)
    await audio.send(sound(FRAMES))
    attack.sent[bot_id].add(0, perhaps=FRAMES)
    go_deaf(control)
    go_deaf(audio)
    await trio.sleep(1.0)  # its agent talks all the while
    reset(audio)
    reset(control)


async def one_byte_writes(attack: Attack) -> None:
    """Everything a bot says, byte by byte, each in a packet of its own."""
    bot_id = attack.new_bot()
    frames = 2
    control = await join(attack.port, "control", bot_id)
    audio = await dial(attack.port)
    for byte in introduction("audio", bot_id) + sound(frames):
        await audio.send(bytes([byte]))
    with trio.fail_after(READ_S):
        status, _, _ = await audio.answer()
        assert status == 101
    await answered(control, f"heard {frames}", "heard")
    attack.sent[bot_id].add(frames)
    await _leave_both(control, audio)


async def descriptors_exhausted(attack: Attack) -> None:
    """The process is out of descriptors for a moment; then everybody is let in again."""
    pid = attack.bridge.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    strangers: list[Peer] = []
    # Numbers are given from the lowest free one on: this leaves room for a few more.
    limit = max(int(name) for name in os.listdir(f"/proc/{pid}/fd")) + 4
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
    try:
        for _ in range(20):
            strangers.append(await dial(attack.port, EXHAUST_FROM))
        await trio.sleep(0.5)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        await cut(*strangers)
    await _talks_to(attack, attack.new_bot())


# -- strangers -------------------------------------------------------------------------------


async def connect_flood(attack: Attack) -> None:
    """Three hundred connections at once, from one address, that say nothing."""
    strangers: list[Peer] = []

    async def knock() -> None:
        with suppress(*GONE):
            strangers.append(await dial(attack.port, FLOOD_FROM))

    async with trio.open_nursery() as nursery:
        for _ in range(300):
            nursery.start_soon(knock)
    await trio.sleep(0.3)
    await cut(*strangers)


async def slow_loris(attack: Attack, *, last_s: float = 1.0) -> None:
    """Sixty request heads that come byte by byte."""
    strangers = [await dial(attack.port, LORIS_FROM) for _ in range(60)]
    until_s = trio.current_time() + last_s
    try:
        for byte in head() * 1_000:
            if trio.current_time() >= until_s:
                break
            for peer in strangers:
                with suppress(*GONE):
                    await peer.send(bytes([byte]) if byte != 13 else b"x")
            await trio.sleep(0.1)
    finally:
        await cut(*strangers)


# -- a bot's channels ------------------------------------------------------------------------


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
    await _leave_both(control, audio)


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
    await _leave_both(control, audio)


async def both_close_while_the_agent_starts(attack: Attack) -> None:
    """Bots that are gone again before their agent listens."""
    for way in ("1000", "vanish", "reset") * 3:
        control, audio = await attack.meet(attack.new_bot("late"))
        if way == "1000":
            await _leave_both(control, audio)
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


# -- agents ----------------------------------------------------------------------------------


async def slow_agent(attack: Attack) -> None:
    """An agent that takes ten times as long over audio as it lasts: its own is dropped."""
    bot_id = attack.new_bot("slow")
    control, audio = await attack.meet(bot_id)
    for _ in range(20):
        await audio.send(sound(5))
        attack.sent[bot_id].add(5)
        await trio.sleep(0.05)
    await _leave_both(control, audio)


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
    await _leave_both(control, audio)


async def blocked_loop(attack: Attack) -> None:
    """An agent that holds the loop of all for a quarter of a second, twice."""
    bot_id = attack.new_bot("block")
    control, audio = await attack.meet(bot_id)
    for _ in range(2):
        from_s = time.monotonic()
        await answered(control, "now", "blocked")
        attack.blocked.append((from_s, time.monotonic()))
        await trio.sleep(0.3)
    await _leave_both(control, audio)


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
    await _leave_both(*lost)
    await _leave_both(control, audio)


# -- those that take their time --------------------------------------------------------------


async def half_open_found_by_keepalive(attack: Attack) -> None:
    """The client's machine is gone for good: only a ping that nobody answers can tell.

    20 s to the ping and 20 s for the pong, then the grace.
    """
    bot_id = attack.new_bot()
    control, audio = await attack.meet(bot_id)
    await audio.send(sound(FRAMES))
    await answered(control, f"heard {FRAMES}", "heard")
    attack.sent[bot_id].add(FRAMES)
    go_deaf(control)
    go_deaf(audio)
    try:
        await _left(attack, bot_id, within_s=45.0)
    finally:
        reset(audio)
        reset(control)


async def stopped_client(attack: Attack) -> None:
    """SIGSTOP of a client process: it reads nothing and its kernel acknowledges everything."""
    bot_id = attack.new_bot()
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.chaos.victim", str(attack.port), bot_id],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout is not None
    told = b""
    try:
        with trio.fail_after(READ_S):
            while told.count(b".") < FRAMES:
                told += await process.stdout.receive_some()
        process.send_signal(19)
        await _left(attack, bot_id, within_s=45.0)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
    told += b"".join([data async for data in process.stdout])
    await process.stdout.aclose()
    attack.sent[bot_id].add(told.count(b"."), perhaps=1)


async def control_never_reads_to_the_end(attack: Attack) -> None:
    """The same until the bridge gives the socket up: a write may stall for 5 s."""
    bot_id = attack.new_bot("chatter")
    control = await join(attack.port, "control", bot_id, receive_bytes=4_096)
    audio = await join(attack.port, "audio", bot_id)
    with trio.fail_after(20.0):
        while not _events(attack, "channel left", bot_id):
            await audio.send(sound(5))
            attack.sent[bot_id].add(5)
            await trio.sleep(0.1)
    await leave(audio, 1001)
    await cut(control)


async def slow_loris_to_the_deadline(attack: Attack) -> None:
    """The same past the 10 s that a head may take."""
    await slow_loris(attack, last_s=11.0)


async def reconnects_in_five_seconds(attack: Attack) -> None:
    """The same, spread over 5 s."""
    await reconnects(attack, each_s=0.045)


# -- pieces ----------------------------------------------------------------------------------


async def _leave_both(control: Peer, audio: Peer) -> None:
    """Close 1000 on both, as a bot that is done."""
    for peer in (audio, control):
        await peer.send(frame(CLOSE, close_payload(1000)))
    for peer in (audio, control):
        with trio.fail_after(READ_S):
            code = await peer.close_code()
        assert code in (1000, 1001), code
        await cut(peer)


async def _talks_to(attack: Attack, bot_id: str) -> None:
    """A meeting that works from its beginning to its end."""
    control, audio = await attack.meet(bot_id)
    await audio.send(sound(FRAMES))
    await answered(control, f"heard {FRAMES}", "heard")
    attack.sent[bot_id].add(FRAMES)
    await _leave_both(control, audio)


def _events(attack: Attack, event: str, bot_id: str) -> int:
    attack.bridge.read_log()
    return sum(
        record.get("event") == event and record.get("bot_id") == bot_id
        for record in attack.bridge.records
    )


async def _left(attack: Attack, bot_id: str, *, within_s: float) -> None:
    """Wait until the bridge has noticed that both channels are gone."""
    with trio.fail_after(within_s):
        while _events(attack, "channel left", bot_id) < 2:  # noqa: ASYNC110  # in its log
            await trio.sleep(0.1)


QUICK: tuple[Fault, ...] = (
    client_killed,
    reset_in_mid_frame,
    half_open_for_a_while,
    one_byte_writes,
    descriptors_exhausted,
    connect_flood,
    slow_loris,
    all_channel_orders,
    reconnects,
    duplicate_channels,
    both_close_while_the_agent_starts,
    interrupt_storm,
    control_never_reads,
    slow_agent,
    agent_raises,
    agent_refuses_to_stop,
    blocked_loop,
    clock_steps,
)
"""A second or two each."""
LONG: tuple[Fault, ...] = (
    half_open_found_by_keepalive,
    stopped_client,
    control_never_reads_to_the_end,
    slow_loris_to_the_deadline,
    reconnects_in_five_seconds,
)
"""Up to a minute each: they wait for the bridge's own deadlines."""
UNTIMED: frozenset[Fault] = frozenset({blocked_loop})
"""One process is one loop: who holds it holds all. What is promised is that no frame is lost
and nothing in anybody's playback is missed, so the neighbours' latency is not judged."""
