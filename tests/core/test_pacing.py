"""Playout: speech leaves at absolute deadlines, not too early, not too late, all counted."""

from __future__ import annotations

import itertools

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_bridge.audio.pcm import Samples, from_pcm16, to_pcm16
from trio_bridge.pacing import RATE_HZ, SAMPLE_BYTES, SHORTEST_CHUNK_S, Playout

ROUNDING_S = 1e-6
"""A sample has 20 us; sums of binary fractions are off by far less."""

LATE_SHARES = st.lists(st.floats(0, 0.99), min_size=1, max_size=40)
CHUNKS_S = st.sampled_from([0.02, 0.04, 0.1, 0.25])


@attrs.define
class Loudspeaker:
    """The bot's end, written without looking at ours: it plays what arrived, in order."""

    ends_s: float = 0.0
    received: int = 0
    dry: int = 0
    """Times it had nothing to play when the next chunk came, after the first."""
    most_s: float = 0.0
    least_s: float = float("inf")
    """Of what waited when a chunk came, and after it had come."""

    def receive(self, length: int, now_s: float) -> None:
        if self.received:
            self.dry += now_s > self.ends_s + ROUNDING_S
            self.least_s = min(self.least_s, self.ends_s - now_s)
        self.ends_s = max(self.ends_s, now_s) + length / RATE_HZ
        self.most_s = max(self.most_s, self.ends_s - now_s)
        self.received += length

    def heard(self, now_s: float) -> float:
        return self.received - max(0.0, self.ends_s - now_s) * RATE_HZ


def speech(seconds: float, start: int = 0) -> Samples:
    """A ramp that 16 bits hold exactly, so that every sample tells where it belongs."""
    ramp = np.arange(start, start + round(seconds * RATE_HZ)) % (1 << 16) - (1 << 15)
    return (ramp / (1 << 15)).astype(np.float32)


def length_of(chunk: bytes) -> int:
    """In samples."""
    return len(from_pcm16(chunk))


def assert_balanced(playout: Playout) -> None:
    assert playout.said == playout.sent + playout.flushed + playout.queued
    assert min(playout.sent, playout.flushed, playout.queued, playout.cleared) >= 0
    assert playout.cleared <= playout.sent


def send_all(playout: Playout, speaker: Loudspeaker, now_s: float) -> float:
    """Send what is queued, each chunk when it is due; the time of the last."""
    while (due_s := playout.due_s()) is not None:
        now_s = max(now_s, due_s)
        speaker.receive(length_of(playout.take(now_s)), now_s)
        assert_balanced(playout)
    return now_s


# -- deadlines -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunk_ms", "lead_ms"), [(100, 300), (20, 60), (100, 1_000), (250, 300)]
)
def test_60_s_of_speech_leave_exactly_on_time_and_the_lead_stays(
    chunk_ms: int, lead_ms: int
) -> None:
    chunk_s, lead_s = chunk_ms / 1000, lead_ms / 1000
    playout, speaker = Playout(chunk_s, lead_s), Loudspeaker()
    playout.push(speech(60))
    playout.complete()
    last_s = send_all(playout, speaker, 5.0)
    assert speaker.received == 60 * RATE_HZ
    assert (speaker.dry, playout.starved) == (0, 0)
    assert speaker.most_s <= lead_s + ROUNDING_S
    assert last_s == pytest.approx(5 + 60 - lead_s, abs=ROUNDING_S)
    assert playout.done_s() == pytest.approx(65, abs=ROUNDING_S)


@settings(max_examples=30)
@given(st.data(), st.sampled_from([(0.1, 0.3), (0.02, 0.06), (0.1, 0.25), (0.04, 0.5)]))
def test_a_late_caller_neither_lets_the_bot_run_dry_nor_adds_up(
    data: st.DataObject, lengths_s: tuple[float, float]
) -> None:
    chunk_s, lead_s = lengths_s
    spare_s = lead_s - chunk_s
    # A short cycle of delays, as long as the property needs and as small as Hypothesis likes.
    late_s = [share * spare_s for share in data.draw(LATE_SHARES)]
    full = round(lead_s / chunk_s + 0.499) * round(chunk_s * RATE_HZ)
    playout, speaker, now_s = Playout(chunk_s, lead_s), Loudspeaker(), 0.0
    playout.push(speech(60))
    playout.complete()
    for wait_s in itertools.cycle(late_s):
        due_s = playout.due_s()
        if due_s is None:
            break
        if speaker.received:
            now_s = max(now_s, due_s + wait_s)
        if speaker.received == full:  # the lead has just been built up; from here on it holds
            speaker.least_s = float("inf")
        speaker.receive(length_of(playout.take(now_s)), now_s)
    assert (speaker.dry, playout.starved) == (0, 0)
    assert speaker.received == 60 * RATE_HZ
    # Deadlines are absolute: sixty seconds of lateness cost what the worst of it cost once.
    assert speaker.least_s >= spare_s - max(late_s) - ROUNDING_S
    assert speaker.most_s <= lead_s + ROUNDING_S
    assert playout.done_s() == pytest.approx(60, abs=1e-4)


