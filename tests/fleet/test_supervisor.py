"""The supervisor with workers that misbehave: small programs in place of ours."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.core.test_command_line import clean_environment, taken_port
from trio_bridge.address import Address
from trio_bridge.config import Settings
from trio_bridge.errors import SettingsError
from trio_bridge.fleet import supervisor as module
from trio_bridge.fleet.supervisor import FleetError, Supervisor

OPENING = """
import os, signal, socket, sys, time
line = socket.socket(fileno=int(os.environ["_TRIO_BRIDGE_LIFELINE"]))
size = int.from_bytes(line.recv(4), "big")
post = line.recv(size, socket.MSG_WAITALL)
"""
OBEDIENT = "line.send(b'+'); line.recv(100)"
DEAF = "line.send(b'+'); time.sleep(60)"
DEADLINE_S = 10.0


def fleet(program: str, *, workers: int = 2, port: int = 0) -> Supervisor:
    command = [sys.executable, "-S", "-E", "-c", OPENING + program]
    settings = Settings(port=port, workers=workers, close_s=0.1)
    return Supervisor(settings, command, clean_environment())


@asynccontextmanager
async def running(fleet: Supervisor) -> AsyncIterator[Address]:
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            address: Address = await nursery.start(fleet.run)
            yield address
            await fleet.stopped.wait()


async def run(fleet: Supervisor) -> None:
    with trio.fail_after(DEADLINE_S):
        await fleet.run()


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, object]]:
    return [vars(record) for record in caplog.records if record.getMessage() == name]


async def test_it_begins_when_all_are_ready_and_ends_when_all_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_bridge")
    supervisor = fleet(OBEDIENT, workers=3)
    async with running(supervisor) as address:
        assert address.port
        assert len(events(caplog, "worker ready")) == 3
        supervisor.stop(5.0)
    assert not events(caplog, "worker ended")
    assert not events(caplog, "worker killed")


async def test_a_worker_that_keeps_dying_is_started_ever_more_slowly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.03)
    supervisor = fleet("line.send(b'+'); time.sleep(.05); sys.exit(9)", workers=2)
    async with running(supervisor):
        while len(events(caplog, "worker ended")) < 8:
            await trio.testing.wait_all_tasks_blocked(0.01)
        supervisor.stop()
    ended = [line for line in events(caplog, "worker ended") if line["slot"] == 1]
    assert {line["exit_code"] for line in ended} == {9}
    assert [line["again_in_s"] for line in ended][:4] == [0.01, 0.02, 0.03, 0.03][: len(ended)]
    assert {line["levelname"] for line in ended} == {"WARNING"}


async def test_a_worker_that_lived_long_is_started_at_once_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "STEADY_S", 0.0)
    supervisor = fleet("line.send(b'+'); time.sleep(.05)")
    async with running(supervisor):
        while len(events(caplog, "worker ended")) < 4:
            await trio.testing.wait_all_tasks_blocked(0.01)
        supervisor.stop()
    assert {line["again_in_s"] for line in events(caplog, "worker ended")} == {0.01}


async def test_workers_that_do_not_end_in_time_are_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "END_S", 0.05)
    supervisor = fleet(DEAF)
    async with running(supervisor):
        supervisor.stop(0.05)
    assert {line["slot"] for line in events(caplog, "worker killed")} == {0, 1}


async def test_said_at_once_twice_they_are_killed(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = fleet(DEAF)
    async with running(supervisor):
        supervisor.stop(100.0)
        supervisor.stop()
        supervisor.stop()
    assert {line["slot"] for line in events(caplog, "worker killed")} == {0, 1}


@pytest.mark.parametrize("times", [1, 3])
async def test_it_can_be_stopped_while_it_starts(times: int) -> None:
    supervisor = fleet("line.recv(100)")  # never says that it is ready

    async def stop() -> None:
        await trio.testing.wait_all_tasks_blocked(0.01)
        for _ in range(times):
            supervisor.stop()

    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            await nursery.start(supervisor.run)
            await supervisor.stopped.wait()


@pytest.mark.parametrize(
    ("program", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", -9)]
)
async def test_a_worker_that_ends_before_it_is_ready_ends_the_start(
    program: str, code: int
) -> None:
    with pytest.raises(FleetError, match=f"exit code {code} before"):
        await run(fleet(program))


async def test_a_worker_that_is_not_ready_in_time_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "START_S", 0.05)
    with pytest.raises(FleetError):
        await run(fleet("time.sleep(60)"))
    assert events(caplog, "worker is not ready in time")


async def test_a_program_that_cannot_be_run_is_a_worker_that_ended(tmp_path: Path) -> None:
    supervisor = Supervisor(Settings(port=0, workers=2), [str(tmp_path / "gone")], {})
    with pytest.raises(FleetError, match="exit code 127 before"):
        await run(supervisor)


async def test_a_port_in_use_starts_no_worker() -> None:
    with taken_port() as port, pytest.raises(SettingsError, match="is in use"):
        await run(fleet("", port=port))


async def test_a_directory_too_deep_for_a_socket_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(SettingsError, match="set TMPDIR"):
        await run(fleet(""))
    assert os.listdir(deep) == []


async def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(workers: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "new_memory", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SettingsError, match=r"No space left.*set TMPDIR"):
        await run(fleet(OBEDIENT))
    assert os.listdir(tmp_path) == []


async def test_settings_that_do_not_fit_are_refused() -> None:
    settings = Settings(port=0, workers=2, token=("x" * 1_000_000,))
    supervisor = Supervisor(settings, [sys.executable, "-c", ""], {})
    with pytest.raises(SettingsError, match="too long"):
        await run(supervisor)
