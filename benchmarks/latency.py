"""From stamps to latencies. Pure.

The resampler holds audio back by design, and gives it out in bursts, alike in every server. To
take that out of the latency, each hand-over is matched with the frame it had to wait for: the
first frame after which soxr, given frames of this length, has put out that many samples. The
latency is then from that frame's *scheduled* send time, so a sender or server that stalls is
charged for all that piled up meanwhile. When one frame is handed over in several chunks, the
last of them counts; when several are handed over in one, each is charged with its own wait.
"""

from __future__ import annotations

import attrs
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@attrs.frozen(eq=False)
class Schedule:
    """When each frame was due: frame n of bot b at ``start + n * period + delay[b]``, in ns."""

    start_ns: int
    period_ns: int
    delays_ns: Ints
    first: int
    """What is due before the time of as many frames warms the server up: it is not measured."""
    frames: int
    """Those of each bot, the warm-up included. What is due after their time is not measured
    either: some bots have no more."""


@attrs.frozen
class Latency:
    """Milliseconds from scheduled send to the consumer's hands, without the resampler's own."""

    p50_ms: float
    p99_ms: float
    p999_ms: float
    delivered: float
    """Share of the samples due that reached their consumers; 1.0 unless audio was dropped."""
    early: int
    """Hand-overs that seem to come before their frame was due: not 0 when the server has put
    in samples that were never sent, and then its latencies mean nothing."""


def measure(stamps: Ints, schedule: Schedule, out_after: Ints) -> Latency:
    """Latencies of the measured frames.

    ``stamps`` as `benchmarks.stamps.read_stamps` gives them; ``out_after`` as
    `benchmarks.signals.samples_out_after`.
    """
    bots = len(schedule.delays_ns)
    stamps = stamps[(stamps[:, 0] >= 0) & (stamps[:, 0] < bots)]
    frame = np.searchsorted(out_after, stamps[:, 1])  # first n with out_after[n] >= samples
    due = frame < schedule.frames  # beyond lies silence that a server filled in afterwards
    stamps, frame = stamps[due], frame[due]
    reached = np.zeros(bots, np.int64)
    np.maximum.at(reached, stamps[:, 0], stamps[:, 1])
    # A consumer of 20 ms chunks still waits for the rest of its last one.
    expected = int(out_after[-1]) // CHUNK * CHUNK
    delivered = float(np.minimum(reached, expected).sum()) / (expected * bots)
    never = np.iinfo(np.int64).max
    begun = np.full((bots, schedule.frames), never, np.int64)
    np.minimum.at(begun, (stamps[:, 0], frame), stamps[:, 2])
    at = np.where(begun == never, never, 0)
    np.maximum.at(at, (stamps[:, 0], frame), stamps[:, 2])
    # A burst without a hand-over of its own came along with the next one.
    bursts = np.diff(out_after, prepend=0) > 0
    later = np.full(bots, never, np.int64)
    for n in range(schedule.frames - 1, -1, -1):
        if bursts[n]:
            at[:, n] = np.where(at[:, n] == never, later, at[:, n])
        later = np.where(begun[:, n] == never, later, begun[:, n])
    numbers = np.arange(schedule.frames)
    after_ns = numbers[None, :] * schedule.period_ns + schedule.delays_ns[:, None]
    slot = after_ns // schedule.period_ns
    measured = (slot >= schedule.first) & (slot < schedule.frames)
    waited = at - schedule.start_ns - after_ns
    latencies = waited[(at != never) & measured] / 1e6
    if not len(latencies):
        return Latency(float("nan"), float("nan"), float("nan"), delivered, 0)
    p50, p99, p999 = (float(x) for x in np.percentile(latencies, (50, 99, 99.9)))
    return Latency(p50, p99, p999, delivered, int((latencies < 0).sum()))


CHUNK = 320
"""Samples at 16 kHz that trio_bridge's consumer takes at once: 20 ms."""