@given(CHUNKS_S, st.floats(0, 0.5), st.floats(0, 100), st.floats(0.05, 3))
def test_nothing_is_due_before_its_time_and_the_first_chunk_at_once(
    chunk_s: float, more_s: float, now_s: float, length_s: float
) -> None:
    playout = Playout(chunk_s, chunk_s + more_s)
    assert playout.due_s() is None
    playout.push(speech(length_s))
    playout.complete()
    first_s = playout.due_s()
    assert first_s is not None
    assert first_s <= now_s
    playout.take(now_s)
    due_s = playout.due_s()
    if due_s is not None:
        assert due_s >= now_s - more_s - ROUNDING_S
        # Not before the next chunk fits into the lead beside what is still unplayed.
        assert playout.unplayed(max(due_s, now_s)) <= (more_s + chunk_s) * RATE_HZ + 1
        assert due_s == pytest.approx(playout.done_s() - more_s, abs=ROUNDING_S)


def test_chunks_are_what_was_said_in_order_however_it_was_cut() -> None:
    playout, now_s, at = Playout(0.1, 0.3), 0.0, 0
    lengths = [1, 479, 4_800, 4_799, 9_601, 3, 20_000, 960]
    for length in lengths:
        playout.push(speech(length / RATE_HZ, at))
        at += length
    playout.complete()
    parts = []
    while (due_s := playout.due_s()) is not None:
        now_s = max(now_s, due_s)
        parts.append(playout.take(now_s))
    assert [length_of(part) for part in parts[:-1]] == [4_800] * (len(parts) - 1)
    assert b"".join(parts) == to_pcm16(speech(at / RATE_HZ))


@given(CHUNKS_S, st.lists(st.integers(1, 30_000), min_size=1, max_size=20))
def test_what_waits_takes_two_bytes_a_sample_however_it_was_cut(
    chunk_s: float, lengths: list[int]
) -> None:
    playout = Playout(chunk_s, 2 * chunk_s)
    for length in lengths:
        playout.push(speech(length / RATE_HZ))
    most_bytes = SAMPLE_BYTES * (playout.queued + round(chunk_s * RATE_HZ))
    assert playout._spool.held_bytes <= most_bytes


def test_what_was_pushed_is_no_view_of_what_the_caller_has() -> None:
    playout, samples = Playout(0.1, 0.3), speech(0.15)
    said = to_pcm16(samples)
    playout.push(samples)
    samples[:] = 0.0
    playout.complete()
    assert playout.take(0.0) + playout.take(0.0) == said


def test_the_end_of_what_was_said_waits_for_complete() -> None:
    playout = Playout(0.1, 0.3)
    playout.push(speech(SHORTEST_CHUNK_S / 2))
    assert playout.due_s() is None
    playout.complete()
    assert playout.due_s() is not None
    assert length_of(playout.take(1.0)) == SHORTEST_CHUNK_S / 2 * RATE_HZ
    assert playout.due_s() is None


def test_a_part_of_a_chunk_goes_out_before_the_bot_runs_dry() -> None:
    """An agent that is a little slower than speech: short chunks, and no silence between."""
    playout, speaker = Playout(0.1, 0.3), Loudspeaker()
    playout.push(speech(0.1))
    speaker.receive(length_of(playout.take(0.0)), 0.0)
    playout.push(speech(0.05))
    due_s = playout.due_s()
    assert due_s is not None
    assert 0 <= due_s < 0.1
    speaker.receive(length_of(playout.take(due_s)), due_s)
    assert (speaker.dry, playout.starved) == (0, 0)


