"""The playback model: nothing is lost, and times are exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.simulator.playback import PlaybackQueue
from trio_bridge.simulator.wavs import Int16

RATE_HZ = 48_000


def ramp(count: int, first: int = 1) -> Int16:
    return ((np.arange(first, first + count) % 32_000) + 1).astype(np.int16)


steps = st.lists(
    st.tuples(
        st.floats(0, 2.0),
        st.sampled_from(["enqueue", "clear", "cut", "mark", "advance"]),
        st.integers(0, 20_000),
    ),
    max_size=40,
)


@given(steps)
def test_every_sample_is_played_once_in_order_or_cleared_or_still_queued(
    plan: list[tuple[float, str, int]],
) -> None:
    queue, now_s, given_in, heard = PlaybackQueue(), 0.0, 0, []
    tails = []
    for wait_s, what, count in plan:
        now_s += wait_s
        if what == "enqueue":
            queue.enqueue(ramp(count, given_in), now_s)
            given_in += count
        elif what == "clear":
            queue.clear(now_s)
        elif what == "cut":
            queue.cut(now_s)
        elif what == "mark":
            tails.append(queue.mark(now_s))
        else:
            queue.advance(now_s)
        heard += queue.take_heard()
        assert queue.enqueued == given_in == queue.played + queue.cleared + queue.queued
        assert queue.played == sum(answer.played for answer in queue.answers)
    queue.advance(now_s + 1000)
    heard += queue.take_heard()
    assert queue.queued == 0
    assert sum(len(piece.samples) for piece in heard) == queue.played
    # In order and never two at once.
    ends = [piece.at_s + len(piece.samples) / RATE_HZ for piece in heard]
    starts = [piece.at_s for piece in heard]
    assert all(end <= start + 1e-6 for end, start in zip(ends[:-1], starts[1:], strict=True))
    assert all(tail.played <= queue.played for tail in tails)
    assert not any(tail.open for tail in tails)
    assert all(answer.end_s is not None for answer in queue.answers)


@given(
    st.lists(st.integers(1, 9_600), min_size=1, max_size=20),
    st.lists(st.floats(0, 3.0), max_size=50).map(sorted),
)
def test_when_it_is_looked_at_changes_nothing_that_is_heard(
    sizes: list[int], looks: list[float]
) -> None:
    queue, samples = PlaybackQueue(), ramp(sum(sizes))
    at = 0
    for size in sizes:
        queue.enqueue(samples[at : at + size], 0.0)
        at += size
    for now_s in looks:
        queue.advance(now_s)
        assert queue.played == min(int(now_s * RATE_HZ + 1e-4), len(samples))
    queue.advance(1e4)
    heard = np.concatenate([piece.samples for piece in queue.take_heard()])
    assert np.array_equal(heard, samples)
    assert queue.answers[0].end_s == pytest.approx(len(samples) / RATE_HZ)


def test_a_short_drought_is_a_gap_and_a_long_one_a_new_answer() -> None:
    queue = PlaybackQueue()
    queue.enqueue(ramp(4800), 0.0)
    queue.enqueue(ramp(4800), 0.3)
    queue.enqueue(ramp(4800), 2.0)
    first, second = queue.answers
    (gap,) = first.gaps
    assert (gap.at_s, gap.length_s) == pytest.approx((0.1, 0.2))
    assert (first.end_s, second.start_s) == pytest.approx((0.4, 2.0))
    assert not second.gaps


def test_audio_that_is_just_in_time_is_no_gap() -> None:
    queue = PlaybackQueue()
    for index in range(1000):
        queue.enqueue(ramp(4800), index * 0.1)
    queue.advance(1000)
    (answer,) = queue.answers
    assert not answer.gaps
    assert answer.end_s == pytest.approx(100)


def test_what_follows_an_interrupt_is_a_new_answer_and_no_gap() -> None:
    queue = PlaybackQueue()
    queue.enqueue(ramp(9600), 0.0)
    queue.cut(0.1)
    queue.enqueue(ramp(4800), 0.5)
    first, second = queue.answers
    assert first.end_s == pytest.approx(0.2)
    assert (first.cut, second.cut) == (True, False)
    assert not first.gaps


def test_old_audio_that_follows_a_clear_is_still_tail() -> None:
    queue = PlaybackQueue()
    queue.enqueue(ramp(48_000), 0.0)
    tail = queue.mark(0.5)
    assert queue.clear(0.5) == 0.5
    queue.enqueue(ramp(4800), 0.6)
    queue.enqueue(ramp(4800), 1.5)
    queue.advance(2.0)
    assert tail.length_s == pytest.approx(0.1)
    assert queue.cleared == 24_000


def test_a_mark_in_silence_stays_empty() -> None:
    queue = PlaybackQueue()
    assert not queue.mark(0.0).open
    queue.enqueue(ramp(4800), 1.0)
    assert queue.enqueue(ramp(0), 1.05) == pytest.approx(0.05)


def test_the_lead_is_what_is_queued_after_a_chunk_and_steady_after_a_second() -> None:
    queue = PlaybackQueue()
    queue.enqueue(ramp(14_400), 0.0)
    for index in range(1, 20):
        queue.enqueue(ramp(4800), index * 0.1)
    queue.enqueue(ramp(100), 2.0)
    (answer,) = queue.answers
    assert answer.leads[0] == pytest.approx((0.0, 0.3))
    assert answer.steady_leads == pytest.approx([0.3] * 10)
