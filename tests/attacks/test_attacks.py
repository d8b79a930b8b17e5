"""Every attack of the table against ``python -m trio_bridge``, with a live meeting beside it.

All of them run once, at the same time, each from an address of its own: 127.0.n.m, because a
limit for one address must not be what saves the others. So this is Linux only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.attacks.client import Attack, attack_once, hello
from tests.attacks.neighbour import BOT_ID, FRAME_S, Neighbour
from tests.attacks.table import ATTACKS
from tests.core.test_command_line import clean_environment
from tests.edge.peers import CLOSE, TEXT, Peer, close_payload, frame, head
from trio_bridge.log import printable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and 127.0.n.m")

DEADLINE_S = 60.0
"""All of it; 25 s are usual."""
BASELINE_S = 8.0
"""In which all that the attacks held must be gone: the grace, a stalled write, a linger."""
AT_ONCE = 24
"""Attacks; what waits for a deadline does not count."""
FILES = 20
"""Descriptors of a quiet bridge with one meeting; 13 are usual."""
MEMORY_MIB = 64
"""By which the process may have grown: the largest messages, twice, and what malloc keeps."""


@attrs.define(eq=False)
class Outcome:
    """What is known when all attacks are over."""

    failures: dict[str, str] = attrs.field(factory=dict)
    """Attacks that did not get what they must, or after which nobody else was served."""
    neighbour: Neighbour | None = None
    status: int | None = None
    """The bridge's exit status after SIGTERM."""
    log: list[str] = attrs.field(factory=list)
    written: list[str] = attrs.field(factory=list)
    """Files in its working directory."""
    files: tuple[int, int] = (0, 0)
    """Open descriptors of the process before and after."""
    memory_mib: tuple[float, float] = (0, 0)
    meetings: int = -1
    """That were on when only the neighbour's should have been."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log]


@attrs.define(eq=False)
class Bridge:
    """A bridge in a process of its own, started for this."""

    process: trio.Process
    port: int

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory_mib(self) -> float:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("it is gone")

    async def dial(self, address: str) -> Peer:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port, local_address=address)
        return Peer(stream)

    async def meetings(self) -> int:
        """Ask over HTTP how many meetings are on."""
        peer = await self.dial("127.0.0.1")
        async with peer.stream:
            await peer.send(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            status, _, body = await peer.answer()
            assert status == 200
            return int(json.loads(body)["meetings"])

    async def serves_a_bot(self, address: str, bot_id: str) -> None:
        """A stranger's connection of the ordinary kind, from the same address."""
        peer = await self.dial(address)
        async with peer.stream:
            await peer.upgrade(head(target=b"/bridge"))
            await peer.send(hello(bot_id))
            opcode, payload = await peer.read()
            assert opcode == TEXT
            assert b'"ack"' in payload
            await peer.send(frame(CLOSE, close_payload(1000)))
            assert await peer.close_code() == 1000


@asynccontextmanager
async def bridge(directory: Path, log: Path) -> AsyncIterator[Bridge]:
    arguments = ["--port", "0", "--agent", "echo", "--log-format", "json"]
    arguments += ["--hello-s", "2", "--grace-s", "1", "--drain-s", "0"]
    # A second in which the machine gives us nothing is not an attack's doing.
    arguments += ["--audio-backlog-ms", "1000"]
    environment = clean_environment()
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    with log.open("wb") as errors:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "trio_bridge", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            cwd=directory,
        )
    assert process.stdout is not None
    try:
        output = b""
        while output.count(b"\n") < 2:
            data = await process.stdout.receive_some()
            assert data, "it ended without a word"
            output += data
        yield Bridge(process, int(output.split(b"\n")[0].rpartition(b":")[2]))
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            await process.stdout.aclose()


async def run_all(attacks: list[Attack], directory: Path, log: Path) -> Outcome:
    outcome = Outcome()
    with trio.fail_after(DEADLINE_S):
        async with bridge(directory, log) as server, trio.open_nursery() as nursery:
            await server.serves_a_bot("127.0.0.1", "warms up")
            control, audio = await server.dial("127.0.0.1"), await server.dial("127.0.0.1")
            neighbour = outcome.neighbour = Neighbour(control, audio)
            await nursery.start(neighbour.live)
            await settled(server, FILES)
            files, memory_mib = server.files(), server.memory_mib()
            limit = trio.CapacityLimiter(AT_ONCE)
            async with trio.open_nursery() as attackers:
                for number, attack in enumerate(attacks, 1):
                    address = f"127.0.{1 + number // 250}.{1 + number % 250}"
                    attackers.start_soon(play, attack, server, address, limit, outcome)
            outcome.meetings = await settled(server, files)
            outcome.files = files, server.files()
            outcome.memory_mib = memory_mib, server.memory_mib()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True), trio.fail_after(5):
                await neighbour.leave()
                while await server.meetings():  # noqa: ASYNC110 - another process's doing
                    await trio.sleep(0.05)
                server.process.send_signal(signal.SIGTERM)
                outcome.status = await server.process.wait()
    return outcome


