"""Interrupts and pacing: what turns arrivals into lateness, and figures into Markdown."""

from __future__ import annotations

import pytest

from benchmarks.results import Figures, Results
from benchmarks.rows import Row
from benchmarks.scaling import FEW, MANY, scaling_section
from benchmarks.speech import Speech, lateness_ms, speech_section
from benchmarks.startup import startup_section

MS = 1_000_000
CHUNK = 4_800


def figures(cpu_us: float, memory_kib: float = 100.0, heaviest: float = 1.0) -> Figures:
    return Figures(
        cpu_us=cpu_us,
        p50_ms=0.1,
        p99_ms=0.2,
        p999_ms=0.3,
        memory_kib=memory_kib,
        busy=0.2,
        foreign=0.0,
        delivered=1.0,
        early=0,
        late_p99_ms=0.01,
        heaviest=heaviest,
    )


def test_chunks_on_the_beat_are_not_late_however_long_the_beat_began_ago() -> None:
    chunks = [(7_000 * MS + k * 100 * MS, CHUNK) for k in range(5)]
    assert lateness_ms(chunks, fill=0) == [0.0] * 5


def test_a_late_chunk_is_late_by_its_own_delay_only() -> None:
    arrivals = (0, 100, 207, 300)
    chunks = [(at * MS, CHUNK) for at in arrivals]
    assert lateness_ms(chunks, fill=0) == pytest.approx([0.0, 0.0, 7.0, 0.0])


def test_a_short_chunk_makes_the_next_one_due_earlier() -> None:
    chunks = [(0, CHUNK), (100 * MS, CHUNK // 2), (150 * MS, CHUNK)]
    assert lateness_ms(chunks, fill=0) == pytest.approx([0.0, 0.0, 0.0])


def test_the_burst_that_fills_the_lead_is_left_out() -> None:
    chunks = [(0, CHUNK)] * 3 + [(k * 100 * MS, CHUNK) for k in range(1, 4)]
    assert lateness_ms(chunks, fill=3) == pytest.approx([0.0, 0.0, 0.0])
    assert lateness_ms(chunks[:3], fill=3) == []


def test_trials_are_put_in_one_heap() -> None:
    both = Speech((1.0,), (2.0,), 1) + Speech((3.0,), (), 0)
    assert both == Speech((1.0, 3.0), (2.0,), 1, 2)
    lines = speech_section({"ours": both, "mute": Speech((), (), 0)})
    cells = "2 | 2.00 | 2.98 | 3.00 | 1 | 2.00 | 2.00 | 2.00 | 1 of 2 trials disturbed"
    assert f"| ours | {cells} |" in lines
    assert "| mute | 0 |  |  |  | 0 |  |  |  |  |" in lines


def test_growth_is_the_median_of_the_ratios_within_a_round() -> None:
    results = Results()
    for round_, slow in enumerate((1.0, 2.0, 9.0)):  # the machine slows down, for all alike
        results.add(FEW, "ours", round_, figures(40.0 * slow, 100.0))
        results.add(MANY, "ours", round_, figures(30.0 * slow, 110.0))
    assert "| ours | 0.75 | 100 | 110 | 1.10 |" in scaling_section(results)


def test_growth_needs_both_ends() -> None:
    results = Results()
    results.add(FEW, "ours", 0, figures(40.0))
    assert scaling_section(results) == []
    results.add(Row(bots=400), "theirs", 0, figures(40.0))
    assert not any(line.startswith("| theirs") for line in scaling_section(results))


def test_start_up_is_told_by_its_median() -> None:
    assert "| ours | 0.30 | 0.20 | 0.90 |" in startup_section({"ours": [0.9, 0.2, 0.3]})
