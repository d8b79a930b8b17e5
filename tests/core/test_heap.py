"""Memory that was in use once goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest
import trio

from tests.core.rooms import bridge, listener
from trio_bridge import heap, server

HOLES = """
import sys
from benchmarks.accounting import resident_kib
from trio_bridge.heap import give_back
import os
held = [bytearray(9_600) for _ in range(6_000)]
del held[:-1]  # the last one is at the top of the heap, and keeps it where it is
before = resident_kib(os.getpid())
give_back()
print(before - resident_kib(os.getpid()))
"""


@pytest.mark.skipif(heap._trim is None, reason="no glibc")
def test_memory_that_is_free_below_what_is_in_use_goes_back_to_the_system() -> None:
    run = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, check=True)
    assert int(run.stdout) > 40 << 10


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_trim", None)
    heap.give_back()


async def test_a_server_gives_its_memory_back_every_minute_meetings_or_not(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    times_s: list[float] = []
    monkeypatch.setattr(server, "give_back", lambda: times_s.append(trio.current_time()))
    async with bridge(listener) as room:
        began_s = trio.current_time()
        await room.join("/bridge")
        await trio.sleep(150)
        control = await room.join("/bridge")
        await control.leave()
        await trio.sleep(100)
    assert [at_s - began_s for at_s in times_s] == pytest.approx([60, 120, 180, 240], abs=0.1)
