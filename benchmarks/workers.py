"""What a second worker is worth: CPU per frame, balance, and the bots carried at the end.

The load generator needs a core itself, so on two cores a stream to "two workers on two free
cores" cannot be watched; it is measured from three sides. One: the CPU a frame costs, all
processes added up, and how evenly it is spread: that gives the bots for any number of free
cores. Two: how soon a backlog is worked off while the generator sleeps (`backlog`). Three: the
most bots that are served in time, by one worker on a core of its own and by two on both cores,
less what the generator takes of them.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import attrs

from benchmarks import priority
from benchmarks.accounting import Cores
from benchmarks.backlog import Backlog, backlog_section, measure_backlogs
from benchmarks.rows import Row
from benchmarks.servers import Candidate, ServerError, ours
from benchmarks.trial import run_trial
from benchmarks.wsclient import LinkError

BOTS_A_WORKER = 100
"""For the CPU per frame: the same for each worker, because the more meetings a worker has, the
more it does each time it wakes up, and the less a frame costs."""
TRIALS = 11
"""Of the CPU per frame, for each number of workers: odd, since the median counts."""
IN_TIME_MS = 20.0
"""At the p99: a frame's length. Beyond, a queue grows."""
LOST = 0.001
STEP = 1.05
"""From one number of bots to the next: the answer is known to 5 %."""
FEWEST, MOST = 0.5, 1.6
"""Times the bots by CPU, between which the most in time are looked for."""
TRIES = 2
"""Of a number of bots, before it is taken as too many: one may be the machine's."""
MOST_BOTS = 2_000
"""Two sockets each, on both sides: below the limit of open files."""

T = TypeVar("T")


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
    costs_us: tuple[float, ...]
    """CPU per frame at `BOTS_A_WORKER`, all processes on one core: of each trial."""
    backlog: Backlog
    """On a core for each worker."""
    carried: Carried
    """On as many cores as workers."""

    @property
    def cost_us(self) -> float:
        """The median trial's CPU per frame."""
        return statistics.median(self.costs_us)

    @property
    def balance(self) -> float:
        """The average worker's share of the work over the busiest one's: 1 is even."""
        return 1.0 / (self.workers * self.carried.heaviest)

    def bots(self, frames_hz: float = 50.0) -> float:
        """Bots that ``workers`` free cores carry, by the CPU per frame."""
        return self.workers * 1e6 / (self.cost_us * frames_hz) * self.balance


def more_by_cpu(found: Mapping[int, Fleet]) -> float:
    """Bots of two workers over one's: of each trial with two over the one beside it, the
    median, since a machine that gets slower meanwhile does so for both."""
    one, two = found[1], found[2]
    pairs = zip(one.costs_us, two.costs_us, strict=True)
    return statistics.median(2.0 * a / b for a, b in pairs) * two.balance / one.balance


def measure_workers(cores: Cores, window_s: float) -> dict[int, Fleet]:
    """One and two workers; empty on a single core.

    Raises:
        LinkError, ServerError, OSError: the server failed under a load it should carry.
    """
    if cores.shared:
        return {}
    found: dict[int, Fleet] = {}
    backlogs = measure_backlogs(cores)
    candidates = {n: ours(f"{n} worker(s)", ("--workers", str(n))) for n in (1, 2)}
    with priority.raised():
        costs = _costs(candidates, cores, window_s)
        for workers, candidate in candidates.items():
            spread = attrs.evolve(cores, spread=workers > 1)
            by_cpu = workers * 1e6 / (statistics.median(costs[workers]) * 50.0)
            carried = _most_in_time(candidate, spread, by_cpu, window_s)
            found[workers] = Fleet(workers, costs[workers], backlogs[workers], carried)
    os.sched_setaffinity(0, cores.loads)
    return found


def _costs(
    candidates: Mapping[int, Candidate], cores: Cores, window_s: float
) -> dict[int, tuple[float, ...]]:
    """The CPU per frame of each number of workers, trial by trial; now one begins and now the
    other."""
    tried: dict[int, list[float]] = {workers: [] for workers in candidates}
    for n in range(TRIALS):
        for workers, candidate in sorted(candidates.items(), reverse=n % 2 == 1):
            row = Row(bots=BOTS_A_WORKER * workers)
            figures = run_trial(
                candidate, row, cores, warm_up_s=1.0, window_s=window_s, tls=None
            )
            sys.stderr.write(f"{candidate.name}: {figures.cpu_us:.1f} us\n")
            tried[workers].append(figures.cpu_us)
    return {workers: tuple(costs_us) for workers, costs_us in tried.items()}


