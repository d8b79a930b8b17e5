"""Barge-in: who interrupts us, and who does not."""

from __future__ import annotations

import itertools

import attrs
import numpy as np
import pytest

from trio_bridge.audio.mixing import Piece
from trio_bridge.audio.pcm import Samples, silence
from trio_bridge.audio.speakers import NO_SPEAKER, Speaker
from trio_bridge.audio.timeline import RATE_HZ
from trio_bridge.audio.vad import VadSettings
from trio_bridge.bargein import BargeIn

ANN = Speaker("1", "Ann")
NOBODY = Speaker("", NO_SPEAKER)


def voice(seconds: float, level: float = 0.1) -> Samples:
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (level * np.sin(2 * np.pi * 220 * times)).astype(np.float32)


def cut(samples: Samples, chunk_s: float, speaker: Speaker | None = ANN) -> list[Piece]:
    step = round(chunk_s * RATE_HZ)
    return [Piece(speaker, at, samples[at : at + step]) for at in range(0, len(samples), step)]


def first_heard_s(
    bargein: BargeIn, samples: Samples, chunk_s: float = 0.02, speaker: Speaker | None = ANN
) -> float | None:
    """How much of ``samples`` it took to interrupt us; None when they did not."""
    heard_s = 0.0
    for piece in cut(samples, chunk_s, speaker):
        heard_s += len(piece.samples) / RATE_HZ
        if bargein.hears([piece], True):
            return heard_s
    return None


@pytest.mark.parametrize("onset_s", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("chunk_s", [0.01, 0.02, 0.037, 0.1])
def test_speech_interrupts_once_it_is_long_enough(onset_s: float, chunk_s: float) -> None:
    heard_s = first_heard_s(BargeIn(onset_s, VadSettings()), voice(onset_s + 0.3), chunk_s)
    assert heard_s is not None
    assert onset_s - 1e-9 <= heard_s <= onset_s + chunk_s + 0.02


@pytest.mark.parametrize("length_s", [0.02, 0.1, 0.28])
def test_a_cough_does_not(length_s: float) -> None:
    samples = np.concatenate([voice(length_s), silence(RATE_HZ)])
    assert first_heard_s(BargeIn(0.3, VadSettings()), samples) is None


def test_coughs_far_apart_do_not_add_up() -> None:
    cough = np.concatenate([voice(0.1), silence(RATE_HZ)])
    assert first_heard_s(BargeIn(0.3, VadSettings()), np.tile(cough, 8)) is None


def test_silence_and_quiet_noise_do_not() -> None:
    noise = np.random.default_rng(1).normal(0, 0.002, RATE_HZ * 3).astype(np.float32)
    assert first_heard_s(BargeIn(0.3, VadSettings()), silence(RATE_HZ * 3)) is None
    assert first_heard_s(BargeIn(0.3, VadSettings()), noise) is None


@pytest.mark.parametrize("speaker", [None, NOBODY])
def test_nobodys_voice_does_not(speaker: Speaker | None) -> None:
    """None is silence of ours, also in place of our own voice."""
    assert first_heard_s(BargeIn(0.3, VadSettings()), voice(3), speaker=speaker) is None


def test_zero_seconds_switch_it_off() -> None:
    assert first_heard_s(BargeIn(0.0, VadSettings()), voice(3)) is None


def test_nobody_interrupts_while_we_are_silent() -> None:
    bargein = BargeIn(0.3, VadSettings())
    assert not any(bargein.hears([piece], False) for piece in cut(voice(3), 0.02))


def test_what_was_said_before_we_spoke_does_not_count() -> None:
    bargein = BargeIn(0.3, VadSettings())
    for piece in cut(voice(5), 0.02):
        assert not bargein.hears([piece], False)
    assert first_heard_s(bargein, voice(1)) == pytest.approx(0.3)


def test_each_stretch_of_our_speech_can_be_interrupted_once() -> None:
    bargein = BargeIn(0.3, VadSettings())
    assert first_heard_s(bargein, voice(0.2)) is None
    assert not bargein.hears([], False)
    assert first_heard_s(bargein, voice(0.2)) is None  # 0.4 s in all, but of two stretches
    assert first_heard_s(bargein, voice(1)) is not None
    assert not bargein.hears([], False)
    assert first_heard_s(bargein, voice(1)) is not None


def test_within_one_stretch_each_sentence_interrupts_once() -> None:
    """The pause between them ends the first utterance, so the second is a new onset."""
    bargein = BargeIn(0.3, VadSettings(hangover_s=0.6))
    talk = np.concatenate([voice(1), silence(RATE_HZ), voice(1), silence(RATE_HZ)])
    assert sum(bargein.hears([piece], True) for piece in cut(talk, 0.02)) == 2


def test_many_pieces_at_once_are_like_one_after_the_other() -> None:
    assert BargeIn(0.3, VadSettings()).hears(cut(voice(0.4), 0.02), True)
    assert not BargeIn(0.3, VadSettings()).hears(cut(voice(0.2), 0.02), True)


def test_two_people_interrupt_together() -> None:
    bargein, bob = BargeIn(0.3, VadSettings()), Speaker("2", "Bob")
    pieces = [
        attrs.evolve(piece, speaker=who)
        for piece, who in zip(cut(voice(0.4), 0.02), itertools.cycle([ANN, bob]), strict=False)
    ]
    assert [bargein.hears([piece], True) for piece in pieces].count(True) == 1


def test_no_audio_is_nothing() -> None:
    assert not BargeIn(0.3, VadSettings()).hears([], True)
    assert not BargeIn(0.3, VadSettings()).hears([Piece(ANN, 0, silence(0))], True)
