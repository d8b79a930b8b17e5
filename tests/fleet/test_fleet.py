"""``--workers N`` as an operator meets it: real processes, one port, signals and a kill -9."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import pytest
import trio

from tests.core.rooms import tone
from tests.core.test_command_line import ask
from tests.edge.peers import CLOSE, Loopback, close_payload, frame
from tests.fleet.bots import Bot, bots_of, chat, leave, sound
from tests.fleet.processes import fleet_of, gone, run_program
from trio_bridge.fleet.places import SLACK, STALE_S
from trio_bridge.fleet.siblings import ASK_S
from trio_bridge.simulator import Report, Scenario, SpeakerPart, simulate


async def test_both_sockets_of_a_bot_meet_in_one_worker_and_not_a_frame_is_lost() -> None:
    ids = [*bots_of(0, 10), *bots_of(1, 10)]

    async def meet(net: Loopback, bot_id: str, in_path: bool) -> None:
        bot = Bot(net, bot_id, in_path)
        control = await bot.open("control")
        audio = await bot.open("audio", sound(7))  # in the very packet of head and hello
        await audio.send(sound(30))
        assert await chat(control, f"I am {bot_id}") == f"I am {bot_id}"
        await leave(audio)
        await leave(control)

    async with fleet_of(2) as fleet:
        async with trio.open_nursery() as nursery:
            for n, bot_id in enumerate(ids):
                nursery.start_soon(meet, fleet.net, bot_id, bool(n % 2))
        health = await fleet.health()
        fleet.running.process.send_signal(signal.SIGTERM)
        assert await fleet.ends() == 0, fleet.log
    assert health["meetings_begun"] == 20
    joined = {(line["bot_id"], line["worker"]) for line in fleet.events("channel joined")}
    assert len(joined) == 20
    assert {bot_id for bot_id, _ in joined} == set(ids)
    assert {worker for _, worker in joined} == {0, 1}
    ended = fleet.events("meeting ended")
    assert len(ended) == 20
    for line in ended:
        assert (line["frames"], line["received_s"]) == (37, 0.74), line
        assert line["ledger"] == "balanced"
    assert "Traceback" not in fleet.log


async def test_new_meetings_go_to_the_emptier_worker_and_come_back_to_their_own() -> None:
    """Ids that would all be one worker's, as chance has it for a few."""
    async with fleet_of(2, "--drain-s", "0") as fleet:
        bots = [Bot(fleet.net, bot_id) for bot_id in bots_of(0, 10)]
        audio = [await bot.open("audio") for bot in bots]
        control = [await bot.open("control") for bot in bots]
        health = await fleet.health()
        for peer in audio:  # a bot that reconnects finds its meeting, wherever that is
            await trio.aclose_forcefully(peer.stream)
        audio = [await bot.open("audio", sound(3)) for bot in bots]
        again = await fleet.health()
        for peer in (*audio, *control):
            await leave(peer)
        fleet.running.process.send_signal(signal.SIGTERM)
        assert await fleet.ends() == 0, fleet.log
    for seen in (health, again):
        begun = [worker["meetings_begun"] for worker in seen["workers"]]
        assert sum(begun) == 10
        assert abs(begun[0] - begun[1]) <= SLACK + 1, begun
    assert [line["frames"] for line in fleet.events("meeting ended")] == [3] * 10


async def test_both_workers_hear_and_speak() -> None:
    """The echo of a spoken sentence, by the simulator, for a bot of each worker."""
    sentence = SpeakerPart("Alice", "u1", tone(0.4), 0.1)
    reports: list[Report] = []

    async def meet(scenario: Scenario) -> None:
        reports.append(await simulate(scenario))

    async with fleet_of(2, "--end-of-turn-ms", "200") as fleet:
        url = f"ws://127.0.0.1:{fleet.net.port}"
        async with trio.open_nursery() as nursery:
            for bot_id in (*bots_of(0, 1), *bots_of(1, 1)):
                scenario = Scenario(
                    url=url, bot_id=bot_id, speakers=(sentence,), tail_s=1.0, duration_s=1.6
                )
                nursery.start_soon(meet, scenario)
        fleet.running.process.send_signal(signal.SIGTERM)
        assert await fleet.ends() == 0, fleet.log
    assert {line["worker"] for line in fleet.events("echoed")} == {0, 1}
    for report in reports:
        assert not report.faults
        assert report.heard_s > 0.3


