"""``python -m benchmarks``: measure everything and write RESULTS.md; ``--quick``: ratios only.

Exit status 1 only when trio_bridge itself did not run; never for a time.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import importlib.util
import itertools
import os
import platform
import resource
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs

from benchmarks.accounting import Cores, choose_cores, machine
from benchmarks.plot import line_plot
from benchmarks.report import About, progress, quick_table, to_markdown
from benchmarks.results import Figures, Results
from benchmarks.rows import FULL, QUICK, SCALE, Row
from benchmarks.servers import (
    OURS,
    Candidate,
    ServerError,
    Tls,
    make_certificate,
    ours,
    peers,
    setting_exists,
)
from benchmarks.trial import run_trial
from benchmarks.wsclient import LinkError

PACKAGES = (
    "trio-bridge", "trio", "trio-websocket", "fastapi", "uvicorn", "uvloop", "websockets",
    "aiohttp", "picows", "soxr", "numpy",
)  # fmt: skip
TRIES = 3
"""Of a trial that others disturbed."""
TICK = ("trio_bridge, 2 ms tick", ("--audio-tick-ms", "2"))
"""The setting for throughput, measured beside the default one."""


@attrs.frozen
class Plan:
    """What to run, and how long."""

    rows: tuple[Row, ...]
    ours: tuple[Candidate, ...]
    peers: tuple[Candidate, ...]
    rounds: int
    warm_up_s: float
    window_s: float
    tries: int


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; returns the exit status."""
    arguments = _arguments(argv)
    plan = _plan(arguments)
    cores = choose_cores()
    _raise_file_limit()
    os.sched_setaffinity(0, {cores.load})
    results = Results()
    with tempfile.TemporaryDirectory() as directory:
        tls = make_certificate(Path(directory))
        # Rounds outermost: what a machine does for minutes at a time does not hit one row.
        for round_, row in itertools.product(range(plan.rounds), plan.rows):
            _run_row(plan, row, round_, cores, tls, results)
            if not arguments.quick:  # each time, so that a run cut short is not lost
                _write(Path(arguments.out), plan, cores, results)
    names = [candidate.name for candidate in plan.ours]
    if arguments.quick:
        sys.stdout.write(quick_table(results, names))
    ran = [OURS in named for row, named in results.trials.items() if not row.tls]
    return 0 if ran and all(ran) else 1


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one row, ratios only, no files")
    parser.add_argument("--rounds", type=int, default=3, help="rounds a row [3]")
    parser.add_argument("--window-s", type=float, default=3.0, help="seconds a trial [3]")
    parser.add_argument(
        "--tries", type=int, default=TRIES, help=f"of a trial that others disturb [{TRIES}]"
    )
    parser.add_argument("--rows", default="", help="only rows whose title has this text")
    parser.add_argument("--servers", default="", help="only peers whose name has this text")
    parser.add_argument(
        "--our-flags", action="append", default=[], metavar="FLAGS",
        help='measure trio_bridge with these flags too, e.g. "--audio-tick-ms 5" (repeatable)',
    )  # fmt: skip
    parser.add_argument(
        "--out", default=str(Path(__file__).parent), help="directory of RESULTS.md and cost.svg"
    )
    return parser.parse_args(argv)


def _plan(arguments: argparse.Namespace) -> Plan:
    variants = [ours()]
    if setting_exists("audio_tick_ms"):
        variants.append(ours(*TICK))
    variants += [ours(f"trio_bridge {f}", tuple(shlex.split(f))) for f in arguments.our_flags]
    rows = tuple(r for r in (QUICK if arguments.quick else FULL) if arguments.rows in r.title)
    chosen = tuple(p for p in peers() if arguments.servers in p.name)
    if arguments.quick:
        return Plan(rows, tuple(variants), chosen, 1, 0.4, 0.8, 1)
    return Plan(
        rows,
        tuple(variants),
        chosen,
        arguments.rounds,
        1.0,
        arguments.window_s,
        arguments.tries,
    )


def _run_row(
    plan: Plan, row: Row, round_: int, cores: Cores, tls: Tls | None, results: Results
) -> None:
    if row.tls and tls is None:
        results.note(f"{row.title}: no openssl command to make a certificate with")
        return
    for candidate in (*plan.ours, *plan.peers):
        missing = _missing(candidate)
        if missing:
            results.note(f"{candidate.name}: not installed: {missing}")
        elif not candidate.can(row):
            results.note(f"{row.title}: {candidate.name} has no setting for it")
        else:
            figures = _try(plan, candidate, row, cores, tls, results)
            if figures is not None:
                results.add(row, candidate.name, round_, figures)


def _try(
    plan: Plan, candidate: Candidate, row: Row, cores: Cores, tls: Tls | None, results: Results
) -> Figures | None:
    """The quietest of a few trials; None when the server failed, which is noted."""
    tried: list[Figures] = []
    for _ in range(plan.tries):
        try:
            figures = run_trial(
                candidate,
                row,
                cores,
                warm_up_s=plan.warm_up_s,
                window_s=plan.window_s,
                tls=tls if row.tls else None,
            )
        except (LinkError, ServerError, OSError) as error:
            results.note(f"{row.title}: {candidate.name} failed: {error}")
            sys.stderr.write(f"{row.title}: {candidate.name} failed: {error}\n")
            break
        tried.append(figures)
        sys.stderr.write(progress(row, candidate.name, figures) + "\n")
        if not figures.disturbed:
            break
    return min(tried, key=lambda f: f.foreign + f.late_p99_ms, default=None)


def _missing(candidate: Candidate) -> str:
    needed = [
        package
        for package in ("fastapi", "websockets", "aiohttp", "picows", "uvicorn", "uvloop")
        if package in candidate.name.lower()
    ]
    return ", ".join(p for p in needed if importlib.util.find_spec(p) is None)


def _write(directory: Path, plan: Plan, cores: Cores, results: Results) -> None:
    names = [candidate.name for candidate in plan.ours]
    where = f"server on core {cores.server}, load on core {cores.load}"
    if cores.shared:
        where += " (the same one: the latencies mean little)"
    about = About(
        datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine(),
        where,
        _versions(),
        shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        plan.window_s,
        plan.tries,
    )
    (directory / "RESULTS.md").write_text(to_markdown(results, names, about))
    series: dict[str, list[tuple[float, float]]] = {}
    for candidate in (*plan.ours, *plan.peers):
        medians = [(row, results.median(row, candidate.name)) for row in SCALE]
        series[candidate.name] = [(r.bots, m.cpu_us) for r, m in medians if m is not None]
    (directory / "cost.svg").write_text(
        line_plot(series, names, "CPU per 20 ms frame", "bots", "us per frame")
    )


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(found) + _commit()


def _commit() -> str:
    """Which source was measured: a version number does not tell."""
    git = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent)]
    try:
        head, changes = (
            subprocess.run([*git, *rest], check=True, capture_output=True, text=True).stdout
            for rest in (
                ("rev-parse", "--short", "HEAD"),
                ("status", "--porcelain", "-uno", "--", "../trio_bridge"),
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"; commit {head.strip()}" + (" with changes not committed" if changes else "")


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8_192 if hard == resource.RLIM_INFINITY else min(8_192, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
