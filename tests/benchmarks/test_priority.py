"""The generator's priority."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks import priority

ASK = "import os; print(os.sched_getscheduler(0))"
GIVE_UP = """
import os
from benchmarks import priority
with priority.real_time():
    os.setuid(65534)
print(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)
"""


def _policy() -> int:
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK


def test_real_time_priority_is_had_only_within_and_only_where_it_is_said_to_be() -> None:
    before = _policy()
    with priority.real_time() as first_in_line:
        assert (_policy() == os.SCHED_FIFO) is first_in_line
    assert _policy() == before


def test_who_does_not_want_real_time_priority_keeps_his_own() -> None:
    before = _policy()
    with priority.real_time(wanted=False) as first_in_line:
        assert not first_in_line
        assert _policy() == before


def test_a_server_started_by_a_generator_at_real_time_priority_has_none() -> None:
    with priority.real_time():
        told = subprocess.run([sys.executable, "-c", ASK], capture_output=True, check=True)
    assert int(told.stdout) != os.SCHED_FIFO


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to give up")
def test_who_may_raise_his_priority_but_not_clear_its_flag_has_his_own_again() -> None:
    """A limit of ``rtprio``, as machines for audio have, allows the one and not the other."""
    told = subprocess.run([sys.executable, "-c", GIVE_UP], capture_output=True, check=True)
    assert int(told.stdout) == _policy()
