from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.audio.pcm import (
    SILENCE_DBFS,
    as_samples,
    from_pcm16,
    level_dbfs,
    silence,
    to_pcm16,
)


@given(st.lists(st.integers(-32_768, 32_767), max_size=64))
def test_every_16_bit_sample_survives_the_way_in_and_out(values: list[int]) -> None:
    pcm = np.array(values, "<i2").tobytes()
    assert to_pcm16(from_pcm16(pcm)) == pcm


def test_stereo_becomes_the_mean_of_left_and_right() -> None:
    pcm = np.array([1000, 3000, -200, 100], "<i2").tobytes()
    assert (from_pcm16(pcm, 2) * 32_768).tolist() == [2000, -50]


def test_what_is_too_loud_saturates_and_what_is_no_number_is_silent() -> None:
    loud = np.array([1.5, -1.5, np.nan, np.inf, -np.inf], np.float32)
    assert np.frombuffer(to_pcm16(loud), "<i2").tolist() == [
        32_767, -32_768, 0, 32_767, -32_768,
    ]  # fmt: skip


def test_integers_and_stereo_arrays_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"full scale 1\.0, got int16"):
        as_samples(np.zeros(4, np.int16))
    with pytest.raises(ValueError, match=r"shape \(n,\), got \(2, 2\)"):
        as_samples(np.zeros((2, 2)))
    assert as_samples([0.5, 1.0]).dtype == np.float32


def test_level_is_in_db_of_full_scale() -> None:
    assert level_dbfs(np.ones(10, np.float32)) == pytest.approx(0.0)
    assert level_dbfs(np.full(10, 0.1, np.float32)) == pytest.approx(-20.0, abs=1e-4)
    assert level_dbfs(silence(5)) == level_dbfs(silence(0)) == SILENCE_DBFS
