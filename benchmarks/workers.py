"""What a second worker is worth: CPU per frame, balance, and the bots carried at the end.

The load generator needs a core itself, so on two cores "two workers on two free cores" cannot
be watched; it is measured from two sides. One: the CPU a frame costs, all processes added up,
and how evenly it is spread: that gives the bots for any number of free cores. Two: the most
bots that are served in time, by one worker on a core of its own and by two on both cores, less
what the generator takes of them.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping

import attrs

from benchmarks.accounting import Cores
from benchmarks.results import Figures
from benchmarks.rows import Row
from benchmarks.servers import Candidate, ServerError, ours
from benchmarks.trial import run_trial
from benchmarks.wsclient import LinkError

BOTS_A_WORKER = 100
"""For the CPU per frame: the same for each worker, because the more meetings a worker has, the
more it does each time it wakes up, and the less a frame costs."""
IN_TIME_MS = 20.0
"""At the p99: a frame's length. Beyond, a queue grows."""
LOST = 0.001
STEP = 1.05
"""From one number of bots to the next: the answer is known to 5 %."""
MISSES = 2
"""In a row, before a number of bots is taken as too many: one may be the machine's."""
MOST_BOTS = 2_000
"""Two sockets each, on both sides: below the limit of open files."""
PRIORITY = -10
"""Of the generator, alone or beside workers, where it is allowed: it must be on time."""


@attrs.frozen
class Carried:
    """The most bots that were served in time."""

    bots: int
    load: float
    """Share of a core that the generator used then."""
    heaviest: float = 1.0
    """Share of the server's CPU that its busiest worker used then."""


@attrs.frozen
class Fleet:
    """One number of workers."""

    workers: int
    cost: Figures
    """At `BOTS_A_WORKER`, all processes on one core."""
    carried: Carried
    """On as many cores as workers."""

    @property
    def balance(self) -> float:
        """The average worker's share of the work over the busiest one's: 1 is even."""
        return 1.0 / (self.workers * self.carried.heaviest)

    def bots(self, frames_hz: float = 50.0) -> float:
        """Bots that ``workers`` free cores carry, by the CPU per frame."""
        return self.workers * 1e6 / (self.cost.cpu_us * frames_hz) * self.balance


def measure_workers(cores: Cores, window_s: float) -> dict[int, Fleet]:
    """One and two workers; empty on a single core.

    Raises:
        LinkError, ServerError, OSError: the server failed under a load it should carry.
    """
    if cores.shared:
        return {}
    found: dict[int, Fleet] = {}
    with _priority():
        for workers in (1, 2):
            candidate = ours(f"{workers} worker(s)", ("--workers", str(workers)))
            row = Row(bots=BOTS_A_WORKER * workers)
            cost = run_trial(candidate, row, cores, warm_up_s=1.0, window_s=window_s, tls=None)
            spread = attrs.evolve(cores, spread=workers > 1)
            start = round(0.7 * workers * 1e6 / (cost.cpu_us * 50.0))
            found[workers] = Fleet(
                workers, cost, _most_in_time(candidate, spread, start, window_s)
            )
    os.sched_setaffinity(0, cores.loads)
    return found


def workers_section(found: Mapping[int, Fleet]) -> list[str]:
    """Lines of Markdown; none when nothing was measured."""
    if not {1, 2} <= found.keys():
        return []
    one, two = found[1], found[2]
    return [
        "## Workers",
        "",
        "Bots that `--workers 2` carries over one worker (bar: 1.8 on two free cores). The",
        "load generator needs a core too, so it is measured from two sides:",
        "",
        f"- **By CPU**: {BOTS_A_WORKER} bots a worker, 20 ms, all processes on one core, so",
        "that nothing shares it with the generator. Bots = cores / (CPU per frame x 50/s) x",
        "balance, which is the average worker's share of the CPU over the busiest one's at the",
        "most bots below (a bot belongs to a worker by its id).",
        f"- **Directly**: the most bots, in steps of {STEP - 1:.0%}, with a p99 under "
        f"{IN_TIME_MS:g} ms: one worker",
        "alone on one core; two workers on two cores of which the generator, with the same",
        "raised priority both times, takes its part. Whoever wakes up on a core that is in use",
        "waits for his turn, so the two are late before their cores are full: a lower bound.",
        "",
        "| workers | CPU us/frame, sum | bots by CPU | bots in time | balance then "
        "| generator's share of a core then |",
        "| ---: " * 6 + "|",
        *(
            f"| {f.workers} | {f.cost.cpu_us:.1f} | {f.bots():.0f} | {f.carried.bots} "
            f"| {f.balance:.2f} | {f.carried.load:.0%} |"
            for f in (one, two)
        ),
        "",
        *_ratios(one, two),
        "",
    ]


def _ratios(one: Fleet, two: Fleet) -> list[str]:
    by_cpu = f"Two over one: **{two.bots() / one.bots():.2f}** by CPU"
    if not one.carried.bots or not two.carried.bots:
        return [
            f"{by_cpu}; directly no number of bots was served in time: not a quiet machine."
        ]
    free = 2.0 - two.carried.load
    direct = two.carried.bots / one.carried.bots
    return [
        f"{by_cpu}; {direct:.2f} directly, with",
        f"{free:.2f} cores left to the workers: **{2.0 * direct / free:.2f}** for two cores.",
    ]


def _most_in_time(candidate: Candidate, cores: Cores, start: int, window_s: float) -> Carried:
    best = Carried(0, 0.0)
    bots, misses = float(start), 0
    while misses < MISSES and bots <= MOST_BOTS:
        row = Row(bots=round(bots))
        try:
            # No spinning: beside workers the generator must take no more than it needs.
            figures = run_trial(
                candidate, row, cores, warm_up_s=1.0, window_s=window_s, tls=None, margin_ns=0
            )
        except (LinkError, ServerError) as error:
            sys.stderr.write(f"{candidate.name}, {row.bots} bots: {error}\n")
            misses += 1
        else:
            sys.stderr.write(
                f"{candidate.name}, {row.bots} bots: p99 {figures.p99_ms:.1f} ms, "
                f"{figures.busy:.2f} cores, generator {figures.load:.2f}, "
                f"late {figures.late_p99_ms:.1f} ms\n"
            )
            if figures.p99_ms < IN_TIME_MS and 1.0 - figures.delivered < LOST:
                best, misses = Carried(row.bots, figures.load, figures.heaviest), 0
            else:
                misses += 1
        bots *= STEP
    return best


@contextlib.contextmanager
def _priority() -> Iterator[None]:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, before)
