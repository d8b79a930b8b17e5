"""Memory that was in use once goes back to the system."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from tests.core.rooms import bridge, listener
from trio_bridge import cli, heap, server

HOLES = """
import os, sys
from benchmarks.accounting import resident_kib
from trio_bridge.heap import give_back
share = float(sys.argv[1])
held = [bytearray(9_600) for _ in range(12_000)]
del held[: round(share * len(held))]  # the last one keeps the top of the heap where it is
before = resident_kib(os.getpid())
print(give_back(), before - resident_kib(os.getpid()))
"""


def given_back_kib(share: float) -> tuple[str, int]:
    """Of 110 MiB of heap, once ``share`` of it is free below what is in use."""
    command = [sys.executable, "-c", HOLES, str(share)]
    run = subprocess.run(command, capture_output=True, check=True, text=True)
    said, kib = run.stdout.split()
    return said, int(kib)


@pytest.mark.skipif(heap._glibc is None, reason="no glibc")
@pytest.mark.parametrize(("share", "at_least_mib"), [(0.9, 90), (0.3, 30)])
def test_what_is_free_below_what_is_in_use_goes_back_to_the_system(
    share: float, at_least_mib: int
) -> None:
    said, kib = given_back_kib(share)
    assert said == "True"
    assert kib > at_least_mib << 10


LARGE = """
import os
from benchmarks.accounting import resident_kib
from trio_bridge.heap import keep_large_apart
print(keep_large_apart())
big = [bytearray(b"x" * (1 << 20)) for _ in range(41)]
big.clear()  # from now on glibc by itself would keep a MiB in the heap
held = []
for _ in range(40):
    big.append(bytearray(b"x" * (1 << 20)))
    held.append(bytearray(b"y" * 9_600))
before = resident_kib(os.getpid())
big.clear()
print(before - resident_kib(os.getpid()))
"""


@pytest.mark.skipif(heap._glibc is None, reason="no glibc")
def test_a_large_block_goes_back_at_once_whatever_came_behind_it() -> None:
    run = subprocess.run(
        [sys.executable, "-c", LARGE], capture_output=True, check=True, text=True
    )
    said, kib = run.stdout.split()
    assert said == "True"
    assert int(kib) > 38 << 10


REPLACED = """
import math, os, sys
import numpy as np
from benchmarks.accounting import resident_kib
from trio_bridge.audio.resample import Resampler
from trio_bridge.audio.streams import make_streams_apart
from trio_bridge import heap
heap.DEAR_S = math.inf  # how long this machine takes is another test's
if sys.argv[1] == "apart":
    make_streams_apart()
frame = np.zeros(960, np.float32)

class Meeting:
    def __init__(self):
        self.ear, self.voice = Resampler(48_000, 16_000), Resampler(16_000, 48_000)
        for _ in range(20):
            self.ear.process(frame)

meetings = [Meeting() for _ in range(100)]
before = resident_kib(os.getpid())
for n in range(2_000):
    at = n * 37 % 100
    meetings[at] = None
    if sys.argv[1] != "apart":  # there it is who makes the next stream that does
        heap.give_back()
    meetings[at] = Meeting()
print(resident_kib(os.getpid()) - before)
"""


APART = """
import numpy as np
from trio_bridge.audio.resample import Resampler
from trio_bridge.audio.streams import make_streams_apart

def heap_kib():  # of the one that small blocks are in
    ranges = [line.split()[0] for line in open("/proc/self/maps") if "[heap]" in line]
    ends = [[int(end, 16) for end in range.split("-")] for range in ranges]
    return sum(end - start for start, end in ends) >> 10

make_streams_apart()
before = heap_kib()
resamplers = [Resampler(48_000, 16_000) for _ in range(100)]
for resampler in resamplers:
    for _ in range(20):
        resampler.process(np.zeros(960, np.float32))  # grows, here, what was made there
    resampler.finish()