async def test_a_killed_worker_takes_only_its_own_bots_and_they_may_come_back() -> None:
    (lost,), (kept,) = bots_of(0, 1), bots_of(1, 1)
    async with fleet_of(2, "--drain-s", "0") as fleet:
        lost_control = await Bot(fleet.net, lost).open("control")
        kept_control = await Bot(fleet.net, kept).open("control")
        kept_audio = await Bot(fleet.net, kept).open("audio", sound(5))
        os.kill(fleet.pids[0], signal.SIGKILL)
        assert await lost_control.at_end()
        assert await chat(kept_control, "still here") == "still here"
        await fleet.logs("worker ended")  # none is ready again: its bots need not wait for it
        returned = await Bot(fleet.net, lost).open("control")
        assert await chat(returned, "back") == "back"
        again_audio = await Bot(fleet.net, lost).open("audio", sound(7))
        await kept_audio.send(sound(5))
        health = await fleet.health()
        for peer in (returned, again_audio, kept_audio, kept_control):
            await leave(peer)
        fleet.running.process.send_signal(signal.SIGTERM)
        assert await fleet.ends() == 0, fleet.log
    assert (health["status"], health["meetings"]) == ("ok", 2)
    warnings = [line for line in fleet.events("worker ended") if line["level"] == "WARNING"]
    assert [(line["slot"], line["exit_code"]) for line in warnings] == [(0, -9)]
    ended = {line["bot_id"]: line["frames"] for line in fleet.events("meeting ended")}
    assert ended == {kept: 10, lost: 7}


async def test_a_worker_that_hangs_is_reported_and_new_bots_go_to_the_others() -> None:
    async with fleet_of(2, "--drain-s", "0") as fleet:
        os.kill(fleet.pids[0], signal.SIGSTOP)
        try:
            for _ in range(math.ceil(STALE_S / ASK_S) + 1):  # each waits so long for its answer
                health = await fleet.health()
            bots = [await Bot(fleet.net, bot_id).open("control") for bot_id in bots_of(0, 5)]
            assert await chat(bots[-1], "hello") == "hello"
        finally:
            os.kill(fleet.pids[0], signal.SIGCONT)
        fleet.running.process.send_signal(signal.SIGTERM)
        assert await fleet.ends() == 0, fleet.log
    assert health["status"] == "degraded"
    assert health["workers"][0] == {"slot": 0, "status": "no answer"}
    assert health["workers"][1]["status"] == "ok"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_no_worker_outlives_its_supervisor(
    number: signal.Signals, tmp_path: Path
) -> None:
    async with fleet_of(3, "--drain-s", "0.1", TMPDIR=str(tmp_path)) as fleet:
        assert len(os.listdir(tmp_path)) == 1
        (bot_id,) = bots_of(1, 1, workers=3)
        control = await Bot(fleet.net, bot_id).open("control")
        fleet.running.process.send_signal(number)
        assert await control.close_code() == 1001
        await control.send(frame(CLOSE, close_payload(1001)))
        status = await fleet.ends()
        for pid in fleet.pids:
            await gone(pid)
    assert status == (0 if number != signal.SIGKILL else -number)
    assert os.listdir(tmp_path) == []
    assert "Traceback" not in fleet.log


async def test_a_second_signal_ends_the_meetings_that_the_first_one_let_be() -> None:
    async with fleet_of(2, "--drain-s", "600") as fleet:
        control = await Bot(fleet.net, bots_of(1, 1)[0]).open("control")
        fleet.running.process.send_signal(signal.SIGTERM)
        await fleet.logs("draining", 2)
        assert (await ask(fleet.net.port, "/ready")).status == 503
        assert await chat(control, "still talking") == "still talking"
        fleet.running.process.send_signal(signal.SIGTERM)
        assert await control.close_code() == 1001
        await control.send(frame(CLOSE, close_payload(1001)))
        assert await fleet.ends() == 0, fleet.log


async def test_a_script_that_ends_with_run_has_workers_too() -> None:
    script = Path(__file__).parents[2] / "examples" / "ten_lines.py"
    async with fleet_of(2, "--drain-s", "0", program=(str(script),)) as fleet:
        for slot in (0, 1):
            control = await Bot(fleet.net, bots_of(slot, 1)[0]).open("control")
            assert await chat(control, "hello") == "you wrote: hello"
            await leave(control)
        health = await fleet.health()
        fleet.running.process.send_signal(signal.SIGTERM)
        assert await fleet.ends() == 0, fleet.log
    assert [worker["meetings_begun"] for worker in health["workers"]] == [1, 1]


async def test_a_worker_that_cannot_start_ends_the_fleet_with_one_line(tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text(
        "import os, sys, trio_bridge as tb\n"
        "if '_TRIO_BRIDGE_LIFELINE' in os.environ: sys.exit(7)\n"
        "async def agent(meeting): pass\n"
        "tb.run(agent)\n"
    )
    ended = await run_program(
        str(script), "--port", "0", "--workers", "2", "--log-level", "error"
    )
    text = ended.stderr.decode()
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert "exit code 7 before all were ready" in text
    assert len(text.splitlines()) == 1


async def test_a_program_that_cannot_be_started_again_is_told_so() -> None:
    program = b"import trio_bridge as tb\nasync def agent(meeting): pass\ntb.run(agent)\n"
    ended = await run_program("-", "--port", "0", "--workers", "2", stdin=program)
    assert ended.returncode == 2
    assert b"not in a file" in ended.stderr