def test_empty_speech_is_nothing() -> None:
    playout = Playout(0.1, 0.3)
    playout.push(speech(0))
    assert (playout.said, playout.due_s(), playout.audible(0.0)) == (0, None, False)


# -- running dry -----------------------------------------------------------------------------


def test_an_agent_that_is_late_in_the_middle_starves_the_bot_once() -> None:
    playout = Playout(0.1, 0.3)
    playout.push(speech(0.1))
    playout.take(0.0)
    playout.push(speech(0.2))
    playout.complete()
    playout.take(0.5)
    playout.take(0.5)
    assert playout.starved == 1
    assert playout.done_s() == pytest.approx(0.7)


def test_a_pause_between_two_wholes_starves_nobody() -> None:
    playout = Playout(0.1, 0.3)
    for now_s in (0.0, 10.0, 20.0):
        playout.push(speech(0.1))
        playout.complete()
        playout.take(now_s)
    assert playout.starved == 0


def test_complete_after_the_last_chunk_has_left_ends_the_whole_too() -> None:
    playout = Playout(0.1, 0.3)
    playout.push(speech(0.1))
    playout.take(0.0)
    playout.complete()
    playout.push(speech(0.1))
    playout.complete()
    playout.take(9.0)
    assert playout.starved == 0


def test_a_chunk_that_never_left_counts_no_starving() -> None:
    """The socket broke in mid-send: what was undone did not happen."""
    playout = Playout(0.1, 0.3)
    playout.push(speech(0.2))
    playout.take(0.0)
    chunk = playout.take(5.0)
    assert playout.starved == 1
    playout.put_back(chunk)
    playout.take(5.1)
    assert playout.starved == 1


# -- interrupts ------------------------------------------------------------------------------


@pytest.mark.parametrize("clears", [True, False], ids=["meet", "zoom"])
@pytest.mark.parametrize("at_s", [0.0, 2.0, 2.03, 2.09])
def test_an_interrupt_leaves_at_most_the_lead_and_speech_after_it_keeps_it(
    clears: bool, at_s: float
) -> None:
    playout, speaker = Playout(0.1, 0.3), Loudspeaker()
    playout.push(speech(20))
    while (due_s := playout.due_s()) is not None and due_s <= at_s:
        now_s = max(due_s, 0.0)
        speaker.receive(length_of(playout.take(now_s)), now_s)
    assert playout.unplayed(at_s) <= 0.3 * RATE_HZ + 1
    queued = playout.queued
    assert playout.flush(at_s) == queued == playout.flushed
    assert (playout.queued, playout.due_s(), playout.unplayed(at_s)) == (0, None, 0)
    assert_balanced(playout)
    if clears:
        speaker.ends_s = at_s
    speaker.most_s, speaker.least_s, speaker.dry = 0.0, float("inf"), 0
    playout.push(speech(5))
    playout.complete()
    tail_s = speaker.ends_s
    first_s = playout.due_s()
    assert first_s is not None
    assert first_s >= tail_s - ROUNDING_S  # whatever the bot still plays, it comes after it
    last_s = send_all(playout, speaker, at_s)
    assert speaker.most_s <= 0.3 + ROUNDING_S
    assert playout.starved == 0
    assert last_s <= at_s + 0.3 + 5


def test_heard_and_cleared_share_what_was_sent_at_the_moment_of_the_interrupt() -> None:
    playout = Playout(0.1, 0.3)
    playout.push(speech(1))
    for now_s in (0.0, 0.0, 0.0, 0.1):
        playout.take(now_s)
    playout.flush(0.15)
    assert playout.heard(0.15) == round(0.15 * RATE_HZ)
    assert playout.cleared == round(0.25 * RATE_HZ)
    assert playout.heard(99.0) == round(0.15 * RATE_HZ)


def test_flushing_twice_or_nothing_counts_once() -> None:
    playout = Playout(0.1, 0.3)
    assert playout.flush(0.0) == 0
    playout.push(speech(1))
    playout.take(1.0)
    assert playout.flush(1.05) == round(0.9 * RATE_HZ)
    cleared = playout.cleared
    assert playout.flush(1.06) == 0
    assert playout.cleared == cleared == round(0.05 * RATE_HZ)
    playout.push(speech(0.1))
    due_s = playout.due_s()
    assert due_s is None or due_s == pytest.approx(1.1)


# -- any sequence ----------------------------------------------------------------------------