def workers_section(found: Mapping[int, Fleet]) -> list[str]:
    """Lines of Markdown; none when nothing was measured."""
    if not {1, 2} <= found.keys():
        return []
    one, two = found[1], found[2]
    return [
        "## Workers",
        "",
        "Bots that `--workers 2` carries over one worker (bar: 1.8 on two free cores). The",
        "load generator needs a core too, so it is measured from three sides:",
        "",
        f"- **By CPU**: {BOTS_A_WORKER} bots a worker, 20 ms, all processes on one core, so",
        f"that nothing shares it with the generator; {TRIALS} trials each, in turns, of which",
        "each of two workers is compared with the one of one beside it; the median.",
        "Bots = cores / (CPU per frame x 50/s) x balance, which is the average worker's share",
        "of the CPU over the busiest one's at the most bots below.",
        "- **By backlog**: how soon audio that is in the kernel when the clock starts is all",
        "in the agents' hands, by workers that have a core each and nobody else on it. See the",
        "second table.",
        f"- **In time**: the most bots, in steps of {STEP - 1:.0%}, with a p99 under "
        f"{IN_TIME_MS:g} ms: one worker",
        "alone on one core; two workers on two cores of which the generator, with the same",
        "raised priority both times, takes its part. Whoever wakes up on a core that is in use",
        "waits for his turn, so the two are late before their cores are full: a lower bound.",
        "",
        "By CPU shows that a second worker adds no work, but flatters two: on one core they",
        "wait for each other, so frames gather; and it is blind to what two lose to each other",
        "when both run. By backlog shows that, at full speed, but for audio that is read a few",
        "frames at a time. In time shows what this machine carries, the generator with it.",
        "",
        "| workers | CPU us/frame, sum | bots by CPU | bots in time | balance then "
        "| generator's share of a core then |",
        "| ---: " * 6 + "|",
        *(
            f"| {f.workers} | {f.cost_us:.1f} | {f.bots():.0f} | {f.carried.bots} "
            f"| {f.balance:.2f} | {f.carried.load:.0%} |"
            for f in (one, two)
        ),
        "",
        *_ratios(one, two),
        "",
        *backlog_section({n: found[n].backlog for n in (1, 2)}),
    ]


def _ratios(one: Fleet, two: Fleet) -> list[str]:
    by_cpu = f"Two over one: **{more_by_cpu({1: one, 2: two}):.2f}** by CPU"
    if not one.carried.bots or not two.carried.bots:
        return [
            f"{by_cpu}; directly no number of bots was served in time: not a quiet machine."
        ]
    free = 2.0 - two.carried.load
    direct = two.carried.bots / one.carried.bots
    return [
        f"{by_cpu}; {direct:.2f} in time, with",
        f"{free:.2f} cores left to the workers: **{2.0 * direct / free:.2f}** for two cores.",
    ]


def numbers_of_bots(by_cpu: float) -> list[int]:
    """What to try, fewest first; each is `STEP` times the one before."""
    numbers, bots = [], FEWEST * by_cpu
    while bots <= min(MOST * by_cpu, MOST_BOTS):
        numbers.append(round(bots))
        bots *= STEP
    return numbers


def find_most(numbers: Sequence[int], in_time: Callable[[int], T | None]) -> T | None:
    """What ``in_time`` says of the last of ``numbers`` for which it says anything, by halving
    the rest; None if it says nothing of the first. Each is tried up to `TRIES` times."""
    best: T | None = None
    few, many = 0, len(numbers)
    while few < many:
        middle = (few + many) // 2
        found = None
        for _ in range(TRIES):
            found = in_time(numbers[middle])
            if found is not None:
                break
        if found is None:
            many = middle
        else:
            best, few = found, middle + 1
    return best


def _most_in_time(
    candidate: Candidate, cores: Cores, by_cpu: float, window_s: float
) -> Carried:
    def in_time(bots: int) -> Carried | None:
        try:
            # No spinning: beside workers the generator must take no more than it needs.
            figures = run_trial(
                candidate,
                Row(bots=bots),
                cores,
                warm_up_s=0.5,
                window_s=window_s,
                tls=None,
                punctual=False,
            )
        except (LinkError, ServerError) as error:
            sys.stderr.write(f"{candidate.name}, {bots} bots: {error}\n")
            return None
        sys.stderr.write(
            f"{candidate.name}, {bots} bots: p99 {figures.p99_ms:.1f} ms, "
            f"{figures.busy:.2f} cores, generator {figures.load:.2f}, "
            f"late {figures.late_p99_ms:.1f} ms\n"
        )
        if figures.p99_ms < IN_TIME_MS and 1.0 - figures.delivered < LOST:
            return Carried(bots, figures.load, figures.heaviest)
        return None

    return find_most(numbers_of_bots(by_cpu), in_time) or Carried(0, 0.0)
