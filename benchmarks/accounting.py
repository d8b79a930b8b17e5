"""What the kernel knows about a process: CPU time, memory, cores. Reads ``/proc`` only."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import attrs

_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Cores:
    """Where things run: the server alone on one core, everything else of ours on another."""

    server: int
    load: int

    @property
    def shared(self) -> bool:
        """There is one core only, so the latencies mean little."""
        return self.server == self.load


def choose_cores() -> Cores:
    """The last two cores that this process may use; the first one gets the interrupts."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(server=allowed[-1], load=allowed[-2] if len(allowed) > 1 else allowed[-1])


def family(pid: int) -> list[int]:
    """``pid`` and all its descendants, so that a server with workers is counted whole."""
    found = [pid]
    for one in found:
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            found.extend(int(child) for child in children.read_text().split())
    return found


def cpu_ns(pid: int) -> int:
    """Nanoseconds on a core, all threads and descendants, from the scheduler's accounting.

    Not ``times()``: that counts in ticks of 10 ms, and samples.
    """
    total = 0
    for one in family(pid):
        for stat in Path(f"/proc/{one}/task").glob("*/schedstat"):
            with contextlib.suppress(FileNotFoundError):  # the thread has just ended
                total += int(stat.read_text().split()[0])
    return total


def resident_kib(pid: int) -> int:
    """Resident memory in KiB, descendants included."""
    total = 0
    for one in family(pid):
        total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * _PAGE_KIB
    return total


def core_busy_ns(core: int) -> int:
    """Nanoseconds that ``core`` has been busy with anything, at tick resolution."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            ticks = [int(field) for field in fields]
            return (sum(ticks[:8]) - ticks[3] - ticks[4]) * _TICK_NS
    return 0


def machine() -> str:
    """One line about this computer."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} cores, Linux {os.uname().release}"
