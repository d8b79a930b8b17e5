"""PCM16-LE bytes to float32 samples and back.

Inside the bridge, audio is float32 ``(n,)``, mono, full scale +-1.0: sums and resampling
neither wrap nor dither, and only the way out rounds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
"""float32 ``(n,)``, mono, full scale +-1.0."""

FULL_SCALE = 32_768.0
SILENCE_DBFS = -120.0
"""What an all-zero block is said to have; 16 bits cannot hold anything quieter than -96."""

_TO_FLOAT = np.float32(1.0 / FULL_SCALE)
_PCM16 = np.dtype("<i2")


def from_pcm16(pcm: bytes, channels: int = 1, *, start: int = 0) -> Samples:
    """Samples of PCM16-LE bytes from byte ``start`` on; several channels are averaged.

    There must be whole samples of ``channels`` interleaved channels.
    """
    wide: Samples = np.frombuffer(pcm, _PCM16, -1, start) * _TO_FLOAT
    if channels == 1:
        return wide
    mono: Samples = wide.reshape(-1, channels).mean(axis=1, dtype=np.float32)
    return mono


def to_pcm16(samples: Samples) -> bytes:
    """PCM16-LE bytes: rounded to nearest, saturated, NaN as silence."""
    scaled = samples * np.float32(FULL_SCALE)
    np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1, out=scaled)
    if np.isnan(scaled.max(initial=0.0)):  # max passes a NaN on: 1 us instead of 8 a chunk
        np.nan_to_num(scaled, copy=False, nan=0.0)
    np.rint(scaled, out=scaled)
    data: bytes = scaled.astype("<i2").tobytes()
    return data


def as_samples(samples: npt.ArrayLike) -> Samples:
    """One mono float32 block of what a caller gave us.

    Raises:
        ValueError: not one-dimensional, or not floating point. Integers are refused because
            their scale cannot be known: full scale here is 1.0, not 32 767.
    """
    block = np.asarray(samples)
    if block.ndim != 1:
        raise ValueError(
            f"expected mono samples of shape (n,), got {block.shape}; average the channels"
        )
    if not np.issubdtype(block.dtype, np.floating):
        raise ValueError(
            f"expected float samples with full scale 1.0, got {block.dtype}; divide integers "
            "by their full scale"
        )
    return block.astype(np.float32, copy=False)


def silence(length: int) -> Samples:
    """``length`` zero samples."""
    return np.zeros(length, np.float32)


def level_dbfs(samples: Samples) -> float:
    """RMS level against a full-scale square wave, in dB; `SILENCE_DBFS` for no signal."""
    if not samples.size:
        return SILENCE_DBFS
    power = float(np.dot(samples, samples)) / samples.size
    if power <= 1e-12:
        return SILENCE_DBFS
    return 10.0 * float(np.log10(power))
