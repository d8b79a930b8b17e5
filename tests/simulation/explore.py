"""Many plans, one after the other, from one seed.

Why lists of steps that Hypothesis draws, and not its `RuleBasedStateMachine`: a machine's rules
are plain functions that Hypothesis calls one by one, so Trio's loop would have to be stopped
between any two of them, and two things could never happen in the same instant, which is where
the bugs are. Here Hypothesis draws the plan first, which then runs inside one `trio.run`; its
steps mean something in any state, so it shrinks a plan as it would shrink a run of a machine.
And a plan is a value: it can be printed, replayed, and run against a broken product.

Plans are drawn in batches, each seeded by the run's seed and its own number: Hypothesis
remembers what it drew, so that a million in one batch would not fit, and batches can be shared
between processes without changing what is run.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import multiprocessing
import zlib
from collections.abc import Callable, Iterator

import attrs
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import Flaky

from tests.simulation.plans import plans
from tests.simulation.steps import Plan
from tests.simulation.world import Violation, run_plan

PLANS_A_BATCH = 100
"""About 200 meetings; few enough for Hypothesis to stay quick."""


@attrs.frozen
class Failure:
    """A broken invariant, and the shortest way there that was found."""

    fault: str
    plan: Plan


@attrs.frozen
class Batch:
    """What came of some plans."""

    plans: int = 0
    meetings: int = 0
    steps: int = 0
    digest: int = 0
    failure: Failure | None = None

    def __add__(self, other: Batch) -> Batch:
        return Batch(
            self.plans + other.plans,
            self.meetings + other.meetings,
            self.steps + other.steps,
            zlib.crc32(other.digest.to_bytes(4, "big"), self.digest),
            self.failure or other.failure,
        )


def run_batch(
    run_seed: int, number: int, count: int = PLANS_A_BATCH, *, shrink: bool = True
) -> Batch:
    """Carry out ``count`` plans, fewer if an invariant breaks."""
    total = Batch()
    failure: Failure | None = None

    @seed(run_seed * 1_000_003 + number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        verbosity=Verbosity.quiet,
        report_multiple_bugs=False,
    )
    @given(plans())
    def carry_out(plan: Plan) -> None:
        nonlocal total, failure
        try:
            outcome = run_plan(plan)
        except Violation as violation:
            failure = Failure(str(violation), plan)  # the last one is the shortest
            raise
        total += Batch(1, outcome.meetings, outcome.steps, outcome.digest)

    try:
        carry_out()
    except Violation:
        pass
    except Flaky as flaky:
        assert failure is not None
        failure = Failure(f"not the same twice: {failure.fault} ({flaky})", failure.plan)
    if shrink and failure is not None:
        failure = _cut(failure)
    return attrs.evolve(total, failure=failure)


def fault_of(plan: Plan) -> str | None:
    """What is wrong when ``plan`` is carried out; None: nothing."""
    try:
        run_plan(plan)
    except Violation as violation:
        return str(violation)
    return None


def cut(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """The same with fewer steps, as long as it ``fails``: halves first, then single steps."""
    size = len(plan.steps)
    while size:
        at = 0
        while at < len(plan.steps):
            shorter = attrs.evolve(plan, steps=(*plan.steps[:at], *plan.steps[at + size :]))
            if fails(shorter):
                plan = shorter
            else:
                at += size
        size //= 2
    return plan


def _cut(failure: Failure) -> Failure:
    """Hypothesis does not see that steps which mean nothing can go, where it must guess four
    lengths at once."""
    plan = cut(failure.plan, lambda plan: fault_of(plan) is not None)
    return Failure(fault_of(plan) or failure.fault, plan)


def explore(
    meetings: int, run_seed: int, *, jobs: int = 1, shrink: bool = True
) -> Iterator[Batch]:
    """Carry out plans until there have been that many meetings; the total after each batch.

    Stops at the first failure. With the same seed the same plans, whatever ``jobs``.
    """
    total = Batch()
    for batch in _batches(run_seed, jobs, shrink):
        total += batch
        yield total
        if total.failure is not None or total.meetings >= meetings:
            return


def _batches(run_seed: int, jobs: int, shrink: bool) -> Iterator[Batch]:
    if jobs == 1:
        for number in itertools.count():
            yield run_batch(run_seed, number, shrink=shrink)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        running = [pool.submit(run_batch, run_seed, number) for number in range(2 * jobs)]
        try:
            for number in itertools.count(2 * jobs):
                yield running.pop(0).result()
                running.append(pool.submit(run_batch, run_seed, number))
        finally:
            pool.shutdown(cancel_futures=True)
