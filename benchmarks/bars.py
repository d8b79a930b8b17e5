"""What was promised, beside what was found: the first table of the report. Pure.

The promises are made for a quiet machine. A line whose trials were disturbed says so, and is
worth as little as they are.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.backlog import Backlog, more_by_backlog
from benchmarks.judged import Judged, judged_table
from benchmarks.results import Figures, Results
from benchmarks.rows import Row
from benchmarks.scaling import FEW, MANY
from benchmarks.servers import OURS
from benchmarks.speech import Speech
from benchmarks.workers import Fleet, more_by_cpu

CROWDS = (Row(bots=200), Row(bots=400))
LONG_FRAMES = Row(frame_ms=100)
MEETING_KIB = 160.0
START_S = 0.6


def bars_section(
    results: Results,
    ours: Sequence[str],
    speech: Mapping[str, Speech],
    startup: Mapping[str, Sequence[float]],
    workers: Mapping[int, Fleet],
) -> list[str]:
    """Lines of Markdown. ``ours`` are the names of the default setting, the one for the lowest
    latency and the one for the best throughput, in that order."""
    default, lowest, best = ours[:3]
    judged = []
    for row in CROWDS:
        judged += _cost(results, row, default, "FastAPI", 0.8)
        judged += _cost(results, row, default, "websockets", 1.0)
        judged += _cost(results, row, best, "picows", 0.8)
    for name in (default, best):
        judged += _cost(results, LONG_FRAMES, name, "websockets", 0.9)
    for row in CROWDS:
        judged += _latency(results, row, lowest, default, ours)
    for name in ours[:3]:
        judged += _growth(results, name)
        judged += _talk(name, speech.get(name))
    found = results.median(CROWDS[0], default)
    if found is not None:
        kib = found.memory_kib
        told = f"{kib:.0f} KiB"
        judged.append(
            Judged("memory a meeting", told, f"<= {MEETING_KIB:g}", kib <= MEETING_KIB)
        )
    if OURS in startup:
        start_s = statistics.median(startup[OURS])
        judged.append(
            Judged("start-up", f"{start_s:.2f} s", f"<= {START_S} s", start_s <= START_S)
        )
    if {1, 2} <= workers.keys():
        more = more_by_cpu(workers)
        judged.append(
            Judged(
                "bots of two workers over one's, by CPU", f"{more:.2f}", ">= 1.8", more >= 1.8
            )
        )
        judged += _backlog({n: workers[n].backlog for n in (1, 2)})
    return ["## What was to be shown", "", *judged_table(judged), ""] if judged else []


def _cost(results: Results, row: Row, name: str, peer: str, bar: float) -> list[Judged]:
    """Against the cheapest of the peers whose name begins with ``peer``."""
    peers = [one for one in results.trials.get(row, {}) if one.startswith(peer)]
    ratios = [r for one in peers if not math.isnan(r := results.ratio(row, name, one))]
    if not ratios:
        return []
    ratio = max(ratios)
    noise = _noise([results.median(row, one) for one in (name, *peers)])
    what = f"{row.title}: CPU of {name} over {peer}"
    return [Judged(what, f"{ratio:.2f}{noise}", f"<= {bar}", ratio <= bar)]


def _latency(
    results: Results, row: Row, lowest: str, default: str, ours: Sequence[str]
) -> list[Judged]:
    medians = {name: results.median(row, name) for name in results.trials.get(row, {})}
    found = {name: figures for name, figures in medians.items() if figures is not None}
    peers = {name: figures for name, figures in found.items() if name not in ours}
    judged = []
    if lowest in found and peers:
        best = min(peers, key=lambda name: peers[name].p99_ms)
        mine, theirs = found[lowest].p99_ms, peers[best].p99_ms
        noise = _noise([found[lowest], *peers.values()])
        what = f"{row.title}: p99 of {lowest}"
        judged.append(
            Judged(what, f"{mine:.2f} ms{noise}", f"< {theirs:.2f} ({best})", mine < theirs)
        )
    if default in found:
        p99_ms = found[default].p99_ms
        what = f"{row.title}: p99 of {default}"
        told = f"{p99_ms:.2f} ms{_noise([found[default]])}"
        judged.append(Judged(what, told, "< 5 ms", p99_ms < 5.0))
    return judged


def _growth(results: Results, name: str) -> list[Judged]:
    cpu = results.growth(FEW, MANY, name, "cpu_us")
    memory = results.growth(FEW, MANY, name, "memory_kib")
    if math.isnan(cpu):
        return []
    noise = _noise([results.median(row, name) for row in (FEW, MANY)])
    over = f"at {MANY.bots} bots over {FEW.bots}: {name}"
    return [
        Judged(f"CPU a frame {over}", f"{cpu:.2f}{noise}", "<= 1.1", cpu <= 1.1),
        Judged(f"memory a meeting {over}", f"{memory:.2f}", "linear: <= 1.1", memory <= 1.1),
    ]


def _talk(name: str, speech: Speech | None) -> list[Judged]:
    if speech is None or not speech.answers_ms or not speech.late_ms:
        return []
    noise = " (disturbed)" if speech.disturbed * 2 >= speech.trials else ""
    times = {"interrupt answered": speech.answers_ms, "pacer late": speech.late_ms}
    judged = []
    for what, times_ms in times.items():
        p99_ms = float(np.percentile(times_ms, 99))
        told = f"{p99_ms:.2f} ms at p99{noise}"
        judged.append(Judged(f"{what}: {name}", told, "<= 5 ms", p99_ms <= 5.0))
    return judged


def _backlog(found: Mapping[int, Backlog]) -> list[Judged]:
    more = more_by_backlog(found)
    if math.isnan(more):
        return []
    noise = " (disturbed)" if any(backlog.disturbed for backlog in found.values()) else ""
    what = "frames/s of two workers over one's, a backlog on free cores"
    return [Judged(what, f"{more:.2f}{noise}", ">= 1.8", more >= 1.8)]


def _noise(figures: Sequence[Figures | None]) -> str:
    return " (disturbed)" if any(f is not None and f.disturbed for f in figures) else ""
