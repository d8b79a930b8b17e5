"""From exec to the first line on stdout: how soon each server says where it listens."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.accounting import Cores
from benchmarks.servers import OURS, Candidate, running
from benchmarks.stamps import FILE_VARIABLE, make_stamp_file

STARTS = 5
"""After one more that is not counted: it reads files that the others find in memory."""
PRODUCT = Candidate(OURS, ("trio_bridge", "--port", "0"))
"""As a user starts it, with the default agent."""


def measure_startup(candidates: Sequence[Candidate], cores: Cores) -> dict[str, list[float]]:
    """Seconds of each start by server, alternating, so that no slow minute hits one server.

    Raises:
        ServerError: one did not start.
    """
    found: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    with tempfile.TemporaryDirectory() as directory:
        stamps = Path(directory) / "stamps"
        make_stamp_file(stamps, 1)
        for round_ in range(-1, STARTS):
            for candidate in candidates:
                with running(candidate, cores, {FILE_VARIABLE: str(stamps)}) as server:
                    if round_ >= 0:
                        found[candidate.name].append(server.listening_s)
    return found


def startup_section(found: Mapping[str, Sequence[float]]) -> list[str]:
    """Lines of Markdown."""
    lines = [
        "## Start-up",
        "",
        f"Seconds from just before exec to the first line on stdout, {STARTS} starts each. "
        "trio_bridge with its default agent, and listening by then; the others have their "
        "socket open, but their framework begins to accept only after the line.",
        "",
        "| server | median s | fastest s | slowest s |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, starts_s in found.items():
        middle = statistics.median(starts_s)
        lines.append(f"| {name} | {middle:.2f} | {min(starts_s):.2f} | {max(starts_s):.2f} |")
    return [*lines, ""]
