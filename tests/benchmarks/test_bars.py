"""What was promised beside what was found."""

from __future__ import annotations

from benchmarks.bars import bars_section
from benchmarks.results import Figures, Results
from benchmarks.rows import Row
from benchmarks.speech import Speech

OURS = ["trio_bridge", "trio_bridge, tick 0", "trio_bridge, tick 100 ms"]


def figures(cpu_us: float, p99_ms: float = 1.0, foreign: float = 0.0) -> Figures:
    return Figures(
        cpu_us=cpu_us,
        p50_ms=0.1,
        p99_ms=p99_ms,
        p999_ms=9.0,
        memory_kib=150.0,
        busy=0.2,
        foreign=foreign,
        delivered=1.0,
        early=0,
        late_p99_ms=0.01,
    )


def measured(foreign: float = 0.0) -> Results:
    results = Results()
    row = Row(bots=200)
    for name, cpu_us, p99_ms in (
        (OURS[0], 20.0, 2.0),
        (OURS[1], 30.0, 0.2),
        (OURS[2], 15.0, 40.0),
        ("FastAPI + uvicorn + uvloop (websockets)", 50.0, 0.3),
        ("FastAPI + uvicorn + uvloop (sans-I/O)", 40.0, 0.4),
        ("websockets + uvloop", 19.0, 0.25),
    ):
        results.add(row, name, 0, figures(cpu_us, p99_ms, foreign))
    return results


def test_a_ratio_is_to_the_cheapest_peer_of_that_name() -> None:
    lines = bars_section(measured(), OURS, {}, {}, {})
    assert "| 200 bots, 20 ms: CPU of trio_bridge over FastAPI | 0.50 | <= 0.8 | yes |" in lines
    assert (
        "| 200 bots, 20 ms: CPU of trio_bridge over websockets | 1.05 | <= 1.0 | **no** |"
        in lines
    )


def test_the_lowest_latency_is_compared_with_the_quickest_peer() -> None:
    lines = bars_section(measured(), OURS, {}, {}, {})
    told = "0.20 ms | < 0.25 (websockets + uvloop) | yes |"
    assert f"| 200 bots, 20 ms: p99 of trio_bridge, tick 0 | {told}" in lines
    assert "| 200 bots, 20 ms: p99 of trio_bridge | 2.00 ms | < 5 ms | yes |" in lines


def test_what_was_disturbed_says_so() -> None:
    lines = bars_section(measured(foreign=0.5), OURS, {}, {}, {})
    assert any("0.50 (disturbed)" in line for line in lines)


def test_interrupts_pacing_and_start_up_have_bars_of_their_own() -> None:
    speech = {OURS[0]: Speech((1.0, 2.0), (6.0, 7.0), 0)}
    lines = bars_section(Results(), OURS, speech, {"trio_bridge": [0.2, 0.9, 0.3]}, {})
    assert "| interrupt answered: trio_bridge | 1.99 ms at p99 | <= 5 ms | yes |" in lines
    assert "| pacer late: trio_bridge | 6.99 ms at p99 | <= 5 ms | **no** |" in lines
    assert "| start-up | 0.30 s | <= 0.6 s | yes |" in lines


def test_nothing_measured_is_nothing_said() -> None:
    assert bars_section(Results(), OURS, {}, {}, {}) == []
