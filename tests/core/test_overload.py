"""A loop that an agent keeps busy, in a process of its own: who is let in, and what is said."""

from __future__ import annotations

import json
import os
from pathlib import Path

import trio

from tests.core.test_command_line import Answer, ask, ask_upgrade, running
from tests.edge.peers import TEXT, Peer, frame, head

HOG = '''
import time
import trio
import trio_bridge as tb


def think(seconds):
    ends_s = time.perf_counter() + seconds
    while time.perf_counter() < ends_s:
        pass


async def agent(meeting: tb.Meeting) -> None:
    """Thinks in the loop until somebody writes to it."""
    ear = meeting.events()
    with trio.CancelScope() as thinking:
        async with trio.open_nursery() as nursery:
            async def wait_for_a_word():
                async for event in ear:
                    if isinstance(event, tb.UserMessage):
                        thinking.cancel()
            nursery.start_soon(wait_for_a_word)
            while meeting.bot_id == "hog":
                think(0.1)
                await trio.sleep(0.01)
    await trio.sleep_forever()
'''


async def join(port: int, path: str, bot_id: str) -> Peer:
    peer = Peer(await trio.open_tcp_stream("127.0.0.1", port))
    await peer.upgrade(head(target=path.encode()))
    hello = {"type": "ready", "bot_id": bot_id}
    await peer.send(frame(TEXT, json.dumps(hello).encode()))
    return peer


async def keep(process: trio.Process, written: bytearray) -> None:
    assert process.stderr is not None
    async for data in process.stderr:
        written += data


async def until_ready_says(port: int, status: int) -> Answer:
    while True:
        answer = await ask(port, "/ready")
        if answer.status == status:
            return answer
        await trio.sleep(0.05)  # its caller has a deadline


async def test_a_busy_loop_keeps_new_bots_out_and_lets_them_in_again(tmp_path: Path) -> None:
    (tmp_path / "hog.py").write_text(HOG)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", os.getcwd())])
    flags = ("--agent", "hog:agent", "--max-lag-percent", "25", "--watchdog-ms", "60")
    written = bytearray()
    async with running(*flags, PYTHONPATH=path) as bridge, trio.open_nursery() as nursery:
        nursery.start_soon(keep, bridge.process, written)  # a full pipe would block the loop
        control = await join(bridge.port, "/hog/bridge", "hog")
        assert (await control.read())[0] == TEXT  # the ack
        answer = await until_ready_says(bridge.port, 503)
        body = json.loads(answer.body)
        assert (body["reason"], body["status"]) == ("overloaded", "ok")
        assert body["lag_ms"] >= 25
        assert (await ask(bridge.port, "/health")).status == 200

        refused = await ask_upgrade(bridge.port, "/new/bridge")
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        unknown = await join(bridge.port, "/bridge", "new")
        assert await unknown.close_code() == 1013
        audio = await join(bridge.port, "/hog/bridge/audio", "hog")
        assert (await audio.read())[0] == TEXT  # the ack: it is in
        again = await join(bridge.port, "/bridge", "hog")
        assert (await again.read())[0] == TEXT

        word = {"command": "usermsg", "message": "stop"}
        await again.send(frame(TEXT, json.dumps(word).encode()))
        await until_ready_says(bridge.port, 200)
        assert (await ask_upgrade(bridge.port, "/new/bridge")).status == 101
        for peer in (control, unknown, audio, again):
            await trio.aclose_forcefully(peer.stream)
        bridge.process.terminate()
        status = await bridge.process.wait()
    errors = written.decode()
    assert status == 0, errors
    lines = [json.loads(line) for line in errors.splitlines()]
    blocked = [line for line in lines if line["event"] == "event loop is blocked"]
    assert blocked
    assert {line["bot_id"] for line in blocked} == {"hog"}
    assert all("hog.py" in line["stack"] and " think < " in line["stack"] for line in blocked)
    names = [line["event"] for line in lines]
    assert names.count("overloaded: no new meetings") == 1
    assert names.count("no longer overloaded") == 1
    refusals = [line for line in lines if line["event"] == "new meeting refused"]
    assert {line["reason"] for line in refusals} == {"overloaded"}
