"""Streaming sample-rate conversion: one soxr stream per direction and speaker.

Stateless conversion per chunk clicks at every boundary (31-51 dB SNR measured); a stream does
not, and in float32 its output does not change by one bit however its input is cut.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import soxr

from trio_bridge.audio.pcm import Samples

Quality = Literal["QQ", "LQ", "MQ", "HQ", "VHQ"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)

DELAY_MS: dict[Quality, tuple[int, int]] = {
    "QQ": (0, 0),
    "LQ": (11, 20),
    "MQ": (21, 38),
    "HQ": (21, 37),
    "VHQ": (43, 77),
}
"""Audio held back, mean and most, in ms: measured with soxr 1.1, 48 to 16 kHz, 20 ms chunks.

It scales with the length of the filter: 48 to 24 kHz holds back as much, 48 to 44.1 kHz half,
48 to 8 kHz four times. QQ has no delay because it has no filter worth the name: it aliases.
"""

AGENT_RATES_HZ = (8_000, 16_000, 22_050, 24_000, 44_100, 48_000)
"""The rates that speech models use; any other between the two ends works as well."""

MOST_AT_ONCE_MS = 40
"""Audio given to soxr in one call. Its buffers grow with the longest call and never shrink:
40 ms cost a stream 4 to 9 KiB more than 20, 100 ms 28 to 40, a second of silence for a gap
250."""

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 4_000, 192_000


def check_rate(rate_hz: int) -> None:
    """Raise `ValueError` for a sample rate that no `Resampler` takes."""
    if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
        raise ValueError(
            f"sample rate {rate_hz} Hz is not in {LOWEST_RATE_HZ}..{HIGHEST_RATE_HZ} Hz"
        )


class Resampler:
    """One direction of one stream. Not for two threads at once: soxr crashes.

    ``process`` returns what is ready, which may be nothing or more than went in; `finish`
    returns the rest. Between them no sample is lost: the output of a whole stream has the
    length of its input times ``to_hz / from_hz``, rounded.
    """

    __slots__ = ("_most", "_quality", "_stream", "from_hz", "to_hz")

    def __init__(self, from_hz: int, to_hz: int, quality: Quality = "HQ") -> None:
        check_rate(from_hz)
        check_rate(to_hz)
        self.from_hz, self.to_hz = from_hz, to_hz
        self._most = from_hz * MOST_AT_ONCE_MS // 1000
        self._quality = quality
        self._stream = self._open()

    def process(self, samples: Samples) -> Samples:
        """Feed ``samples`` and take what is ready, float32 ``(m,)``."""
        if self._stream is None:
            return samples
        # As one column: soxr's own way from mono and back costs a tenth of a frame.
        column = samples.reshape(-1, 1)
        most = self._most
        if len(column) <= most:
            ready: Samples = self._stream.resample_chunk(column).reshape(-1)
            return ready
        parts = [
            self._stream.resample_chunk(column[start : start + most])
            for start in range(0, len(column), most)
        ]
        whole: Samples = np.concatenate(parts).reshape(-1)
        return whole

    def finish(self) -> Samples:
        """The end of the stream: what was held back. The next `process` begins a new one."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        rest: Samples = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        self._stream = self._open()
        return rest

    def _open(self) -> soxr.ResampleStream | None:
        if self.from_hz == self.to_hz:
            return None
        return soxr.ResampleStream(
            self.from_hz, self.to_hz, 1, dtype="float32", quality=self._quality
        )