print(heap_kib() - before)
"""


@pytest.mark.skipif(heap._glibc is None, reason="no glibc")
def test_streams_that_are_made_apart_take_no_room_in_the_heap() -> None:
    environ = {k: v for k, v in os.environ.items() if k != "MALLOC_ARENA_MAX"}
    run = subprocess.run(
        [sys.executable, "-c", APART], capture_output=True, check=True, text=True, env=environ
    )
    assert int(run.stdout) < 1 << 10  # of 9 MiB


@pytest.mark.skipif(heap._glibc is None, reason="no glibc")
@pytest.mark.parametrize("streams", ["apart", "in the heap"])
def test_meetings_that_end_and_begin_do_not_make_the_heap_grow(streams: str) -> None:
    """Without `give_back` between the two by 5 MiB: see `trio_bridge.heap`."""
    run = subprocess.run(
        [sys.executable, "-c", REPLACED, streams], capture_output=True, check=True, text=True
    )
    assert int(run.stdout) < 512


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_glibc", None)
    assert not heap.give_back()
    assert not heap.keep_large_apart()


async def test_a_server_gives_back_every_minute_meetings_or_not(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    times_s: list[float] = []
    monkeypatch.setattr(heap, "give_back", lambda: times_s.append(trio.current_time()))
    async with bridge(listener) as room:
        began_s = trio.current_time()
        await room.join("/bridge")
        await trio.sleep(150)
        control = await room.join("/bridge")
        await control.leave()
        await trio.sleep(100)
    assert [at_s - began_s for at_s in times_s] == pytest.approx([60, 120, 180, 240], abs=0.1)


async def test_a_meeting_that_begins_after_another_ended_finds_the_heap_given_back(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Or its resampler lies over pages that the other's had in use, and they stay resident."""
    times_s: list[float] = []
    monkeypatch.setattr(heap, "give_back", lambda: times_s.append(trio.current_time()))
    async with bridge(listener) as room:
        first = await room.control("bot-1")
        await room.control("bot-2")
        assert times_s == []
        await first.leave()
        await trio.sleep(30)  # beyond its grace
        assert times_s == []  # nobody needs it yet
        await room.control("bot-3")
        assert len(times_s) == 1
        await room.control("bot-4")
        assert len(times_s) == 1


def test_where_giving_back_takes_long_twice_in_a_row_what_begins_does_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s, lasts_s, times = 0.0, 0.001, 0

    def give_back() -> bool:
        nonlocal now_s, times
        now_s += lasts_s
        times += 1
        return True

    clock = SimpleNamespace(thread_time=lambda: now_s, monotonic=lambda: now_s)
    monkeypatch.setattr(heap, "give_back", give_back)
    monkeypatch.setattr(heap, "time", clock)
    ours = heap.Heap()
    ours.tidy_for_another(1)
    ours.tidy_for_another(1)  # none has gone since
    assert times == 1
    lasts_s = 0.01
    ours.tidy_for_another(2)
    lasts_s = 0.001
    ours.tidy_for_another(3)  # once it took long, which says nothing
    assert times == 3
    lasts_s = 0.01
    ours.tidy_for_another(4)
    ours.tidy_for_another(5)
    ours.tidy_for_another(6)
    assert times == 5
    now_s += heap.GIVE_BACK_S
    ours.tidy_for_another(6)
    ours.tidy_for_another(7)
    assert times == 6
    lasts_s = 0.001
    ours.tidy(7)  # each minute
    ours.tidy_for_another(8)
    assert times == 8


@pytest.mark.parametrize("glibc", [True, False])
def test_a_whole_program_keeps_large_blocks_and_streams_apart_and_a_server_does_not(
    glibc: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []

    def keep_large_apart() -> bool:
        kept.append("large")
        return glibc

    monkeypatch.setattr(cli, "keep_large_apart", keep_large_apart)
    monkeypatch.setattr(cli, "make_streams_apart", lambda: kept.append("streams"))
    monkeypatch.setattr(cli, "_collect_rarely", lambda: None)
    monkeypatch.setattr(cli, "set_up_logging", lambda *_: None)
    monkeypatch.setattr(trio, "run", lambda *_, **__: None)
    server.Server(listener)
    assert kept == []
    assert cli.main(["--port", "0"]) == 0
    assert kept == ["large", "streams"] if glibc else ["large"]
