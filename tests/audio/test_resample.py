from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_bridge import heap
from trio_bridge.audio import streams
from trio_bridge.audio.pcm import Samples, from_pcm16, to_pcm16
from trio_bridge.audio.resample import (
    AGENT_RATES_HZ,
    DELAY_MS,
    PIECE_MS,
    QUALITIES,
    WHOLE_MS,
    Quality,
    Resampler,
    bursts,
)

WIRE_HZ = 48_000
SECOND = np.random.default_rng(1).uniform(-0.5, 0.5, WIRE_HZ).astype(np.float32)


def run(resampler: Resampler, samples: Samples, lengths: list[int]) -> Samples:
    """``samples`` in chunks of ``lengths``, over and over, and the end of the stream."""
    out, at = [], 0
    for length in itertools.cycle(lengths):
        if at >= len(samples):
            break
        out.append(resampler.process(samples[at : at + length]))
        at += length
    out.append(resampler.finish())
    return np.concatenate(out)


@pytest.mark.parametrize("rate_hz", AGENT_RATES_HZ)
@pytest.mark.parametrize("chunk_ms", [10, 20, 37, 100])
def test_chunk_boundaries_change_not_one_bit(rate_hz: int, chunk_ms: int) -> None:
    for from_hz, to_hz in ((WIRE_HZ, rate_hz), (rate_hz, WIRE_HZ)):
        whole = run(Resampler(from_hz, to_hz), SECOND, [len(SECOND)])
        cut = run(Resampler(from_hz, to_hz), SECOND, [from_hz * chunk_ms // 1000])
        assert cut.tobytes() == whole.tobytes()


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(AGENT_RATES_HZ), st.lists(st.integers(1, 5_000), min_size=1, max_size=20)
)
def test_random_chunks_change_not_one_bit_either(rate_hz: int, lengths: list[int]) -> None:
    whole = run(Resampler(WIRE_HZ, rate_hz), SECOND, [len(SECOND)])
    assert run(Resampler(WIRE_HZ, rate_hz), SECOND, lengths).tobytes() == whole.tobytes()


@pytest.mark.parametrize("rate_hz", AGENT_RATES_HZ)
def test_a_stream_is_as_long_as_its_input_and_equal_to_one_shot_resampling(
    rate_hz: int,
) -> None:
    streamed = run(Resampler(WIRE_HZ, rate_hz), SECOND, [960])
    assert len(streamed) == round(len(SECOND) * rate_hz / WIRE_HZ)
    if rate_hz != WIRE_HZ:
        assert np.array_equal(streamed, soxr.resample(SECOND, WIRE_HZ, rate_hz, "HQ"))


@pytest.mark.parametrize("rate_hz", AGENT_RATES_HZ)
def test_a_tone_in_and_back_out_keeps_its_frequency_and_80_db(rate_hz: int) -> None:
    tone_hz = 1_000.0
    time_s = np.arange(3 * WIRE_HZ) / WIRE_HZ
    tone = (0.5 * np.sin(2 * np.pi * tone_hz * time_s)).astype(np.float32)
    heard = from_pcm16(to_pcm16(tone))

    inwards = run(Resampler(WIRE_HZ, rate_hz), heard, [960])
    outwards = from_pcm16(to_pcm16(run(Resampler(rate_hz, WIRE_HZ), inwards, [1234])))
    if rate_hz == WIRE_HZ:
        reference = heard
    else:
        once = soxr.resample(heard, WIRE_HZ, rate_hz, "HQ")
        reference = soxr.resample(once, rate_hz, WIRE_HZ, "HQ")

    noise = outwards - reference
    snr_db = 10 * np.log10(np.mean(reference**2) / max(np.mean(noise**2), 1e-20))
    assert snr_db > 80
    spectrum = np.abs(np.fft.rfft(outwards * np.hanning(len(outwards))))
    assert np.argmax(spectrum) / 3 == pytest.approx(tone_hz, abs=0.34)


@pytest.mark.parametrize("quality", QUALITIES)
def test_the_published_delay_of_each_quality_is_what_is_held_back(quality: Quality) -> None:
    resampler = Resampler(WIRE_HZ, 16_000, quality)
    given_ms = taken_ms = 0.0
    held_ms = []
    for _ in range(250):
        given_ms += 20
        taken_ms += len(resampler.process(SECOND[:960])) / 16
        held_ms.append(given_ms - taken_ms)
    mean_ms, most_ms = DELAY_MS[quality]
    assert np.mean(held_ms[10:]) == pytest.approx(mean_ms, abs=1.5)
    assert max(held_ms[10:]) == pytest.approx(most_ms, abs=1.5)


def test_after_its_end_a_stream_begins_anew() -> None:
    resampler = Resampler(WIRE_HZ, 16_000)
    first = run(resampler, SECOND, [960])
    assert run(resampler, SECOND, [777]).tobytes() == first.tobytes()


def test_equal_rates_pass_the_samples_through() -> None:
    resampler = Resampler(WIRE_HZ, WIRE_HZ)
    assert resampler.process(SECOND) is SECOND
    assert not len(resampler.finish())


@pytest.mark.parametrize("rate_hz", [0, -1, 3_999, 192_001])
def test_a_rate_that_cannot_be_meant_is_refused(rate_hz: int) -> None:
    with pytest.raises(ValueError, match=f"sample rate {rate_hz} Hz"):
        Resampler(WIRE_HZ, rate_hz)


@pytest.fixture
def given_lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How long each call of soxr was, in samples."""
    lengths: list[int] = []
    real = soxr.ResampleStream

    class Counting:
        def __init__(self, *args: object, **options: object) -> None:
            self.stream = real(*args, **options)

        def resample_chunk(self, x: Samples, last: bool = False) -> Samples:
            lengths.append(len(x))
            out: Samples = self.stream.resample_chunk(x, last)
            return out

    monkeypatch.setattr(soxr, "ResampleStream", Counting)
    return lengths


@pytest.mark.parametrize("from_hz", [8_000, 24_000, 48_000])
def test_soxr_gets_what_is_long_in_pieces_so_that_its_buffers_stay_small(
    given_lengths: list[int], from_hz: int
) -> None:
    whole, piece = (from_hz * ms // 1000 for ms in (WHOLE_MS, PIECE_MS))
    resampler = Resampler(from_hz, 16_000)
    resampler.process(np.zeros(whole, np.float32))
    assert given_lengths == [whole]
    resampler.process(np.zeros(10 * piece + 7, np.float32))
    assert given_lengths[1:] == [piece] * 10 + [7]


def test_frames_that_piled_up_once_go_in_pieces_and_what_always_comes_long_as_it_is(
    given_lengths: list[int],
) -> None:
    """A stall of the loop must not make the buffers of every meeting's stream larger."""
    frame = WIRE_HZ // 50
    resampler = Resampler(WIRE_HZ, 16_000)
    for frames in [1, 2] * 50 + [5] + [1] * 50 + [6, 4, 3]:
        resampler.process(np.zeros(frames * frame, np.float32))
    assert max(given_lengths) == 2 * frame
    del given_lengths[:]
    for _ in range(3):  # as with --audio-tick-ms 100, or an agent that speaks in such pieces
        resampler.finish()
        for _ in range(20):
            resampler.process(np.zeros(5 * frame, np.float32))
    assert given_lengths == ([0] + [5 * frame] * 20) * 3
    del given_lengths[:]
    resampler.finish()
    resampler.process(np.zeros(60 * frame, np.float32))  # a gap says nothing of how frames come
    resampler.process(np.zeros(5 * frame, np.float32))
    assert max(given_lengths) == frame


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("to_hz", AGENT_RATES_HZ)
@given(lengths=st.lists(st.integers(1, 3_000), min_size=1, max_size=30))
@settings(max_examples=20, deadline=None)
def test_it_says_how_much_it_needs_before_anything_comes_out(
    to_hz: int, quality: Quality, lengths: list[int]
) -> None:
    resampler = Resampler(WIRE_HZ, to_hz, quality)
    for length in lengths:
        needed = resampler.samples_until_more
        out = resampler.process(np.ones(length, np.float32))
        if length < needed:
            assert len(out) == 0
        elif resampler.bursts.least:
            assert len(out) >= resampler.bursts.least


def test_held_until_needed_the_same_comes_out_at_the_same_time() -> None:
    frames = np.split(SECOND, 50)
    at_once, held = Resampler(WIRE_HZ, 16_000), Resampler(WIRE_HZ, 16_000)
    waiting, calls = np.zeros(0, np.float32), 0
    for frame in frames:
        expected = at_once.process(frame)
        waiting = np.concatenate((waiting, frame))
        if len(waiting) < held.samples_until_more:
            assert len(expected) == 0
            continue
        assert np.array_equal(held.process(waiting), expected)
        waiting, calls = waiting[:0], calls + 1
    assert calls == pytest.approx(len(frames) * 2 / 3, abs=2)


def test_for_equal_rates_every_sample_comes_out_at_once() -> None:
    assert Resampler(WIRE_HZ, WIRE_HZ).samples_until_more == 1
    assert bursts(WIRE_HZ, WIRE_HZ, "HQ").least == 0


def test_a_stream_that_ended_is_gone_before_the_next_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Made before, it would lie elsewhere in the heap after every answer."""
    made = list[weakref.ref[object]]()

    class Stream(soxr.ResampleStream):  # type: ignore[misc]  # soxr has no types
        def __init__(self, *args: Any, **options: Any) -> None:
            assert not any(stream() for stream in made)
            super().__init__(*args, **options)
            made.append(weakref.ref(self))

    monkeypatch.setattr(soxr, "ResampleStream", Stream)
    resampler = Resampler(48_000, 16_000)
    for _ in range(3):
        resampler.process(np.zeros(960, np.float32))
        resampler.finish()
    assert len(made) == 4


def run_alone(program: str) -> subprocess.CompletedProcess[bytes]:
    """In a Python of its own, to its end, which is a good one."""
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, timeout=30
    )


@pytest.fixture
def made_apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Streams are made in a thread of their own meanwhile."""
    makers: list[streams.Maker] = []
    monkeypatch.setattr(streams, "_makers", makers)
    streams.make_streams_apart()
    streams.make_streams_apart()
    (maker,) = makers
    yield
    maker.close()


def test_streams_made_apart_are_the_same_and_made_in_one_thread(
    monkeypatch: pytest.MonkeyPatch, made_apart: None
) -> None:
    made_by = set[int]()

    class Stream(soxr.ResampleStream):  # type: ignore[misc]  # soxr has no types
        def __init__(self, *args: Any, **options: Any) -> None:
            made_by.add(threading.get_ident())
            super().__init__(*args, **options)

    monkeypatch.setattr(soxr, "ResampleStream", Stream)
    resampler = Resampler(WIRE_HZ, 16_000)
    expected = soxr.resample(SECOND, WIRE_HZ, 16_000, "HQ")
    assert np.array_equal(run(resampler, SECOND, [960]), expected)
    assert np.array_equal(run(resampler, SECOND, [777]), expected)
    assert len(made_by) == 1
    assert threading.get_ident() not in made_by


def test_streams_made_apart_are_freed_where_they_were_made_and_before_the_next_is(
    monkeypatch: pytest.MonkeyPatch, made_apart: None
) -> None:
    did = list[tuple[str, int]]()

    class Stream(soxr.ResampleStream):  # type: ignore[misc]  # soxr has no types
        def __init__(self, *args: Any, **options: Any) -> None:
            did.append(("made", threading.get_ident()))
            super().__init__(*args, **options)

        def __del__(self) -> None:
            did.append(("freed", threading.get_ident()))

    monkeypatch.setattr(soxr, "ResampleStream", Stream)
    resampler = Resampler(WIRE_HZ, 16_000)
    resampler.process(np.zeros(960, np.float32))
    resampler.finish()
    del resampler
    Resampler(WIRE_HZ, 16_000)  # the thread has done all that came before
    assert [what for what, _ in did[:5]] == ["made", "freed", "made", "freed", "made"]
    (thread,) = {where for _, where in did[:5]}
    assert thread != threading.get_ident()


def test_a_stream_that_outlives_the_thread_is_freed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when the process ends with meetings in it."""
    makers: list[streams.Maker] = []
    monkeypatch.setattr(streams, "_makers", makers)
    streams.make_streams_apart()
    resampler = Resampler(WIRE_HZ, 16_000)
    assert resampler._stream is not None
    gone = weakref.ref(resampler._stream)
    makers[0].close()
    del resampler
    assert gone() is None
    Resampler(WIRE_HZ, 16_000).finish()  # and who needs one makes it himself


def test_a_stream_that_the_collector_finds_while_one_is_made_blocks_nobody() -> None:
    program = (
        "import gc\n"
        "from trio_bridge.audio.resample import Resampler\n"
        "from trio_bridge.audio.streams import make_streams_apart\n"
        "class Meeting:\n"
        "    def __init__(self):\n"
        "        self.itself, self.ear = self, Resampler(48_000, 16_000)\n"
        "make_streams_apart()\n"
        "gc.set_threshold(1)\n"  # at nearly every step
        "for _ in range(50):\n"
        "    Meeting()\n"
    )
    run_alone(program)


def test_a_program_that_ends_with_streams_to_be_freed_ends_silently() -> None:
    """soxr's binding reports each that is left, in a dozen lines on stderr."""
    program = (
        "from trio_bridge.audio.resample import Resampler\n"
        "from trio_bridge.audio.streams import make_streams_apart\n"
        "make_streams_apart()\n"
        "ears = [Resampler(48_000, 16_000) for _ in range(300)]\n"
        "del ears[1:]\n"
    )
    ended = run_alone(program)
    assert (ended.stdout, ended.stderr) == (b"", b"")


def test_what_streams_left_is_given_back_before_the_next_is_made(
    monkeypatch: pytest.MonkeyPatch, made_apart: None
) -> None:
    times = 0

    def give_back() -> bool:
        nonlocal times
        times += 1
        return True

    monkeypatch.setattr(heap, "give_back", give_back)
    ours = [Resampler(WIRE_HZ, 16_000) for _ in range(3)]
    assert times == 0
    ours[0].finish()  # begins anew
    assert times == 1
    ours.clear()
    assert times == 1
    ours = [Resampler(WIRE_HZ, 16_000) for _ in range(3)]
    assert times == 2


def test_why_a_stream_cannot_be_made_is_told_to_who_asked_for_it(made_apart: None) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its words are soxr's
        streams.open_stream(WIRE_HZ, 16_000, "best", [])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_makes_its_streams_itself() -> None:
    """The thread that would has stayed with the parent."""
    program = (
        "import os\n"
        "from trio_bridge.audio.streams import make_streams_apart, open_stream\n"
        "make_streams_apart()\n"
        "open_stream(48_000, 16_000, 'HQ', [])\n"
        "if not (child := os.fork()):\n"
        "    open_stream(48_000, 16_000, 'HQ', [])\n"
        "    os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    ended = run_alone(program)
    assert ended.stdout == b"7\n"
