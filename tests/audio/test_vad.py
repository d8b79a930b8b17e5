from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_bridge.audio.pcm import Samples, silence
from trio_bridge.audio.vad import EnergyVad, SpeechEnded, SpeechStarted, VadEvent, VadSettings

RATE_HZ = 16_000


def noise(seconds: float, dbfs: float, seed: int = 0) -> Samples:
    generator = np.random.default_rng(seed)
    samples = generator.standard_normal(round(seconds * RATE_HZ)) * 10 ** (dbfs / 20)
    return samples.astype(np.float32)


def events(samples: Samples, block: int = 320, vad: EnergyVad | None = None) -> list[VadEvent]:
    vad = vad or EnergyVad(RATE_HZ)
    found: list[VadEvent] = []
    for at in range(0, len(samples), block):
        found += vad.feed(samples[at : at + block])
    return found + vad.finish()


def spoken(*parts: Samples) -> list[SpeechEnded]:
    return [e for e in events(np.concatenate(parts)) if isinstance(e, SpeechEnded)]


def test_an_utterance_keeps_the_300_ms_before_it_and_a_little_silence_after() -> None:
    word = noise(1.0, -25)
    (utterance,) = spoken(silence(16_000), word, silence(16_000))
    assert utterance.start == 16_000 - round(0.3 * RATE_HZ)
    begins = 16_000 - utterance.start
    assert np.array_equal(utterance.samples[begins : begins + 16_000], word)
    assert len(utterance.samples) == pytest.approx((0.3 + 1.0 + 0.2) * RATE_HZ, abs=640)


def test_a_pause_shorter_than_the_hangover_stays_one_utterance() -> None:
    word, short, long = noise(0.5, -25), silence(8_000), silence(12_800)
    assert len(spoken(word, short, word, long)) == 1
    assert len(spoken(word, long, word, long)) == 2


def test_a_click_a_hum_and_an_air_conditioner_are_not_speech() -> None:
    assert spoken(silence(8_000), noise(0.05, -10), silence(16_000)) == []
    assert spoken(noise(3.0, -50)) == []
    hum = noise(30.0, -38)
    vad = EnergyVad(RATE_HZ)
    events(hum, vad=vad)
    late = vad.feed(hum)  # after half a minute it is the noise floor
    assert [e for e in late if isinstance(e, SpeechStarted)] == []


def test_speech_is_found_above_the_noise_of_a_room() -> None:
    room = noise(10.0, -55, seed=1)
    room[80_000:96_000] += noise(1.0, -28)
    (utterance,) = [e for e in events(room) if isinstance(e, SpeechEnded)]
    assert utterance.start == pytest.approx(80_000 - 4_800, abs=640)


def test_audio_that_may_not_start_an_utterance_can_continue_one() -> None:
    vad = EnergyVad(RATE_HZ)
    word = noise(0.5, -25)
    assert vad.feed(word, may_start=False) == []
    assert not vad.speaking
    assert [type(e) for e in vad.feed(word)] == [SpeechStarted]
    assert vad.speaking
    vad.feed(word, may_start=False)
    (ended,) = vad.finish()
    assert isinstance(ended, SpeechEnded)
    assert len(ended.samples) >= len(word) * 2


def test_an_endless_noise_is_cut_at_the_longest_utterance() -> None:
    vad = EnergyVad(RATE_HZ, VadSettings(longest_s=2.0))
    cut = [e for e in events(noise(5.0, -15), vad=vad) if isinstance(e, SpeechEnded)]
    assert [len(e.samples) for e in cut[:2]] == [32_000, 32_000]
    assert cut[1].start == 32_000  # not a sample between them is lost


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3_000))
def test_how_the_stream_is_cut_changes_nothing(block: int) -> None:
    stream = np.concatenate((silence(7_000), noise(0.7, -20), silence(15_000)))
    whole, cut = events(stream), events(stream, block)
    assert [type(e) for e in cut] == [type(e) for e in whole]
    for ours, theirs in zip(cut, whole, strict=True):
        if isinstance(ours, SpeechEnded) and isinstance(theirs, SpeechEnded):
            assert ours.start == theirs.start
            assert np.array_equal(ours.samples, theirs.samples)


def test_one_that_keeps_no_audio_finds_the_same_beginnings() -> None:
    speech = np.concatenate([silence(8_000), noise(1.0, -25), silence(16_000), noise(0.5, -25)])
    kept, bare = events(speech), events(speech, vad=EnergyVad(RATE_HZ, keep=False))
    assert [type(event) for event in kept] == [type(event) for event in bare]
    began = [e.at for e in kept if isinstance(e, SpeechStarted)]
    assert began == [e.at for e in bare if isinstance(e, SpeechStarted)]
    assert all(len(e.samples) == 0 for e in bare if isinstance(e, SpeechEnded))
