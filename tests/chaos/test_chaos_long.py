"""Faults that wait for the bridge's own deadlines, and many of one kind: minutes, so not in
the ordinary run. ``pytest -m chaos_long tests/chaos``."""

from __future__ import annotations

import subprocess
import sys

import pytest
import trio

from tests.chaos.attack import Fault
from tests.chaos.bridge import ROOT
from tests.chaos.conftest import SEED, Siege
from tests.chaos.faults import LONG, QUICK

pytestmark = pytest.mark.chaos_long

DEADLINE_S = 180.0
TIMES, WARM = 10, 4
KEPT_KIB = 512
"""Between the fourth and the tenth of the same fault: a heap is in pages, not in objects."""


@pytest.mark.parametrize("fault", LONG, ids=lambda fault: fault.__name__)
async def test_a_fault_that_takes_its_time_is_gone_as_well(siege: Siege, fault: Fault) -> None:
    with trio.fail_after(DEADLINE_S):
        outcome = await siege.arena.suffer(fault, siege.baseline)
    assert outcome.wrong == [], f"seed {SEED}"


@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: fault.__name__)
async def test_ten_of_a_fault_leave_no_more_memory_than_four(
    siege: Siege, fault: Fault
) -> None:
    resident_kib = []
    with trio.fail_after(DEADLINE_S):
        for _ in range(TIMES):
            struck = await siege.arena.strike(fault, siege.baseline)
            assert struck.wrong == []
            resident_kib.append(siege.arena.bridge.resident_kib)
    assert min(resident_kib[WARM:]) - resident_kib[WARM - 1] < KEPT_KIB, resident_kib


def test_the_hour_runs_and_judges() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--minutes", "1", "--bots", "6"]
    ended = subprocess.run(
        [*command, "--seed", str(SEED)], cwd=ROOT, capture_output=True, text=True, timeout=150
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "**no**" not in ended.stdout
