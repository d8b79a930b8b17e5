"""A thousand meetings over real sockets, ended in every way; then nothing of them is left."""

from __future__ import annotations

import gc
import os
import random
import threading

import trio
from trio_websocket import ConnectionClosed, HandshakeError, wrap_client_stream

from tests.core.rooms import listener, tone
from trio_bridge.address import Address
from trio_bridge.audio.pcm import to_pcm16
from trio_bridge.config import Settings
from trio_bridge.meeting import Meeting
from trio_bridge.server import Server
from trio_bridge.wire.frames import AudioFrame, encode_frame
from trio_bridge.wire.hello import encode_hello

CYCLES, AT_ONCE = 1_000, 25
FRAME = encode_frame(AudioFrame("u1", "Alice", to_pcm16(tone(0.02))))


async def visit(address: Address, bot_id: str, dice: random.Random) -> None:
    """One bot: both channels in some order, a word or two, and an end of some kind."""
    paths = ["/bridge", "/bridge/audio"]
    dice.shuffle(paths)
    streams = [await trio.open_tcp_stream(address.host, address.port) for _ in paths]
    try:
        async with trio.open_nursery() as nursery:
            for stream, path in zip(streams, paths, strict=True):
                ws = await wrap_client_stream(nursery, stream, address.host, path)
                if dice.random() < 0.05:
                    continue  # says nothing
                await ws.send_message(encode_hello(bot_id))
                talk = (
                    FRAME if path.endswith("audio") else '{"command": "usermsg", "text": "x"}'
                )
                for _ in range(dice.randrange(4)):
                    await ws.send_message(talk)
                if dice.random() < 0.5:
                    await ws.aclose(1000)
            nursery.cancel_scope.cancel()  # what was not closed is cut
    except* (ConnectionClosed, HandshakeError, trio.BrokenResourceError):
        pass
    finally:
        for stream in streams:
            await trio.aclose_forcefully(stream)


async def agent(meeting: Meeting) -> None:
    """Says something, and fails now and then."""
    await meeting.chat("hello")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener, meeting)
        async with meeting.turn() as turn:
            await turn.say(tone(0.3), rate_hz=48_000)
        if meeting.bot_id.endswith("7"):
            raise RuntimeError("model fell over")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_thousand_meetings_leave_no_task_socket_thread_or_session() -> None:
    settings = Settings(
        port=0, grace_s=0.05, wrap_up_s=0.1, hello_s=0.5, max_lag_percent=0
    )  # however busy the machine is, all of them are let in
    server = Server(agent, settings)
    dice = random.Random(20)
    limit = trio.CapacityLimiter(AT_ONCE)

    async def limited(address: Address, number: int) -> None:
        async with limit:
            await visit(address, f"bot-{number}", dice)

    async def settled() -> None:
        await server.registry.empty()
        while server.edge.sockets or server.edge.pending:  # noqa: ASYNC110 - the kernel's doing
            await trio.sleep(0.01)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            address: Address = await nursery.start(server.run)
            await limited(address, 0)
            await settled()
            gc.collect()
            tasks = trio.lowlevel.current_statistics().tasks_living
            files, threads = open_files(), set(threading.enumerate())

            async with trio.open_nursery() as bots:
                for number in range(CYCLES):
                    bots.start_soon(limited, address, number)
            await settled()
            gc.collect()
            assert len(server.registry) == server.registry.running == 0
            assert trio.lowlevel.current_statistics().tasks_living == tasks
            # Not equal: a worker that Trio kept from an earlier test may end meanwhile.
            assert set(threading.enumerate()) <= threads
            assert open_files() == files
            assert server.served > CYCLES * 0.9
            nursery.cancel_scope.cancel()
