"""Faults that wait for the bridge's own deadlines."""

from __future__ import annotations

import subprocess
import sys

import trio

from tests.chaos.attack import Attack
from tests.chaos.bridge import ROOT
from tests.chaos.channels import reconnects
from tests.chaos.clients import (
    READ_S,
    answered,
    cut,
    go_deaf,
    join,
    leave,
    reset,
    sound,
)
from tests.chaos.network import slow_loris
from tests.chaos.pieces import FRAMES, both_left, events


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
        await both_left(attack, bot_id, within_s=45.0)
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
        await both_left(attack, bot_id, within_s=45.0)
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
        while not events(attack, "channel left", bot_id):
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
