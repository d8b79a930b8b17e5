"""A bridge in a process of its own: started, looked at from outside, read in its log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import trio

from benchmarks.accounting import Cores, choose_cores, resident_kib
from benchmarks.wsclient import TEXT, Link, masked
from tests.chaos.marks import BOTS_VARIABLE, FILE_VARIABLE, Notes
from tests.core.test_command_line import ask

ROOT = Path(__file__).parents[2]
FLAGS = ("--agent", "tests.chaos.agents:attend", "--log-format", "json", "--port", "0")
SHORT_TIMES = (
    "--grace-s", "1", "--hello-s", "2", "--wrap-up-s", "0.3", "--teardown-s", "1",
    "--drain-s", "1",
)  # fmt: skip
"""So that a lost meeting is gone within the five seconds in which everything must be."""
END_S = 10.0
PROBE = "probe-0"
ANSWER_S = 5.0


@attrs.frozen
class Counts:
    """What is alive in the bridge. The probe's own share is in each of them."""

    meetings: int
    fds: int
    threads: int
    tasks: int


class ChaosError(Exception):
    """The bridge did what it must not, in one line."""


@attrs.define(eq=False)
class Bridge:
    """A running ``python -m trio_bridge``."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    records: list[dict[str, Any]] = attrs.field(factory=list)
    """The lines of its log so far, see `read_log`."""
    _read_bytes: int = attrs.field(default=0, init=False)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def fds(self) -> int:
        """Descriptors open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    @property
    def resident_kib(self) -> int:
        return resident_kib(self.pid)

    def read_log(self) -> list[dict[str, Any]]:
        """Read on; returns the new lines. What is no JSON is an event at ERROR."""
        with self.log.open("rb") as file:
            file.seek(self._read_bytes)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        new = [_record(line) for line in whole.decode(errors="replace").splitlines()]
        self.records += new
        return new

    def blocked_near(self, at_s: float) -> list[tuple[int, str]]:
        """What its watchdog saw within a second of ``at_s``, of CLOCK_MONOTONIC: for how many
        ms the loop had been blocked by then, and where."""
        wall_s = time.time() - time.monotonic() + at_s
        seen = [r for r in self.records if r.get("event") == "event loop is blocked"]
        return [
            (r["blocked_ms"], str(r.get("stack")).partition(" < ")[0])
            for r in seen
            if abs(datetime.fromisoformat(r["time"]).timestamp() - wall_s) < 1
        ]

    def terminate(self) -> None:
        """SIGTERM."""
        self.process.terminate()


