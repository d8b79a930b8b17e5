"""Whose turn it is on the load generator's core: the generator's, where that is allowed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

NICE = -10
"""Of a generator that shares its core with a server."""
LOWEST = 1
"""Of real-time priorities; even this one precedes whatever has none."""


@contextlib.contextmanager
def real_time(wanted: bool = True, level: int = LOWEST) -> Iterator[bool]:
    """Real-time priority for this thread, if ``wanted`` and allowed; tells whether it is.

    Whoever has it must sleep a twentieth of each second: else Linux stops him for as long.
    """
    policy, param = os.sched_getscheduler(0), os.sched_getparam(0)
    raised = False
    if wanted:
        with contextlib.suppress(OSError):
            # Nothing that is started from here is to inherit it.
            first = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(0, first, os.sched_param(level))
            raised = True
    try:
        yield raised
    finally:
        if raised:
            os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, param)
            with contextlib.suppress(OSError):  # who has only a limit of rtprio may not
                os.sched_setscheduler(0, policy, param)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raised, also against other sessions: the workers of a fleet have one of their own each,
    and where Linux shares the cores among sessions first, niceness counts within one only."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    _set_nice(NICE)
    try:
        yield
    finally:
        _set_nice(before)


def _set_nice(nice: int) -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    with contextlib.suppress(OSError):  # not allowed, or not built in
        Path("/proc/self/autogroup").write_text(str(nice))
