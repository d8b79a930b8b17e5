"""Every await of a meeting's life fails in every way, one a run; nobody else notices."""

from __future__ import annotations

import pytest

from tests.simulation.faults import HOWS, How, survey, sweep

FEWEST = {"raises": 250, "is cancelled": 250, "hangs": 100}
"""So many awaits the scenario has at least; fewer means that some are not seen any more."""


@pytest.mark.parametrize("how", HOWS)
def test_any_await_may_fail_and_the_server_and_its_other_meetings_go_on(how: How) -> None:
    faults = list(sweep(how))
    assert len(faults) >= FEWEST[how]
    assert all(fault.where for fault in faults)


def test_the_awaits_are_those_of_the_bridge_of_its_libraries_and_of_the_agent() -> None:
    assert survey() == survey()
