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


PLACES = (
    "Edge._greet",
    "Door.accept",  # not of the meeting: it must not be there
    "read_first",
    "Session.serve_channel",
    "Session._live",
    "Pump._send_speech",
    "Gate._write",
    "WebSocketConnection._reader_task",
    "Ear.__anext__",
    "Turn.finish",
    "Run._obey",
)


def test_the_awaits_are_those_of_the_edge_the_meeting_its_libraries_and_its_agent() -> None:
    awaits = survey()
    found = {place for place in PLACES if any(place in seen.where for seen in awaits)}
    assert found == set(PLACES) - {"Door.accept"}
    assert survey() == awaits