async def play(
    attack: Attack, server: Bridge, address: str, limit: trio.CapacityLimiter, outcome: Outcome
) -> None:
    async with limit if attack.expected.within_s <= 5 else trio.CapacityLimiter(1):
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(attack.times):
                    nursery.start_soon(attack_once, attack, server.port, address)
            await serves_again(server, address, f"after {attack.name}")
        except* Exception as failures:
            leaf: BaseException = failures
            while isinstance(leaf, BaseExceptionGroup):
                leaf = leaf.exceptions[0]
            outcome.failures[attack.name] = f"{type(leaf).__name__}: {leaf}"


async def serves_again(server: Bridge, address: str, bot_id: str) -> None:
    """A bot is served: now, or as soon as the attack's connections count no more."""
    with trio.fail_after(5):
        while True:
            try:
                await server.serves_a_bot(address, bot_id)
            except (trio.BrokenResourceError, EOFError):  # as good as over the cap
                await trio.sleep(0.1)
            else:
                return


async def settled(server: Bridge, files: int) -> int:
    """Wait until one meeting is on and at most ``files`` descriptors are open; how many
    meetings there were when that was so, or time was up."""
    meetings = -1
    with trio.move_on_after(BASELINE_S):
        while (  # noqa: ASYNC110 - another process's doing
            meetings := await server.meetings()
        ) != 1 or server.files() > files:
            await trio.sleep(0.1)
    return meetings


@pytest.fixture(scope="module")
def outcome(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    """All attacks that this run asks for, over; the neighbour has left in peace."""
    chosen = {
        item.callspec.id
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module is request.module
        and hasattr(item, "callspec")
    }
    attacks = [attack for attack in ATTACKS if attack.name in chosen or not chosen]
    directory = tmp_path_factory.mktemp("cwd")
    log = tmp_path_factory.mktemp("log") / "stderr"
    outcome = trio.run(run_all, attacks, directory, log)
    outcome.log = log.read_text().splitlines()
    outcome.written = sorted(os.listdir(directory))
    return outcome


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_gets_what_it_must_and_others_are_served_after_it(
    attack: Attack, outcome: Outcome
) -> None:
    failure = outcome.failures.get(attack.name)
    assert failure is None, failure


def test_the_meeting_beside_them_lost_nothing(outcome: Outcome) -> None:
    neighbour = outcome.neighbour
    assert neighbour is not None
    (end,) = [
        line
        for line in outcome.lines
        if line["event"] == "meeting ended" and line["bot_id"] == BOT_ID
    ]
    sent_s = round(neighbour.sent_frames * FRAME_S, 3)
    assert neighbour.sent_frames > 100
    assert (end["frames"], end["received_s"]) == (neighbour.sent_frames, sent_s)
    assert (end["dropped_s"], end["rejected"], end["flawed"]) == (0, {}, {})
    assert end["delivered_s"] + end["unheard_s"] == pytest.approx(end["mixed_s"], abs=0.002)
    assert end["ledger"] == "balanced"
    assert (end["code"], end["reason"]) == (1000, "the bot left")


def test_the_meeting_beside_them_was_answered_all_the_time(outcome: Outcome) -> None:
    neighbour = outcome.neighbour
    assert neighbour is not None
    assert neighbour.answered >= 3
    assert neighbour.asked - neighbour.answered <= 1
    assert neighbour.spoken >= 3


def test_nothing_of_the_attacks_is_left(outcome: Outcome) -> None:
    assert outcome.meetings == 1, "the neighbour's"
    before, after = outcome.files
    assert after <= before
    assert outcome.memory_mib[1] - outcome.memory_mib[0] < MEMORY_MIB


def test_the_bridge_ended_when_it_was_told_to_and_not_before(outcome: Outcome) -> None:
    assert outcome.status == 0


def test_every_line_of_the_log_is_safe_and_none_an_error(outcome: Outcome) -> None:
    for line in outcome.log:
        assert printable(line) == line
        assert len(line) < 10_000
    grave = [line for line in outcome.lines if line["level"] in ("ERROR", "CRITICAL")]
    assert grave == []
    assert not any("exception" in line for line in outcome.lines)


def test_no_file_was_written(outcome: Outcome) -> None:
    assert outcome.written == []
