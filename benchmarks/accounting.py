"""What the kernel knows about a process: CPU time, memory, cores. Reads ``/proc`` only."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Collection
from pathlib import Path

import attrs

_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Cores:
    """Where things run: the server alone on one core, everything else of ours on another."""

    server: int
    load: int
    spread: bool = False
    """The server may use both, for workers; the load generator shares them."""

    @property
    def shared(self) -> bool:
        """There is one core only, so the latencies mean little."""
        return self.server == self.load

    @property
    def servers(self) -> set[int]:
        """Where the server may run."""
        return self.loads | {self.server} if self.spread else {self.server}

    @property
    def loads(self) -> set[int]:
        """Where the load generator may run."""
        return {self.load, self.server} if self.spread else {self.load}


def choose_cores() -> Cores:
    """The last two cores that this process may use; the first one gets the interrupts."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(server=allowed[-1], load=allowed[-2] if len(allowed) > 1 else allowed[-1])


def family(pid: int) -> list[int]:
    """``pid`` and all its descendants, so that a server with workers is counted whole."""
    found = [pid]
    for one in found:
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # the thread has just ended
                found.extend(int(child) for child in children.read_text().split())
    return found


def cpu_ns(pid: int) -> int:
    """Nanoseconds on a core, all threads and descendants, from the scheduler's accounting.

    Not ``times()``: that counts in ticks of 10 ms, and samples.
    """
    return sum(cpu_ns_of_each(pid).values())


def cpu_ns_of_each(pid: int) -> dict[int, int]:
    """The same for ``pid`` and each of its descendants."""
    return {one: own_cpu_ns(one) for one in family(pid)}


def own_cpu_ns(pid: int) -> int:
    """The same of all threads of this process alone."""
    total = 0
    for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # the thread has just ended
            total += int(stat.read_text().split()[0])
    return total


def waited_ns(pid: int) -> int:
    """Nanoseconds that this process was ready to run and others had its core: 0 when alone.

    Not of its descendants: workers wait for one another.
    """
    total = 0
    for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # the thread has just ended
            total += int(stat.read_text().split()[1])
    return total


def resident_kib(pid: int) -> int:
    """Resident memory in KiB, descendants included."""
    total = 0
    for one in family(pid):
        with contextlib.suppress(OSError):  # it has just ended
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * _PAGE_KIB
    return total


def cores_busy_ns(cores: Collection[int]) -> int:
    """Nanoseconds that ``cores`` have been busy with anything, at tick resolution."""
    names = {f"cpu{core}" for core in cores}
    busy = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in names:
            ticks = [int(field) for field in fields]
            busy += (sum(ticks[:8]) - ticks[3] - ticks[4]) * _TICK_NS
    return busy


def raise_file_limit() -> None:
    """Room for a few thousand sockets, here and in the servers started from here."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8_192 if hard == resource.RLIM_INFINITY else min(8_192, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def machine() -> str:
    """One line about this computer."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} cores, Linux {os.uname().release}"
