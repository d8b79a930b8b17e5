"""Streaming sample-rate conversion: one soxr stream per direction and speaker.

Stateless conversion per chunk clicks at every boundary (31-51 dB SNR measured); a stream does
not, and in float32 its output does not change by one bit however its input is cut.
"""

from __future__ import annotations

import functools
import itertools
from typing import Literal, NamedTuple, get_args

import numpy as np
import soxr

from trio_bridge.audio.pcm import Samples
from trio_bridge.audio.streams import Old, free_stream, open_stream

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

WHOLE_MS = 120
"""Audio that soxr gets in one call where it always comes like that (in five parts 100 ms cost
twice as much), but not where a loop that was late has let frames pile up once."""
PIECE_MS = 20
"""What is longer than two of these goes in pieces of this. soxr's buffers grow with the longest
call and never shrink: for 120 ms a stream has 40 KiB more than for 20, for a second of silence
in a gap 250. A hundred meetings grew by 2 MiB in minutes on a machine that was busy.
Frames that follow each other come as one or two of 20 ms, ever at the same places in a buffer.
What comes between, a gap's silence above all, shifts them, and a buffer may need the length of
a call more: pieces of 40 ms brought a stream to 122 KiB by and by, of 20 ms to 117 early on."""

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

    __slots__ = (
        "_bursts", "_fed", "_long", "_piece", "_quality", "_stream", "_whole", "from_hz",
        "to_hz",
    )  # fmt: skip

    def __init__(self, from_hz: int, to_hz: int, quality: Quality = "HQ") -> None:
        self._stream: soxr.ResampleStream | None = None
        check_rate(from_hz)
        check_rate(to_hz)
        self.from_hz, self.to_hz = from_hz, to_hz
        self._whole = from_hz * WHOLE_MS // 1000
        self._piece = from_hz * PIECE_MS // 1000
        self._quality = quality
        self._bursts: Bursts | None = None
        self._stream = self._open([])

    def __del__(self) -> None:
        free_stream(self._take_stream())

    def process(self, samples: Samples) -> Samples:
        """Feed ``samples`` and take what is ready, float32 ``(m,)``."""
        if self._stream is None:
            return samples
        # As one column: soxr's own way from mono and back costs a tenth of a frame.
        column = samples.reshape(-1, 1)
        length, piece = len(column), self._piece
        self._fed += length
        if length <= 2 * piece or self._takes_whole(length):
            ready: Samples = self._stream.resample_chunk(column).reshape(-1)
            return ready
        parts = [
            self._stream.resample_chunk(column[start : start + piece])
            for start in range(0, length, piece)
        ]
        whole: Samples = np.concatenate(parts).reshape(-1)
        return whole

    def finish(self) -> Samples:
        """The end of the stream: what was held back. The next `process` begins a new one."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        rest: Samples = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        self._stream = self._open(self._take_stream())
        return rest

    def _take_stream(self) -> Old:
        stream, self._stream = self._stream, None
        return [] if stream is None else [stream]

    @property
    def needs(self) -> tuple[object, ...]:
        """What `process` will look at, until `finish`."""
        stream = self._stream
        return self, stream, *getattr(stream, "__dict__", {}).values()

    @property
    def bursts(self) -> Bursts:
        """How its output comes."""
        found = self._bursts
        if found is None:
            found = self._bursts = bursts(self.from_hz, self.to_hz, self._quality)
        return found

    @property
    def samples_until_more(self) -> int:
        """How many samples must be fed before something more comes out; at least 1."""
        first, step, _ = self.bursts
        return first - self._fed if self._fed < first else step - (self._fed - first) % step

    def _takes_whole(self, length: int) -> bool:
        """Whether a call of ``length``, over two pieces, is as most of this stream comes;
        `_fed` and `_long` have what came before and this call."""
        if length > self._whole:
            return False
        self._long += length
        return 2 * self._long > self._fed

    def _open(self, old: Old) -> soxr.ResampleStream | None:
        self._fed = self._long = 0
        return _open(self.from_hz, self.to_hz, self._quality, old)


class Bursts(NamedTuple):
    """soxr gives out what it has in bursts, at lengths of input that never depend on how the
    input is cut. Measured, not promised: a test holds it to it, for every rate and quality."""

    first: int
    """Samples in until the first burst."""
    step: int
    """Samples in from one burst to the next."""
    least: int
    """Samples out that a burst has at least."""


ANY_TIME = Bursts(1, 1, 0)
"""Something may come out at every sample."""


@functools.cache
def bursts(from_hz: int, to_hz: int, quality: Quality) -> Bursts:
    """Find out how the output of a `Resampler` comes; a few ms, once for each kind."""
    jumps, at = list[int](), 0
    probe = _open(from_hz, to_hz, quality, [])
    if probe is None:
        return ANY_TIME
    least = from_hz
    while len(jumps) < 4:
        at += _GRAIN
        out = len(probe.resample_chunk(np.zeros(_GRAIN, np.float32)))
        if not out:
            continue
        close = _open(from_hz, to_hz, quality, [])
        assert close is not None
        close.resample_chunk(np.zeros(at - _GRAIN, np.float32))
        exact = at - _GRAIN + 1
        while not len(close.resample_chunk(np.zeros(1, np.float32))):
            exact += 1
        jumps.append(exact)
        least = min(least, out)
    steps = {after - before for before, after in itertools.pairwise(jumps)}
    if len(steps) > 1 or (step := steps.pop()) <= _GRAIN:
        return ANY_TIME
    return Bursts(jumps[0], step, least)


_GRAIN = 32


def _open(from_hz: int, to_hz: int, quality: Quality, old: Old) -> soxr.ResampleStream | None:
    if from_hz == to_hz:
        return None
    return open_stream(from_hz, to_hz, quality, old)