def _record(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if isinstance(record, dict):
        return record
    return {"event": "not a log line", "level": "ERROR", "text": line}


class Probe:
    """A meeting whose agent counts what is alive around it; asked without Trio."""

    def __init__(self, port: int) -> None:
        hello = json.dumps({"type": "ready", "bot_id": PROBE})
        self._answers: list[dict[str, int]] = []
        self._link = Link(port, "/bridge", hello, None, self._hear)

    def ask(self, *, collect: bool = False) -> dict[str, int]:
        """``tasks``, ``threads``, and with ``collect`` the ``objects`` that are no garbage.

        Takes a few ms.

        Raises:
            ChaosError: no answer in `ANSWER_S`.
            LinkError: the bridge ended the socket.
        """
        self._answers.clear()
        text = "collect" if collect else "count"
        message = json.dumps({"command": "usermsg", "message": text})
        self._link.send(masked(TEXT, message.encode()))
        self._link.socket.settimeout(ANSWER_S)
        until_s = time.monotonic() + ANSWER_S
        while not self._answers and time.monotonic() < until_s:
            self._link.drain()
        self._link.socket.setblocking(False)
        if not self._answers:
            raise ChaosError("the probe's agent does not answer")
        return self._answers[-1]

    def close(self) -> None:
        """Leave without a word."""
        self._link.socket.close()

    def _hear(self, message: bytes) -> None:
        fields = json.loads(message)
        if fields.get("command") == "sendmsg":
            self._answers.append(json.loads(fields["message"]))


@contextmanager
def running_bridge(
    directory: Path, bots: int, *flags: str, cores: Cores | None = None
) -> Iterator[Bridge]:
    """A bridge for ``bots`` neighbours, on a core of its own where there are two.

    Its log is in ``directory``; at the end it is told SIGTERM, if it was not before.

    Raises:
        ChaosError: it did not start, or did not end well.
    """
    notes, log = directory / "heard", directory / "bridge.log"
    Notes(notes, max(1, bots), make=True)
    cores = cores or choose_cores()
    command = [sys.executable, "-m", "trio_bridge", *FLAGS, *SHORT_TIMES, *flags]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TRIO_BRIDGE_")}
    places = {FILE_VARIABLE: str(notes), BOTS_VARIABLE: str(bots), "PYTHONWARNINGS": "error"}
    ours = os.sched_getaffinity(0)
    with log.open("wb") as errors:
        # A child inherits its parent's cores from its first instruction on, threads included.
        os.sched_setaffinity(0, cores.servers)
        try:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors,
                env={**inherited, **places},
            )  # fmt: skip
        finally:
            os.sched_setaffinity(0, ours)
    assert process.stdout is not None
    try:
        first = process.stdout.readline().decode().strip()
        port = first.rpartition(":")[2]
        if not port.isdigit():
            raise ChaosError(f"the bridge did not start: {first} {log.read_text()[-2000:]}")
        yield Bridge(process, int(port), log)
        process.terminate()
        status = process.wait(END_S)
        if status:
            raise ChaosError(f"the bridge ended with status {status}")
    except subprocess.TimeoutExpired:
        raise ChaosError(f"the bridge did not end within {END_S:g} s of SIGTERM") from None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def count(bridge: Bridge, probe: Probe) -> Counts:
    """What is alive. The meetings come last: the connection that asks for them is a task and a
    descriptor there, for a moment longer than here."""
    tasks, fds, threads = probe.ask()["tasks"], bridge.fds, bridge.threads
    state = json.loads((await ask(bridge.port, "/health")).body)
    return Counts(state["meetings"], fds, threads, tasks)


async def count_at_rest(bridge: Bridge, probe: Probe) -> Counts:
    """The first count that stays for a second: what the start leaves behind takes a while, and
    a ping that waits for its pong is a task, too."""
    same: list[Counts] = []
    for _ in range(20):
        counts = await count(bridge, probe)
        same = [*same, counts] if counts in same else [counts]
        if len(same) == 4:
            return counts
        await trio.sleep(0.35)
    raise ChaosError(f"the bridge does not come to rest before anything happens: {same[-1]}")


@attrs.define(eq=False)
class Child:
    """A process that talks to the bridge, writes lines and leaves when its stdin ends."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, module: str, *arguments: object, cores: Cores | None = None) -> Child:
        """``python -m MODULE ARGUMENTS`` from this checkout."""
        ours, cores = os.sched_getaffinity(0), cores or choose_cores()
        os.sched_setaffinity(0, cores.loads)
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *(str(one) for one in arguments)],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        finally:
            os.sched_setaffinity(0, ours)
        return cls(process)

    def says(self, line: str) -> None:
        """Wait for ``line``.

        Raises:
            ChaosError: it said something else, or ended.
        """
        assert self.process.stdout is not None
        said = self.process.stdout.readline().strip()
        if said != line:
            raise ChaosError(f"expected {line!r} from a child, got {said!r}")

    def tell(self, line: str) -> None:
        """Write ``line`` to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def leave(self) -> dict[str, Any]:
        """End its stdin; its report.

        Raises:
            ChaosError: it had none.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        last = self.process.stdout.read().strip().rpartition("\n")[2]
        self.process.wait(END_S)
        try:
            report: dict[str, Any] = json.loads(last)
        except ValueError as exc:
            raise ChaosError(f"a child ended without a report: {last!r}") from exc
        return report

    def kill(self) -> None:
        """At once, and without a word if it has ended."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not flushed has nobody to go to
                    pipe.close()
