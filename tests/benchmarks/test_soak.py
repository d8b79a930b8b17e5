"""The soak's judgement: why a queue ran dry, whether books agree, how memory grows."""

from __future__ import annotations

import json

import pytest

from benchmarks.ledgers import Account, audit
from benchmarks.playback import RATE_HZ, Playback, Spans
from benchmarks.soak import growth_mib_h

CHUNK = RATE_HZ // 10


def playing(until_s: float = 2.0) -> Playback:
    """Chunks of 0.1 s on the beat from 0 s on, 0.3 s ahead."""
    playback = Playback(Spans(), Spans())
    for _ in range(3):
        playback.arrive(0.0, CHUNK)
    for k in range(1, round(until_s * 10) + 1):
        playback.arrive(k / 10, CHUNK)
    return playback


def test_an_even_answer_has_no_gap_and_a_queue_of_the_lead_less_a_chunk() -> None:
    playback = playing()
    assert playback.gaps == []
    assert playback.answers == 1
    assert playback.least_s == pytest.approx(0.2)
    assert playback.samples == 23 * CHUNK


def test_a_queue_that_ran_dry_is_the_servers_gap() -> None:
    playback = playing()
    playback.arrive(2.5, CHUNK)
    (gap,) = playback.gaps
    assert gap.cause == "server"
    assert gap.at_s == pytest.approx(2.3)
    assert gap.length_s == pytest.approx(0.2)


def test_a_long_silence_is_the_pause_between_two_answers() -> None:
    playback = playing()
    playback.arrive(5.0, CHUNK)
    assert playback.gaps == []
    assert playback.answers == 2


def test_a_bot_that_was_away_is_to_blame_itself() -> None:
    playback = playing()
    playback.absences.add(2.05, 2.45)
    playback.arrive(2.5, CHUNK)
    assert playback.gaps[0].cause == "away"


def test_an_absence_too_short_to_empty_the_queue_excuses_nothing() -> None:
    playback = playing()
    playback.absences.add(2.1, 2.15)
    playback.arrive(2.5, CHUNK)
    assert playback.gaps[0].cause == "server"


def test_a_generator_that_was_stalled_is_to_blame_itself() -> None:
    playback = playing()
    playback.stalls.add(2.2, 2.5)
    playback.arrive(2.5, CHUNK)
    assert playback.gaps[0].cause == "client"


def test_a_server_without_a_core_is_not_to_blame() -> None:
    playback = playing()
    for k in range(6):  # in slices
        playback.starvation.add(1.9 + k / 10, 1.94 + k / 10)
    playback.arrive(2.5, CHUNK)
    assert playback.gaps[0].cause == "machine"


def test_a_wait_for_the_core_is_looked_up_when_there_is_a_gap_to_judge_and_only_then() -> None:
    """The late chunk comes as soon as the wait is over, long before the next regular look."""
    starvation, looks_s = Spans(), list[float]()

    def look(now_s: float) -> None:
        looks_s.append(now_s)
        starvation.add(2.1, now_s)

    playback = Playback(Spans(), starvation, look)
    for at_s in (0.0, 0.0, 0.0, 0.1, 0.5):  # 0.1 s too late, and later an answer of its own
        playback.arrive(at_s, CHUNK)
    assert looks_s == [0.5]
    assert [gap.cause for gap in playback.gaps] == ["server"], "what it waited for came later"
    playback.arrive(2.4, CHUNK)
    playback.arrive(2.8, CHUNK)
    assert looks_s == [0.5, 2.8]
    assert [gap.cause for gap in playback.gaps] == ["server", "machine"]


def test_a_bot_that_left_takes_its_queue_with_it() -> None:
    playback = playing()
    playback.end()
    playback.arrive(2.6, CHUNK)
    assert playback.gaps == []
    assert playback.answers == 2


def ended(bot_id: str, frames: int, /, **others: object) -> str:
    record = {
        "level": "INFO",
        "event": "meeting ended",
        "bot_id": bot_id,
        "frames": frames,
        "received_s": frames * 0.02,
        "sent_s": 1.0,
        "dropped_s": 0.0,
        "starved": 0,
        "rejected": {},
        "ledger": "balanced",
    }
    return json.dumps({**record, **others})


def test_books_that_agree_over_all_meetings_of_a_bot_are_exact() -> None:
    lines = ["not the log's", ended("a", 10), ended("a", 5, sent_s=0.5), ended("b", 7)]
    books = audit(lines, {"a": Account(15, 0, 1.5), "b": Account(7, 0, 1.0)}, 20)
    assert books.errors == []
    assert (books.meetings, books.frames, books.sent, books.unread) == (3, 22, 22, 0)


def test_a_missing_frame_is_excused_only_where_a_socket_was_taken_over() -> None:
    lines = [ended("a", 10)]
    assert audit(lines, {"a": Account(12, 10, 1.0)}, 20).unread == 2
    assert audit(lines, {"a": Account(12, 10, 1.0)}, 20).errors == []
    assert "12 frames sent, 10 taken" in audit(lines, {"a": Account(12, 1, 1.0)}, 20).errors[0]
    assert audit(lines, {"a": Account(9, 10, 1.0)}, 20).errors  # one more than was sent


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ledger": ["off by 1"]}, "off by 1"),
        ({"rejected": {"empty": 1}}, "rejected"),
        ({"received_s": 0.1}, "s in samples"),
        ({"sent_s": 1.1}, "s of speech sent"),
        ({"bot_id": "c"}, "nobody's meeting"),
    ],
)
def test_what_is_not_exact_is_said(changed: dict[str, object], said: str) -> None:
    books = audit([ended("a", 10, **changed)], {"a": Account(10, 0, 1.0)}, 20)
    assert any(said in error for error in books.errors)


def test_warnings_and_errors_of_the_log_are_counted() -> None:
    line = json.dumps({"level": "ERROR", "event": "agent failed", "bot_id": "a"})
    assert audit([line, line], {}, 20).alarms == {"agent failed": 2}


def test_memory_growth_leaves_the_warm_up_out() -> None:
    memory = [(float(t), 1_000 + (90_000 if t < 30 else 90_000 + t)) for t in range(90)]
    slope, error = growth_mib_h(memory)
    assert slope == pytest.approx(3_600 / 1_024, rel=0.01)
    assert error < 0.1
    assert growth_mib_h(memory[:3]) == (0.0, float("inf"))
