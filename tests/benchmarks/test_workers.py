"""What a second worker is worth: the arithmetic behind it, from three sides."""

from __future__ import annotations

import math

import attrs
import numpy as np
import pytest

from benchmarks.backlog import (
    BOTS_A_WORKER,
    FRAMES,
    Backlog,
    Round,
    backlog_section,
    balance,
    count_rounds,
    more_by_backlog,
)
from benchmarks.bars import bars_section
from benchmarks.results import Results
from benchmarks.workers import (
    STEP,
    TRIES,
    Carried,
    Fleet,
    find_most,
    more_by_cpu,
    numbers_of_bots,
    workers_section,
)

MS = 1_000_000
OUT_AFTER = np.array([0, 490, 490, 979], np.int64)
ONE, TWO = (30.0, 30.0, 60.0), (32.0, 34.0, 33.0)


def fleets(one: Carried, two: Carried, rounds: int = 3) -> dict[int, Fleet]:
    backlogs = {1: Backlog(1, (ONE,), rounds), 2: Backlog(2, (TWO,), rounds)}
    return {n: Fleet(n, (40.0,), backlogs[n], c) for n, c in ((1, one), (2, two))}


def stamps(*rows: tuple[int, int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array(rows, np.int64).reshape(-1, 3)


def rounds_of(*waited_ms: float) -> list[Round]:
    return [
        Round((100 * k) * MS, (100 * k + 90) * MS, 2 * (k + 1), round(ms * MS))
        for k, ms in enumerate(waited_ms)
    ]


def test_a_backlog_lasts_until_the_last_bot_has_all_of_it() -> None:
    given = stamps((0, 320, 5 * MS), (0, 490, 8 * MS), (1, 490, 30 * MS), (1, 320, 20 * MS))
    assert count_rounds(given, rounds_of(0.0), OUT_AFTER, bots=2) == [30.0]


def test_each_round_has_its_own_clock() -> None:
    given = stamps((0, 490, 30 * MS), (0, 979, 140 * MS))
    assert count_rounds(given, rounds_of(0.0, 0.0), OUT_AFTER, bots=1) == [30.0, 40.0]


def test_a_round_in_which_a_worker_waited_for_its_core_is_left_out() -> None:
    given = stamps((0, 490, 30 * MS), (0, 979, 140 * MS))
    assert count_rounds(given, rounds_of(3.0, 1.0), OUT_AFTER, bots=1) == [40.0]


@pytest.mark.parametrize("samples", [320, 500])
def test_nothing_counts_from_a_round_on_that_is_not_exact(samples: int) -> None:
    given = stamps((0, samples, 30 * MS), (0, 979, 140 * MS))
    assert count_rounds(given, rounds_of(0.0, 0.0), OUT_AFTER, bots=1) == []


def test_a_round_that_is_not_over_when_the_generator_wakes_up_does_not_count() -> None:
    assert count_rounds(stamps((0, 490, 95 * MS)), rounds_of(0.0), OUT_AFTER, bots=1) == []


def test_a_bot_that_hears_nothing_voids_the_round() -> None:
    assert count_rounds(stamps((0, 490, 30 * MS)), rounds_of(0.0), OUT_AFTER, bots=2) == []
    assert count_rounds(stamps(), rounds_of(0.0), OUT_AFTER, bots=2) == []


def test_two_workers_are_compared_with_the_one_that_ran_beside_them() -> None:
    # The machine slows down, for all alike; and one pair has no figure.
    one = Backlog(1, ((30.0,), (60.0,), (), (10.0,)), 4)
    two = Backlog(2, ((33.0,), (66.0,), (10.0,), ()), 4)
    assert more_by_backlog({1: one, 2: two}) == pytest.approx(2 * 30 / 33)
    assert one.ms == 30.0
    assert one.frames_hz == pytest.approx(BOTS_A_WORKER * FRAMES / 0.03)


def test_a_backlog_of_which_no_round_counts_has_no_figure() -> None:
    none = {n: Backlog(n, ((), ()), 4) for n in (1, 2)}
    assert math.isnan(more_by_backlog(none))
    assert none[1].disturbed
    assert "Not enough of them count: not a quiet machine." in backlog_section(none)


def test_the_balance_is_that_of_the_bots_of_each_worker() -> None:
    """A worker's bots are those that it stamped for; the first one, -1, does not count."""
    one = stamps((-1, 1, 1), *((k, 320, 5) for k in (*range(30), *range(30))))
    two = stamps(*((k, 320, 5) for k in range(30, 50)))
    assert balance([stamps(), one, two]) == pytest.approx(25 / 30)
    assert balance([one]) == 1.0
    assert math.isnan(balance([stamps()]))


def test_workers_carry_what_the_busiest_of_them_can() -> None:
    found = fleets(Carried(450, 0.1), Carried(700, 0.3, heaviest=0.55))
    assert found[1].bots() == pytest.approx(500.0)
    assert found[2].bots() == pytest.approx(1_000.0 / 1.1)
    said = "\n".join(workers_section(found))
    assert "Two over one: **1.82** by CPU; 1.56 in time" in said
    assert "1.70 cores left to the workers: **1.83** for two cores." in said
    assert "Two over one: **1.82** with nothing else on the cores; 1.82 to" in said


def test_the_cpu_of_two_workers_is_compared_with_the_trial_beside_it() -> None:
    # The machine gets slower for a while, for all alike.
    alone, both = Carried(450, 0.1), Carried(450, 0.1, heaviest=0.5)
    same = fleets(alone, both)
    one = attrs.evolve(same[1], costs_us=(20.0, 40.0, 60.0))
    two = attrs.evolve(same[2], costs_us=(22.0, 66.0, 66.0))
    assert more_by_cpu({1: one, 2: two}) == pytest.approx(2 / 1.1)
    assert (one.cost_us, two.cost_us) == (40.0, 66.0)


def test_without_two_workers_nothing_is_said_of_them() -> None:
    assert workers_section({}) == []


def test_a_machine_too_busy_for_any_number_of_bots_is_told_and_no_error() -> None:
    none = Carried(0, 0.0)
    said = workers_section(fleets(none, none))
    assert any("served in time: not a quiet machine." in line for line in said)


def test_what_two_workers_are_worth_has_a_bar_from_both_sides() -> None:
    found = fleets(Carried(450, 0.1), Carried(700, 0.3, heaviest=0.6))
    lines = bars_section(Results(), ["a", "b", "c"], {}, {}, found)
    assert "| bots of two workers over one's, by CPU | 1.67 | >= 1.8 | **no** |" in lines
    what = "frames/s of two workers over one's, a backlog on free cores"
    assert f"| {what} | 1.82 | >= 1.8 | yes |" in lines
    found = fleets(Carried(450, 0.1), Carried(700, 0.3), rounds=7)
    lines = bars_section(Results(), ["a", "b", "c"], {}, {}, found)
    assert f"| {what} | 1.82 (disturbed) | >= 1.8 | yes |" in lines


@pytest.mark.parametrize("most", range(8))
def test_the_most_that_works_is_found_by_halving(most: int) -> None:
    asked: list[int] = []

    def in_time(bots: int) -> str | None:
        asked.append(bots)
        return str(bots) if bots <= most else None

    assert find_most(range(1, 8), in_time) == (str(most) if most else None)
    assert len(asked) <= 3 * TRIES


def test_what_fails_once_is_tried_again() -> None:
    asked: list[int] = []

    def in_time(bots: int) -> int | None:
        asked.append(bots)
        return bots if asked.count(bots) == TRIES else None

    assert find_most([10, 11, 12], in_time) == 12


def test_bots_are_looked_for_around_what_the_cpu_says() -> None:
    numbers = numbers_of_bots(500.0)
    assert numbers[0] == 250
    assert 800 / STEP < numbers[-1] <= 800
    assert numbers_of_bots(1e6) == []
