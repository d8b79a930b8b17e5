"""The pure parts of the benchmarks: what turns stamps and trials into figures."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import attrs
import numpy as np
import pytest

from benchmarks.latency import Schedule, measure
from benchmarks.plot import line_plot
from benchmarks.report import About, quick_table, to_markdown
from benchmarks.results import Figures, Results, remarks
from benchmarks.rows import FULL, Row
from benchmarks.signals import samples_out_after
from benchmarks.stamps import (
    FILE_VARIABLE,
    Stamps,
    bot_id_of,
    index_of,
    make_stamp_file,
    open_stamps,
    read_stamps,
)
from benchmarks.wsclient import BINARY, masked

MS = 1_000_000
OUT_AFTER = np.array([0, 490, 490, 979], np.int64)
"""Frames 1 and 3 bring a burst each, frames 0 and 2 nothing."""


def schedule(bots: int = 1, first: int = 0) -> Schedule:
    return Schedule(0, 20 * MS, np.arange(bots, dtype=np.int64) * MS, first, 4)


def stamps(*rows: tuple[int, int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array(rows, np.int64)


FIGURES = Figures(
    cpu_us=20.0,
    p50_ms=0.1,
    p99_ms=0.2,
    p999_ms=0.3,
    memory_kib=150.0,
    busy=0.2,
    foreign=0.0,
    delivered=1.0,
    early=0,
    late_p99_ms=0.01,
)


def test_a_hand_over_is_timed_from_the_frame_it_had_to_wait_for() -> None:
    found = measure(stamps((0, 320, 23 * MS), (0, 960, 63 * MS)), schedule(), OUT_AFTER)
    assert found.p50_ms == 3.0
    assert found.delivered == 1.0
    assert found.early == 0


def test_the_last_chunk_of_a_frame_counts() -> None:
    given = stamps((0, 320, 21 * MS), (0, 640, 61 * MS), (0, 960, 64 * MS))
    assert measure(given, schedule(first=2), OUT_AFTER).p99_ms == 4.0


def test_frames_that_are_handed_over_together_are_each_charged_with_their_own_wait() -> None:
    found = measure(stamps((0, 979, 90 * MS)), schedule(), OUT_AFTER)
    assert found.p50_ms == (70.0 + 30.0) / 2
    assert found.early == 0


def test_each_bot_is_timed_from_its_own_phase() -> None:
    found = measure(stamps((1, 490, 26 * MS)), schedule(bots=2), OUT_AFTER)
    assert found.p50_ms == 5.0


def test_frames_of_the_warm_up_and_bots_without_a_number_are_not_measured() -> None:
    given = stamps((0, 490, 500 * MS), (-1, 490, 900 * MS), (0, 979, 61 * MS))
    assert measure(given, schedule(first=2), OUT_AFTER).p999_ms == 1.0


def test_a_bot_that_begins_later_is_measured_at_the_same_time_as_the_others() -> None:
    late = Schedule(0, 20 * MS, np.array([45 * MS], np.int64), first=3, frames=4)
    given = stamps((0, 490, 66 * MS), (0, 979, 900 * MS))
    assert measure(given, late, OUT_AFTER).p999_ms == 1.0, (
        "its frame 3 is due after all is over"
    )


def test_what_was_dropped_is_missing_from_what_was_delivered() -> None:
    found = measure(stamps((0, 480, 21 * MS)), schedule(), OUT_AFTER)
    assert found.delivered == 0.5


def test_audio_that_nobody_sent_is_noticed() -> None:
    found = measure(stamps((0, 979, 30 * MS)), schedule(), OUT_AFTER)
    assert found.early == 1


def test_without_a_single_stamp_there_is_no_latency() -> None:
    found = measure(np.zeros((0, 3), np.int64), schedule(), OUT_AFTER)
    assert math.isnan(found.p50_ms)
    assert found.delivered == 0.0


@pytest.mark.parametrize("frame_ms", [10, 20, 100])
def test_the_resampler_holds_back_some_40_ms_at_most(frame_ms: int) -> None:
    out = samples_out_after(50, frame_ms)
    due = 16 * frame_ms * np.arange(1, 51)
    assert (out <= due).all()
    assert (due - out < 16 * 45).all()


def test_stamps_are_read_back_and_what_does_not_fit_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "stamps"
    make_stamp_file(path, 2)
    pen = Stamps(str(path))
    for samples in (320, 640, 960):
        pen.note(7, samples)
    assert read_stamps(path)[:, :2].tolist() == [[7, 320], [7, 640]]
    assert index_of(bot_id_of(-1)) == -1


def test_every_process_of_a_server_has_a_stamp_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stamps"
    make_stamp_file(path, 2)
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    for pid in (17, 18):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        open_stamps().note(pid, 320)
    assert sorted(read_stamps(path)[:, 0].tolist()) == [17, 18]


@pytest.mark.parametrize("size", [0, 5, 125, 126, 1_925, 70_000])
def test_a_masked_frame_unmasks_to_its_payload(size: int) -> None:
    payload = bytes(k % 251 for k in range(size))
    frame = masked(BINARY, payload)
    key, body = frame[-size - 4 :][:4], frame[len(frame) - size :]
    assert bytes(b ^ key[k % 4] for k, b in enumerate(body)) == payload
    assert frame[0] == 0x82


def results() -> Results:
    made = Results()
    for round_, slow in enumerate((1, 2, 4)):  # the machine slows down, for all alike
        made.add(Row(), "ours", round_, attrs.evolve(FIGURES, cpu_us=10.0 * slow))
        made.add(Row(), "theirs", round_, attrs.evolve(FIGURES, cpu_us=20.0 * slow))
    return made


def test_ratios_are_taken_within_a_round_and_medians_over_rounds() -> None:
    made = results()
    median = made.median(Row(), "ours")
    assert median is not None
    assert median.cpu_us == 20.0
    assert made.ratio(Row(), "ours", "theirs") == 0.5
    assert math.isnan(made.ratio(Row(), "ours", "nobody"))


def test_a_round_in_which_one_server_failed_has_no_ratio() -> None:
    made = results()
    made.add(Row(), "ours", 3, attrs.evolve(FIGURES, cpu_us=1.0))
    assert made.ratio(Row(), "ours", "theirs") == 0.5
    assert made.rounds(Row()) == 4


def test_the_report_has_a_line_for_every_server_and_every_note() -> None:
    made = results()
    made.note("picows: not installed")
    about = About("2026-01-01", "a machine", "cores", "versions", "python -m x", 2.0, 3)
    text = to_markdown(made, ["ours"], about)
    assert "| theirs | 40.0 | 0.50 | 0.10 | 0.20 | 0.30 | 150 | 20% |  |" in text
    assert "- picows: not installed" in text
    assert "trials were disturbed" not in text
    assert "| theirs | 0.50 |" in quick_table(made, ["ours"])


def test_a_report_of_a_busy_machine_says_that_it_is_not_to_be_quoted() -> None:
    made = results()
    made.add(Row(), "ours", 3, attrs.evolve(FIGURES, late_p99_ms=5.0))
    about = About("2026-01-01", "a machine", "cores", "versions", "python -m x", 2.0, 3)
    assert "**1 of 7 trials were disturbed" in to_markdown(made, ["ours"], about)


def test_what_makes_figures_doubtful_is_said() -> None:
    bad = attrs.evolve(FIGURES, busy=0.99, delivered=0.9, early=1, foreign=0.5)
    said = remarks(Row(), bad)
    for word in ("saturated", "lost 10.0 %", "latency void", "disturbed"):
        assert word in said
    assert remarks(Row(), FIGURES) == ""


def test_the_plot_is_svg_with_every_name_in_it() -> None:
    series = {"ours": [(10.0, 30.0), (400.0, 20.0)], "a < b": [(10.0, 40.0)], "empty": []}
    root = ElementTree.fromstring(line_plot(series, ["ours"], "t", "x", "y"))
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"ours", "a < b"} <= set(texts)
    assert "empty" not in texts


def test_rows_have_titles_of_their_own() -> None:
    assert len({row.title for row in FULL}) == len(FULL)
