"""``python -m benchmarks``: measure everything and write RESULTS.md; ``--quick``: ratios only.

Exit status 1 only when trio_bridge itself did not run; never for a time.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs

from benchmarks import priority
from benchmarks.accounting import Cores, choose_cores, machine, raise_file_limit
from benchmarks.extras import SECTIONS, Extras
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
    variants,
)
from benchmarks.trial import run_trial
from benchmarks.wsclient import LinkError

PACKAGES = (
    "trio-bridge", "trio", "trio-websocket", "fastapi", "uvicorn", "uvloop", "websockets",
    "aiohttp", "picows", "soxr", "numpy",
)  # fmt: skip
TRIES = 3
"""Of a trial that others disturbed."""


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
    raise_file_limit()
    os.sched_setaffinity(0, {cores.load})
    results = Results()
    extras = Extras(_sections(arguments), cores, plan.window_s, arguments.speech_s)
    directory_out = Path(arguments.out)
    with tempfile.TemporaryDirectory() as directory:
        tls = make_certificate(Path(directory))
        # Rounds outermost: what a machine does for minutes at a time does not hit one row.
        for round_ in range(plan.rounds):
            for row in plan.rows:
                _run_row(plan, row, round_, cores, tls, results)
                if not arguments.quick:  # each time, so that a run cut short is not lost
                    _write(directory_out, plan, cores, results, extras)
            extras.run_round(results)
    installed = [candidate for candidate in plan.peers if not _missing(candidate)]
    extras.run_once(results, installed)
    if not arguments.quick:
        _write(directory_out, plan, cores, results, extras)
    names = [candidate.name for candidate in plan.ours]
    if arguments.quick:
        sys.stdout.write(quick_table(results, names))
    # Rows that nobody can run here (TLS without openssl) are no failure of ours.
    broken = [
        row
        for row in plan.rows
        if (tls is not None or not row.tls) and OURS not in results.trials.get(row, {})
    ]
    return 1 if broken or extras.failed else 0


def _sections(arguments: argparse.Namespace) -> tuple[str, ...]:
    return ("rows",) if arguments.quick else tuple(arguments.sections.split(","))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one row, ratios only, no files")
    parser.add_argument("--rounds", type=int, default=3, help="rounds a row [3]")
    parser.add_argument("--window-s", type=float, default=3.0, help="seconds a trial [3]")
    parser.add_argument(
        "--tries", type=int, default=TRIES, help=f"of a trial that others disturb [{TRIES}]"
    )
    parser.add_argument(
        "--speech-s", type=float, default=20.0,
        help="seconds of interrupts a round and setting [20]",
    )  # fmt: skip
    parser.add_argument(
        "--sections", default=",".join(SECTIONS),
        help=f"what to measure, with commas [{','.join(SECTIONS)}]",
    )  # fmt: skip
    parser.add_argument(
        "--rows", default="", metavar="REGEX", type=_regex,
        help='only rows whose title has this, e.g. "^(50|400) bots"',
    )  # fmt: skip
    parser.add_argument("--servers", default="", help="only peers whose name has this text")
    parser.add_argument(
        "--our-flags", action="append", default=[], metavar="FLAGS",
        help='measure trio_bridge with these flags too, e.g. "--audio-tick-ms 5" (repeatable)',
    )  # fmt: skip
    parser.add_argument(
        "--out", default=str(Path(__file__).parent), help="directory of RESULTS.md and cost.svg"
    )
    arguments = parser.parse_args(argv)
    unknown = set(arguments.sections.split(",")) - set(SECTIONS)
    if unknown:
        parser.error(f"--sections: expected {', '.join(SECTIONS)}, got {', '.join(unknown)}")
    return arguments


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as exc:
        raise argparse.ArgumentTypeError(f"not a regular expression: {exc}") from exc
    return text


def _plan(arguments: argparse.Namespace) -> Plan:
    more = tuple(ours(f"trio_bridge {f}", tuple(shlex.split(f))) for f in arguments.our_flags)
    rows = tuple(
        r for r in (QUICK if arguments.quick else FULL) if re.search(arguments.rows, r.title)
    )
    if "rows" not in _sections(arguments):
        rows = ()
    chosen = tuple(p for p in peers() if arguments.servers in p.name)
    if arguments.quick:
        return Plan(rows, variants() + more, chosen, 1, 0.4, 0.8, 1)
    return Plan(
        rows,
        variants() + more,
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
    order = (*plan.ours, *plan.peers)
    # There and back: a machine that slows down in the meantime favours none over two rounds.
    for candidate in order[::-1] if round_ % 2 else order:
        missing = _missing(candidate)
        if missing:
            results.note(f"{candidate.name}: not installed: {missing}")
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


def _write(directory: Path, plan: Plan, cores: Cores, results: Results, extras: Extras) -> None:
    names = [candidate.name for candidate in plan.ours]
    where = f"server on core {cores.server}, load on core {cores.load}"
    with priority.real_time(not cores.shared) as first_in_line:
        where += " at real-time priority" if first_in_line else " at ordinary priority"
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
    before, after = extras.bars(results, names), extras.sections(results)
    directory.mkdir(parents=True, exist_ok=True)
    text = to_markdown(results, names, about, before=before, after=after)
    (directory / "RESULTS.md").write_text(text)
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


if __name__ == "__main__":
    sys.exit(main())
