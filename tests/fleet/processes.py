"""Fleets of real processes, and what they log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from tests.core.test_command_line import (
    DEADLINE_S,
    FIRST_LINE,
    Running,
    ask,
    clean_environment,
)
from tests.edge.peers import Loopback


@attrs.define(eq=False)
class Fleet:
    """A running fleet and what it has logged so far."""

    running: Running
    log: str = ""
    net: Loopback = attrs.field(factory=lambda: Loopback(0))
    pids: list[int] = attrs.field(factory=list)
    """Of the workers, by slot."""

    async def logs(self, event: str, times: int = 1) -> None:
        """Read on until there are so many lines of ``event``, and to the end of the last."""
        while len(self.events(event)) < times:
            self.log += await self.running.reads_errors_until("\n")

    async def ends(self) -> int:
        status, rest = await self.running.ends()
        self.log += rest
        return status

    def events(self, name: str) -> list[dict[str, Any]]:
        whole = self.log[: self.log.rfind("\n") + 1]
        strange = [line for line in whole.splitlines() if not line.startswith("{")]
        assert not strange, f"no log lines: {strange}"
        lines = [json.loads(line) for line in whole.splitlines()]
        return [line for line in lines if line["event"] == name]

    async def health(self) -> dict[str, Any]:
        answer = await ask(self.net.port, "/health")
        assert answer.status == 200
        state: dict[str, Any] = json.loads(answer.body)
        return state


@asynccontextmanager
async def fleet_of(
    workers: int,
    *arguments: str,
    program: tuple[str, ...] = ("-m", "trio_bridge", "--agent", "echo"),
    **environ: str,
) -> AsyncIterator[Fleet]:
    """A fleet of real processes; none of them is left at the end."""
    with trio.fail_after(DEADLINE_S):
        process = await trio.lowlevel.open_process(
            [sys.executable, *program, "--port", "0", "--workers", str(workers), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(**environ),
        )
        fleet = Fleet(Running(process))
        try:
            match = FIRST_LINE.fullmatch(await fleet.running.read_first_line())
            assert match is not None, fleet.running.output
            fleet.net.port = int(match[2])
            await fleet.logs("fleet listening")
            pids = {line["slot"]: line["pid"] for line in fleet.events("worker ready")}
            fleet.pids = [pids[slot] for slot in range(workers)]
            yield fleet
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                for peer in fleet.net.peers:
                    await trio.aclose_forcefully(peer.stream)
                await process.wait()
                for pipe in (process.stdout, process.stderr):
                    assert pipe is not None
                    await pipe.aclose()
                for pid in fleet.pids:
                    await gone(pid)


async def run_program(
    *arguments: str, stdin: bytes = b"", **environ: str
) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(DEADLINE_S):
        return await trio.run_process(
            [sys.executable, *arguments],
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=clean_environment(**environ),
        )


async def gone(pid: int) -> None:
    """Wait for the end of a process that is not ours to wait for."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
