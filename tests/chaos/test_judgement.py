"""What the chaos suite's verdicts rest on: each must be able to be a bad one."""

from __future__ import annotations

import ast
import random
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import attrs
import numpy as np
import pytest
import trio
from trio.testing import MockClock

from tests.chaos import bridge
from tests.chaos.arena import ledger_faults, loud_lines
from tests.chaos.attack import Sent
from tests.chaos.bridge import Bridge, Counts, Probe, count, count_at_rest
from tests.chaos.faults import LONG, QUICK
from tests.chaos.hour import LONG_EVERY, faults_in_turn
from tests.chaos.marks import SLOTS, MarkReader, Notes, marked_pcm

PACKAGE = Path(__file__).parents[2] / "trio_bridge"
MAY_TELL_THE_TIME = {"log", "agents", "cli", "door", "server"}
"""A line's time, an agent that is asked what time it is, a token's expiry date."""


def heard(*numbers: int, shift: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    pcm = b"\0\0" * shift + b"".join(map(marked_pcm, numbers))
    return (np.frombuffer(pcm, "<i2") / 32768).astype(np.float32)


@pytest.mark.parametrize("size", [1, 3, 7, 959, 960, 961, 5_000])
def test_a_frames_number_is_read_however_the_audio_is_cut(size: int) -> None:
    numbers = [0, 1, 99, 100, 12_345, 99_999_999]
    samples = heard(*numbers, shift=11)
    reader, read = MarkReader(), []
    for at in range(0, len(samples), size):
        read += reader.read(samples[at : at + size])
    assert read == numbers


def test_a_marked_frame_is_far_below_any_speech_detector() -> None:
    samples = heard(99_999_999)
    assert 20 * np.log10(np.sqrt(np.mean(samples**2))) < -70


def test_two_processes_read_each_others_notes_by_bot_and_number(tmp_path: Path) -> None:
    writer = Notes(tmp_path / "notes", 2, make=True)
    reader = Notes(tmp_path / "notes", 2)
    assert reader.last(1) == -1
    for number in range(SLOTS + 1):
        writer.note(1, number, 1_000 + number, 7)
    assert reader.last(1) == SLOTS
    assert reader.read(1)[SLOTS] == (1_000 + SLOTS, 7)
    assert 0 not in reader.read(1)  # its slot has a newer one
    assert reader.read(0) == {}


def ended(bot_id: str = "x", **changed: object) -> dict[str, Any]:
    return {
        "event": "meeting ended", "bot_id": bot_id, "frames": 10, "received_s": 0.2,
        "rejected": {}, "ledger": "balanced", **changed,
    }  # fmt: skip


def test_exact_books_are_right_whether_in_one_meeting_or_two() -> None:
    assert ledger_faults([ended(), ended()], {"x": Sent(20, 20)}) == []


@pytest.mark.parametrize(
    ("records", "sent"),
    [
        ([], Sent()),
        ([ended()], Sent(11, 12)),
        ([ended()], Sent(8, 9)),
        ([ended(received_s=0.22)], Sent(10, 10)),
        ([ended(rejected={"short": 1})], Sent(10, 10)),
        ([ended(ledger=["off by one"])], Sent(10, 10)),
        ([ended("another")], Sent(10, 10)),
    ],
)
def test_books_that_are_off_are_found(records: list[dict[str, Any]], sent: Sent) -> None:
    assert len(ledger_faults(records, {"x": sent})) == 1


def test_errors_are_wrong_unless_injected_and_injected_ones_must_come() -> None:
    error = {"level": "ERROR", "event": "agent failed", "bot_id": "x"}
    injected = Counter({("agent failed", "x"): 1})
    assert loud_lines([error], injected) == []
    assert len(loud_lines([error, error], injected)) == 1
    assert len(loud_lines([], injected)) == 1
    assert len(loud_lines([{**error, "bot_id": "y"}], Counter())) == 1
    assert loud_lines([{**error, "level": "WARNING"}], Counter()) == []


def test_a_frame_that_an_agent_missed_is_wrong() -> None:
    lost = {"level": "INFO", "event": "frame lost", "bot_id": "bench-1"}
    assert len(loud_lines([lost], Counter())) == 1


@attrs.define
class Quiet:
    """A bridge, and its probe, in which nothing is alive but what asks it."""

    port: int = 0
    threads: int = 1
    asked_s: float = -1.0
    """When ``/health`` was; its connection is alive for 20 ms more."""
    ping_s: float = -1.0
    """When a ping went out; it waits for its pong for 20 ms."""

    @property
    def fds(self) -> int:
        return 11 + self._alive(self.asked_s)

    def ask(self) -> dict[str, int]:
        return {"tasks": 19 + self._alive(self.asked_s) + self._alive(self.ping_s)}

    async def health(self, port: int, target: str) -> Quiet:
        await trio.lowlevel.checkpoint()
        self.asked_s = trio.current_time()
        return self

    body = b'{"meetings": 1}'

    def _alive(self, since_s: float) -> int:
        return int(0 <= trio.current_time() - since_s < 0.02)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Quiet:
    quiet = Quiet()
    monkeypatch.setattr(bridge, "ask", quiet.health)
    return quiet


ALIVE = Counts(meetings=1, fds=11, threads=1, tasks=19)


async def test_a_count_does_not_count_the_connection_that_asks(
    quiet: Quiet, autojump_clock: MockClock
) -> None:
    """The hour's first count had it and its last had not: one task less, in the end."""
    for _ in range(3):
        assert await count(cast(Bridge, quiet), cast(Probe, quiet)) == ALIVE
        await trio.sleep(0.05)


async def test_what_others_are_compared_with_has_no_ping_under_way(
    quiet: Quiet, autojump_clock: MockClock
) -> None:
    quiet.ping_s = trio.current_time()
    assert await count_at_rest(cast(Bridge, quiet), cast(Probe, quiet)) == ALIVE


def test_a_gap_is_told_with_what_the_watchdog_saw_just_then() -> None:
    now = datetime.now(UTC)
    seen = [
        {
            "time": (now - timedelta(seconds=ago_s)).isoformat(),
            "event": "event loop is blocked",
            "blocked_ms": 270,
            "stack": f"/a.py:{ago_s} read < /b.py:9 run",
        }
        for ago_s in (3, 9)
    ]
    one = Bridge(cast(Any, None), 0, Path(), [{"event": "listening"}, *seen])
    assert one.blocked_near(time.monotonic() - 3.4) == [(270, "/a.py:3 read")]
    assert one.blocked_near(time.monotonic()) == []


def test_the_hour_has_every_fault_and_a_seed_is_the_same_hour() -> None:
    def first(count: int, seed: int) -> list[str]:
        turn = faults_in_turn(random.Random(seed))
        return [next(turn).__name__ for _ in range(count)]

    many = (len(QUICK) + 1) * LONG_EVERY * 20
    assert set(first(many, 1)) == {fault.__name__ for fault in (*QUICK, *LONG)}
    assert first(100, 1) == first(100, 1) != first(100, 2)


def test_nothing_that_keeps_a_meetings_time_asks_the_wall_clock() -> None:
    """With `clock_steps`, which steps it in the running process: only ``time.time`` there."""
    asked = {
        path.relative_to(PACKAGE).with_suffix("").parts[0]
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node)
        in {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow"}
    }
    assert asked <= MAY_TELL_THE_TIME
