"""``python -m tests.simulation``: random meetings, from a seed that is printed."""

from __future__ import annotations

import argparse
import secrets
import sys
import time

from tests.simulation.explore import Failure, explore
from tests.simulation.faults import HOWS, sweep
from tests.simulation.hunt import hunt_all
from tests.simulation.steps import read_plan
from tests.simulation.world import Violation, World, run_plan


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 when every invariant held, 1 when one did not."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--meetings", type=int, default=10_000, metavar="N", help="[10000]")
    parser.add_argument("--seed", type=int, metavar="N", help="[a new one, which is printed]")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes [1]")
    parser.add_argument("--no-shrink", action="store_true", help="the first failure will do")
    parser.add_argument("--replay", metavar="PLAN", help="tell all that happens in it")
    parser.add_argument("--sweep", action="store_true", help="spoil each await of a meeting")
    parser.add_argument("--hunt", action="store_true", help="renew the plans of the mutations")
    given = parser.parse_args(arguments)
    if given.sweep:
        return _sweep()
    if given.hunt:
        return 0 if hunt_all(_say) else 1
    if given.replay is not None:
        return _replay(given.replay)
    run_seed = secrets.randbelow(1 << 32) if given.seed is None else given.seed
    _say(f"seed {run_seed}")
    began_s = time.monotonic()
    said_s = began_s
    total = None
    for total in explore(given.meetings, run_seed, jobs=given.jobs, shrink=not given.no_shrink):
        now_s = time.monotonic()
        if now_s > said_s + 10:
            said_s = now_s
            pace = total.meetings / (now_s - began_s)
            _say(f"{total.meetings} meetings, {pace:.0f} a second")
    assert total is not None
    if total.failure is not None:
        _tell(total.failure, run_seed)
        return 1
    took_s = time.monotonic() - began_s
    _say(
        f"{total.meetings} meetings in {total.plans} servers, {total.steps} steps, "
        f"{took_s:.0f} s, {total.meetings / took_s:.0f} meetings a second; "
        f"0 violations; seed {run_seed}, digest {total.digest:08x}"
    )
    return 0


def _tell(failure: Failure, run_seed: int) -> None:
    _say(f"VIOLATION {failure.fault}")
    _say(failure.plan.listing())
    _say(f"seed {run_seed}; this plan alone, with all that happens in it:")
    _say(f"python -m tests.simulation --replay '{failure.plan.text()}'")


def _sweep() -> int:
    for how in HOWS:
        faults = list(sweep(how))
        _say(f"each of {len(faults)} awaits {how}: 0 violations")
    return 0


def _replay(text: str) -> int:
    plan = read_plan(text)
    _say(plan.listing())
    World.telling = True
    try:
        outcome = run_plan(plan)
    except Violation as violation:
        _say(f"VIOLATION {violation}")
        return 1
    _say(f"{outcome.meetings} meetings, 0 violations, digest {outcome.digest:08x}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
