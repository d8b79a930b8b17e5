"""Tests for the tests: each bug made on purpose is found, and by the invariant it breaks."""

from __future__ import annotations

import pytest

from tests.simulation.hunt import hunt, kept_plan, shows
from tests.simulation.mutations import MUTATIONS, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.bug)
def test_the_simulation_finds_it_when(mutation: Mutation) -> None:
    plan = kept_plan(mutation)
    if plan is None or not shows(mutation, plan):
        plan = hunt(mutation)
    assert plan is not None, "no plan shows this bug: some invariant does not do its work"
