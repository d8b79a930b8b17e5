"""What an agent hears: chunks of the length asked for, the right names, the right times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_bridge.audio.hearing import (
    AudioChunk,
    HeardEvent,
    Hearing,
    SpeakerChange,
    Utterance,
    View,
)
from trio_bridge.audio.mixing import MANY_VOICES, Piece
from trio_bridge.audio.pcm import Samples, silence
from trio_bridge.audio.speakers import NO_SPEAKER, Speaker
from trio_bridge.audio.timeline import RATE_HZ
from trio_bridge.audio.vad import VadSettings

ALICE, BRUNO, NOBODY = Speaker("a", "Alice"), Speaker("b", "Bruno"), Speaker("", NO_SPEAKER)


def tone(seconds: float, level: float = 0.3) -> Samples:
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (level * np.sin(2 * np.pi * 300 * time_s)).astype(np.float32)


def feed(hearing: Hearing, *parts: tuple[Speaker | None, Samples]) -> list[HeardEvent]:
    """The parts one after another in 20 ms pieces, and the end."""
    events: list[HeardEvent] = []
    at = 0
    for speaker, samples in parts:
        for n in range(0, len(samples), 960):
            piece = samples[n : n + 960]
            events += hearing.feed(Piece(speaker, at, piece))
            at += len(piece)
    return events + hearing.finish()


def chunks(events: list[HeardEvent]) -> list[AudioChunk]:
    return [event for event in events if isinstance(event, AudioChunk)]


def utterances(events: list[HeardEvent]) -> list[Utterance]:
    return [event for event in events if isinstance(event, Utterance)]


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("chunk_ms", [10, 20, 37, 100])
def test_chunks_have_the_length_asked_for_and_add_up_to_the_meeting(
    rate_hz: int, chunk_ms: int
) -> None:
    heard = chunks(feed(Hearing(rate_hz, chunk_ms), (ALICE, tone(2.0))))
    length = rate_hz * chunk_ms // 1000
    assert {len(chunk.samples) for chunk in heard[:-1]} == {length}
    assert 0 < len(heard[-1].samples) <= length
    assert sum(len(chunk.samples) for chunk in heard) == 2 * rate_hz
    for n, chunk in enumerate(heard):
        assert chunk.start_s == pytest.approx(n * length / rate_hz)
        assert chunk.duration_s == len(chunk.samples) / rate_hz


def test_uncut_it_is_the_same_audio_in_the_lengths_it_came_in() -> None:
    parts = [(ALICE, tone(0.5)), (BRUNO, tone(0.5, 0.7))]
    cut, uncut = (
        chunks(feed(Hearing(16_000, 20), *parts)),
        chunks(feed(Hearing(16_000, 0), *parts)),
    )
    assert len(uncut) < len(cut)
    whole, joined = (np.concatenate([c.samples for c in heard]) for heard in (cut, uncut))
    assert np.array_equal(whole, joined)
    at = 0
    for chunk in uncut:
        assert len(chunk.samples) > 0
        assert chunk.start_s == pytest.approx(at / 16_000)
        at += len(chunk.samples)


def test_each_speaker_alone_is_that_speaker_and_silence_at_the_right_time() -> None:
    hearing = Hearing(48_000, 20, "speaker")
    parts = [(ALICE, tone(0.1)), (BRUNO, tone(0.1, 0.7)), (None, silence(4_800))] * 5
    heard = chunks(feed(hearing, *parts))
    for speaker, first_s in ((ALICE, 0.0), (BRUNO, 0.1)):
        own = [chunk for chunk in heard if chunk.speaker == speaker]
        assert own[0].start_s == pytest.approx(first_s)
        run = np.concatenate([chunk.samples for chunk in own])
        for n in range(5):
            begins = round(n * 0.3 * RATE_HZ)
            part = tone(0.1) if speaker == ALICE else tone(0.1, 0.7)
            assert np.array_equal(run[begins : begins + 4_800], part)
            assert not run[begins + 4_800 : begins + round(0.3 * RATE_HZ)].any()


def test_a_speaker_who_pauses_long_gets_a_new_run_and_the_old_ones_tail() -> None:
    hearing = Hearing(16_000, 100, "speaker")
    events = feed(hearing, (ALICE, tone(0.25)), (BRUNO, tone(0.8)), (ALICE, tone(0.25)))
    own = [chunk for chunk in chunks(events) if chunk.speaker == ALICE]
    assert [len(chunk.samples) for chunk in own] == [1_600, 1_600, 800] * 2
    assert own[3].start_s == pytest.approx(1.05)


@pytest.mark.parametrize("by", ["mix", "speaker"])
def test_what_follows_a_jump_is_not_glued_to_what_was_before(by: View) -> None:
    hearing = Hearing(16_000, 20, by)
    events = hearing.feed(Piece(ALICE, 0, tone(0.05)))
    events += hearing.feed(Piece(ALICE, 10 * RATE_HZ, tone(0.05)))
    events += hearing.finish()
    assert [round(chunk.start_s, 3) for chunk in chunks(events)] == [
        0.0, 0.02, 0.04, 10.0, 10.02, 10.04,
    ]  # fmt: skip


def test_an_utterance_has_the_name_that_most_of_it_has() -> None:
    hearing = Hearing(16_000, None, vad=VadSettings())
    events = feed(
        hearing,
        (NOBODY, silence(24_000)),
        (ALICE, tone(1.0)),
        (NOBODY, tone(0.3)),
        (None, silence(48_000)),
        (BRUNO, tone(0.5)),
        (BRUNO, silence(48_000)),
    )
    first, second = utterances(events)
    assert (first.speaker, second.speaker) == (ALICE, BRUNO)
    assert first.start_s == pytest.approx(0.2, abs=0.05)
    assert first.duration_s == pytest.approx(0.3 + 1.3 + 0.2, abs=0.05)
    assert chunks(events) == []


def test_nobody_in_particular_starts_no_utterance() -> None:
    hearing = Hearing(16_000, None, vad=VadSettings())
    assert feed(hearing, (NOBODY, tone(2.0)), (None, silence(48_000))) == []


def test_an_utterance_ends_with_its_speakers_run() -> None:
    hearing = Hearing(16_000, None, "speaker", vad=VadSettings())
    events = feed(hearing, (ALICE, tone(1.0)), (BRUNO, silence(48_000)))
    (utterance,) = utterances(events)
    assert utterance.speaker == ALICE
    assert utterance.duration_s == pytest.approx(1.0, abs=0.05)


def test_a_change_of_speaker_is_told_once_and_never_for_silence() -> None:
    hearing = Hearing(16_000, None, changes=True)
    parts = [(ALICE, tone(0.1)), (None, tone(0.1)), (ALICE, tone(0.1)), (BRUNO, tone(0.1))]
    assert feed(hearing, *parts) == [SpeakerChange(ALICE, 0.0), SpeakerChange(BRUNO, 0.3)]


def test_labels_are_forgotten_and_a_chunk_still_has_one() -> None:
    hearing = Hearing(16_000, 1_000)
    parts = [((ALICE, BRUNO)[n % 2], silence(RATE_HZ)) for n in range(200)]
    heard = chunks(feed(hearing, *parts))
    assert [chunk.speaker for chunk in heard] == [speaker for speaker, _ in parts]
    strand = Hearing(16_000, 20)
    strand.feed(Piece(ALICE, 0, silence(960)))
    assert strand._strands[""]._label_at(-1) == ALICE


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 3_000), min_size=1, max_size=30),
    st.sampled_from([16_000, 24_000, 48_000]),
)
def test_however_the_pieces_are_cut_the_chunks_are_the_same(
    lengths: list[int], rate_hz: int
) -> None:
    samples = tone(0.5)
    whole = Hearing(rate_hz, 20)
    expected = chunks(whole.feed(Piece(ALICE, 0, samples)) + whole.finish())
    cut, at, events = Hearing(rate_hz, 20), 0, []
    while at < len(samples):
        length = lengths[at % len(lengths)]
        events += cut.feed(Piece(ALICE, at, samples[at : at + length]))
        at += length
    got = chunks(events + cut.finish())
    assert [c.samples.tobytes() for c in got] == [c.samples.tobytes() for c in expected]


def test_thousands_of_speakers_alone_are_heard_with_a_bounded_number_of_runs() -> None:
    hearing = Hearing(RATE_HZ, 20, "speaker")
    events: list[HeardEvent] = []
    for n in range(1_000):
        events += hearing.feed(Piece(Speaker(str(n), ""), n, silence(10)))
        assert len(hearing._strands) <= MANY_VOICES + 1
    events += hearing.finish()
    heard = {chunk.speaker: len(chunk.samples) for chunk in chunks(events)}
    assert heard == {Speaker(str(n), ""): 10 for n in range(1_000)}
