"""The audio that is sent, and what comes out of the resampler for it. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import soxr

WIRE_RATE_HZ = 48_000
AGENT_RATE_HZ = 16_000
QUALITY = "HQ"
"""soxr's setting in every server: the default of trio_bridge."""

_NOISE_RMS = 100.0
"""Of 32768, about -50 dBFS: below any speech detector, so nobody barges in on the tone."""


def noise_pcm(frame_ms: int, seed: int) -> bytes:
    """One frame of quiet noise, PCM16-LE at 48 kHz."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(0.0, _NOISE_RMS, WIRE_RATE_HZ * frame_ms // 1000)
    data: bytes = samples.round().astype("<i2").tobytes()
    return data


def tone(length: int, rate_hz: int = AGENT_RATE_HZ) -> npt.NDArray[np.float32]:
    """float32 ``(length,)``, 440 Hz at -12 dBFS."""
    at = np.arange(length, dtype=np.float32) / rate_hz
    return (0.25 * np.sin(2.0 * np.pi * 440.0 * at)).astype(np.float32)


def new_resampler(from_hz: int, to_hz: int) -> soxr.ResampleStream:
    """The stream that every server opens for a bot and direction."""
    return soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality=QUALITY)


def samples_out_after(frames: int, frame_ms: int) -> npt.NDArray[np.int64]:
    """int64 ``(frames,)``: samples at 16 kHz that are out once frame n has been resampled.

    soxr holds audio back and gives it out in bursts, which depend on the lengths of its input
    only. So this tells which frame a given output sample had to wait for.
    """
    stream = new_resampler(WIRE_RATE_HZ, AGENT_RATE_HZ)
    silence = np.zeros(WIRE_RATE_HZ * frame_ms // 1000, np.float32)
    lengths = [len(stream.resample_chunk(silence)) for _ in range(frames)]
    return np.cumsum(np.array(lengths, np.int64))
