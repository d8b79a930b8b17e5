"""One trial: one server, one load, one set of figures."""

from __future__ import annotations

import ssl
import tempfile
import time
from pathlib import Path

import attrs

from benchmarks.accounting import Cores, core_busy_ns, cpu_ns, resident_kib
from benchmarks.latency import measure
from benchmarks.load import Bot, connect, frames_of, stream
from benchmarks.results import Figures
from benchmarks.rows import Row
from benchmarks.servers import Candidate, Tls, running
from benchmarks.signals import samples_out_after
from benchmarks.stamps import make_stamp_file, read_stamps

SHARED_MEMORY = Path("/dev/shm")
"""In memory, so that no stamp ever waits for a disk."""
STAMPS_A_FRAME = 6
"""At most: a frame of 100 ms is handed over in five chunks."""
FIRST_BOT = -1
"""Comes before memory is first looked at, so that no meeting pays for imports."""


@attrs.frozen
class _Meter:
    pid: int
    core: int
    bots: list[Bot]

    def read(self) -> tuple[int, int, int, int]:
        spoken = sum(bot.control.spoken for bot in self.bots)
        return time.monotonic_ns(), cpu_ns(self.pid), core_busy_ns(self.core), spoken


def run_trial(
    candidate: Candidate,
    row: Row,
    cores: Cores,
    *,
    warm_up_s: float,
    window_s: float,
    tls: Tls | None,
) -> Figures:
    """Start ``candidate``, load it as ``row`` says, look at the clocks, end it.

    Raises:
        LinkError, ServerError, OSError: it failed under the load.
    """
    client_tls = None
    if tls is not None:
        client_tls = ssl.create_default_context(cafile=tls.cert)
        client_tls.check_hostname = False
    frames = frames_of(row)
    total = round((warm_up_s + window_s) * 1000 / row.frame_ms) + 1
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as directory:
        stamps = Path(directory) / "stamps"
        make_stamp_file(stamps, STAMPS_A_FRAME * row.bots * total)
        with running(candidate, row, cores, stamps, tls) as server:
            first = connect(server.port, FIRST_BOT, client_tls)
            stream([first], row, frames, 0.0, 0.3, lambda: None)
            first.leave()
            empty_kib = resident_kib(server.pid)
            bots: list[Bot] = []
            try:
                for index in range(row.bots):  # one by one: on a failure, those are closed
                    bots.append(connect(server.port, index, client_tls))  # noqa: PERF401
                meter = _Meter(server.pid, cores.server, bots)
                sent = stream(bots, row, frames, warm_up_s, window_s, meter.read)
                full_kib = resident_kib(server.pid)
            finally:
                for bot in bots:
                    bot.leave()
        found = measure(
            read_stamps(stamps),
            sent.schedule,
            samples_out_after(sent.schedule.frames, row.frame_ms),
        )
    differences = (b - a for a, b in zip(sent.before, sent.after, strict=True))
    wall_ns, used_ns, busy_ns, spoken = differences
    measured = (sent.schedule.frames - sent.schedule.first) * row.bots
    talked_to = len(range(0, row.bots, row.talk_every)) if row.talk_every else 0
    return Figures(
        cpu_us=used_ns / measured / 1e3,
        p50_ms=found.p50_ms,
        p99_ms=found.p99_ms,
        p999_ms=found.p999_ms,
        memory_kib=(full_kib - empty_kib) / row.bots,
        busy=used_ns / wall_ns,
        foreign=max(0.0, (busy_ns - used_ns) / wall_ns),
        delivered=found.delivered,
        early=found.early,
        late_p99_ms=sent.late_p99_ms,
        spoken_hz=spoken / talked_to / (wall_ns / 1e9) if talked_to else 0.0,
    )
