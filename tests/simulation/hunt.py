"""Tests for the tests: plans that show each of the `MUTATIONS`, found at random and cut down.

They are kept in ``caught.json``, so that a test need not look for them again. A plan that no
longer shows its bug, because the product's tasks now take turns otherwise, is looked for anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from tests.simulation.explore import cut, fault_of, run_batch
from tests.simulation.mutations import MUTATIONS, Mutation, bug
from tests.simulation.steps import Plan, read_plan

KEPT = Path(__file__).with_name("caught.json")
BATCHES = 30
"""Of 100 plans; the rarest of these bugs needs a third of them."""


def shows(mutation: Mutation, plan: Plan) -> bool:
    """``plan`` finds the bug, by the right invariant, and finds nothing without it."""
    with bug(mutation):
        fault = fault_of(plan)
    found = fault is not None and re.search(mutation.says, fault) is not None
    return found and fault_of(plan) is None


def kept_plan(mutation: Mutation) -> Plan | None:
    """The plan that is kept for it."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return read_plan(json.dumps(kept[mutation.bug])) if mutation.bug in kept else None


def hunt(mutation: Mutation, run_seed: int = 77) -> Plan | None:
    """Look for a plan that shows the bug; None: there was none among all that were tried."""
    for number in range(BATCHES):
        with bug(mutation):
            failure = run_batch(run_seed, number, shrink=False).failure
        if failure is not None and shows(mutation, failure.plan):
            return cut(failure.plan, lambda plan: shows(mutation, plan))
    return None


def hunt_all(tell: Callable[[str], None]) -> bool:
    """Look for what is not kept, and keep it; False if one bug was not found."""
    kept: dict[str, str] = {}
    for mutation in MUTATIONS:
        plan = kept_plan(mutation)
        if plan is None or not shows(mutation, plan):
            plan = hunt(mutation)
        found = "NOT FOUND" if plan is None else f"{len(plan.steps)} steps"
        tell(f"{mutation.bug}: {found}")
        if plan is not None:
            kept[mutation.bug] = plan.text()
    lines = ",\n".join(f"{json.dumps(name)}: {text}" for name, text in kept.items())
    KEPT.write_text("{\n" + lines + "\n}\n")
    return len(kept) == len(MUTATIONS)