OPERATIONS = st.lists(
    st.tuples(st.just("push"), st.integers(0, 30_000))
    | st.tuples(st.just("wait"), st.integers(0, 400))
    | st.tuples(
        st.sampled_from(["send", "send", "send late", "fail", "complete", "flush"]), st.just(0)
    ),
    max_size=60,
)


@given(CHUNKS_S, st.sampled_from([0.0, 0.05, 0.2]), OPERATIONS)
def test_any_sequence_balances_keeps_the_lead_and_never_unhears(
    chunk_s: float, more_s: float, operations: list[tuple[str, int]]
) -> None:
    playout, now_s, heard = Playout(chunk_s, chunk_s + more_s), 0.0, 0
    returned: bytes | None = None
    for operation, value in operations:
        due_s = playout.due_s()
        if operation == "push":
            playout.push(np.zeros(value, np.float32))
        elif operation == "wait":
            now_s += value / 1000
        elif operation == "complete":
            playout.complete()
        elif operation == "flush":
            before = playout.queued
            assert playout.flush(now_s) == before
            returned = None
        elif due_s is not None:
            now_s = max(now_s, due_s) + 0.03 * (operation == "send late")
            queued = playout.queued
            chunk = playout.take(now_s)
            if returned is None:
                assert length_of(chunk) == min(queued, round(chunk_s * RATE_HZ))
            else:
                assert chunk == returned
            returned = chunk if operation == "fail" else None
            if returned is not None:
                playout.put_back(returned)
                assert playout.queued == queued
        assert_balanced(playout)
        assert playout.unplayed(now_s) <= round((chunk_s + more_s) * RATE_HZ) + 1
        # A sample of tolerance: `unplayed` rounds, and a chunk is added to a rounded time.
        assert heard - 1 <= playout.heard(now_s) <= playout.sent
        heard = max(heard, playout.heard(now_s))
        assert playout.audible(now_s) or playout.queued == 0
        if not playout.audible(now_s):
            assert playout.unplayed(now_s) == 0
            assert playout.heard(now_s) == playout.sent - playout.cleared


@given(st.lists(st.floats(0, 0.5), max_size=30), st.floats(0.1, 3))
def test_heard_agrees_with_the_loudspeaker(looks_s: list[float], length_s: float) -> None:
    playout, speaker, now_s = Playout(0.1, 0.3), Loudspeaker(), 1.0
    playout.push(speech(length_s))
    playout.complete()
    for look_s in looks_s:
        until_s = now_s + look_s
        while (due_s := playout.due_s()) is not None and due_s <= until_s:
            now_s = max(now_s, due_s)
            speaker.receive(length_of(playout.take(now_s)), now_s)
        now_s = until_s
        assert playout.heard(now_s) == pytest.approx(speaker.heard(now_s), abs=1)


def test_a_chunk_put_back_is_the_next_again_sample_for_sample() -> None:
    playout = Playout(0.1, 0.3)
    playout.push(speech(0.25))
    playout.complete()
    playout.put_back(playout.take(0.0))
    parts = [playout.take(0.0) for _ in range(3)]
    assert b"".join(parts) == to_pcm16(speech(0.25))
    assert (playout.sent, playout.queued) == (12_000, 0)
    assert playout.done_s() == pytest.approx(0.25)


def test_a_short_chunk_put_back_goes_before_what_was_said_meanwhile() -> None:
    """The agent went on while the socket that was to take the chunk died."""
    playout = Playout(0.1, 0.3)
    playout.push(speech(0.05))
    chunk = playout.take(0.0)
    playout.push(speech(0.25, 2_400))
    playout.put_back(chunk)
    assert_balanced(playout)
    playout.complete()
    parts = [playout.take(0.0) for _ in range(4)]
    assert b"".join(parts) == to_pcm16(speech(0.3))
    assert (playout.sent, playout.queued, playout.due_s()) == (14_400, 0, None)


@pytest.mark.parametrize("seconds", [0.05, 0.25])
def test_what_an_interrupt_dropped_is_not_in_what_is_said_after_it(seconds: float) -> None:
    playout = Playout(0.1, 0.3)
    playout.push(speech(seconds))
    playout.flush(0.0)
    playout.push(speech(0.15, 7_000))
    playout.complete()
    assert playout.take(0.0) + playout.take(0.1) == to_pcm16(speech(0.15, 7_000))
