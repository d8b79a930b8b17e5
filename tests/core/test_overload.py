"""A loop that an agent keeps busy, in a process of its own: who is let in, and what is said."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import trio

from tests.core.test_command_line import Answer, ask, ask_upgrade, running
from tests.edge.peers import TEXT, Peer, frame, head
from trio_bridge.simulator import Scenario, SpeakerPart, simulate

HOG = '''
import time
import trio
import trio_bridge as tb


def think(seconds):
    time.sleep(seconds)  # in the loop's thread: nothing else runs meanwhile


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
                think(0.05)
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


STUBBORN = """
import trio


async def agent(meeting):
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()
"""

NEIGHBOUR = """
import time
import trio
import trio_bridge as tb


async def agent(meeting: tb.Meeting) -> None:
    if meeting.bot_id == "hog":
        for _ in range(8):
            time.sleep(0.3)  # and nothing else runs meanwhile
            await trio.sleep(0.05)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(speak, meeting)
        async for _ in meeting.events(chunk_ms=20):
            pass


async def speak(meeting: tb.Meeting) -> None:
    async with meeting.turn() as turn:
        await turn.say([0.1] * 16_000 * 4, rate_hz=16_000)
"""


def environment(directory: Path, module: str, text: str) -> dict[str, str]:
    """Where ``python -m trio_bridge`` finds an agent of ours."""
    (directory / f"{module}.py").write_text(text)
    ours = os.environ.get("PYTHONPATH", os.getcwd())
    return {"PYTHONPATH": os.pathsep.join([str(directory), ours])}


async def until_ready_says(port: int, status: int) -> Answer:
    while True:
        answer = await ask(port, "/ready")
        if answer.status == status:
            return answer
        await trio.sleep(0.05)  # its caller has a deadline


async def test_a_busy_loop_keeps_new_bots_out_and_lets_them_in_again(tmp_path: Path) -> None:
    environ = environment(tmp_path, "hog", HOG)
    flags = (
        "--agent",
        "hog:agent",
        "--max-lag-percent",
        "12",
        "--watchdog-ms",
        "30",
        "--drain-s",
        "0",
    )
    written = bytearray()
    async with running(*flags, **environ) as bridge, trio.open_nursery() as nursery:
        nursery.start_soon(keep, bridge.process, written)  # a full pipe would block the loop
        control = await join(bridge.port, "/hog/bridge", "hog")
        assert (await control.read())[0] == TEXT  # the ack
        answer = await until_ready_says(bridge.port, 503)
        body = json.loads(answer.body)
        assert (body["reason"], body["status"]) == ("overloaded", "ok")
        assert body["lag_ms"] >= 12
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


async def test_beside_an_agent_that_blocks_the_loop_nothing_is_lost_and_speech_has_no_gap(
    tmp_path: Path,
) -> None:
    """Blocked for less than the lead, again and again, in the middle of the other's speech."""
    environ = environment(tmp_path, "blocking", NEIGHBOUR)
    written = bytearray()
    flags = ("--agent", "blocking:agent", "--max-lag-percent", "0", "--drain-s", "0")
    lead = ("--lead-ms", "1000", "--audio-backlog-ms", "2000")  # a slow machine has its share
    async with running(*flags, *lead, **environ) as bridge, trio.open_nursery() as nursery:
        nursery.start_soon(keep, bridge.process, written)
        hogs: list[Peer] = []

        async def disturb() -> None:
            await trio.sleep(1.0)
            hogs.append(await join(bridge.port, "/bridge", "hog"))

        nursery.start_soon(disturb)
        alice = SpeakerPart("Alice", "a", np.full(48_000 * 4, 0.001, np.float32), 0.0)
        url = f"ws://127.0.0.1:{bridge.port}"
        report = await simulate(
            Scenario(url=url, bot_id="good", duration_s=5.0, speakers=(alice,))
        )
        await trio.aclose_forcefully(hogs[0].stream)
        bridge.process.terminate()
        assert await bridge.process.wait() == 0
    lines = [json.loads(line) for line in written.decode().splitlines()]
    (ended,) = [
        line for line in lines if line["event"] == "meeting ended" and line["bot_id"] == "good"
    ]
    assert ended["received_s"] >= 4.0
    assert (ended["dropped_s"], ended["ledger"], ended["starved"]) == (0, "balanced", 0)
    assert (report.gaps.count, report.heard_s) == (0, 4.0)


async def test_a_process_ends_though_an_agent_refuses_to(tmp_path: Path) -> None:
    environ = environment(tmp_path, "stubborn", STUBBORN)
    flags = ("--drain-s", "0.1", "--wrap-up-s", "0.1", "--teardown-s", "0.2")
    async with running("--agent", "stubborn:agent", *flags, **environ) as bridge:
        control = await join(bridge.port, "/bridge", "b")
        assert (await control.read())[0] == TEXT  # the ack
        bridge.process.terminate()
        status, errors = await bridge.ends()
        await trio.aclose_forcefully(control.stream)
    lines = [json.loads(line) for line in errors.splitlines()]
    names = [line["event"] for line in lines]
    assert status == 1, errors
    assert "meeting would not stop" in names
    assert names[-1] == "exit without what would not stop"
