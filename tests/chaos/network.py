"""Faults of networks, machines and strangers."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from contextlib import suppress

import trio

from tests.chaos.attack import Attack
from tests.chaos.bridge import ROOT
from tests.chaos.clients import (
    READ_S,
    answered,
    cut,
    dial,
    go_deaf,
    introduction,
    join,
    reset,
    sound,
    user_message,
)
from tests.chaos.pieces import FRAMES, GONE, leave_both, talks_to
from tests.edge.peers import Peer, head

FLOOD_FROM, LORIS_FROM, EXHAUST_FROM = "127.0.0.2", "127.0.0.3", "127.0.0.4"
"""The flood's caps are an address's: the bots of the meetings have another one."""


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
    await leave_both(control, audio)


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
    await talks_to(attack, attack.new_bot())


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
