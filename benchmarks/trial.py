"""One trial: one server, one load, one set of figures."""

from __future__ import annotations

import os
import ssl
import tempfile
import time
from pathlib import Path

import attrs

from benchmarks import priority
from benchmarks.accounting import (
    Cores,
    cores_busy_ns,
    cpu_ns_of_each,
    own_cpu_ns,
    resident_kib,
)
from benchmarks.latency import Latency, measure
from benchmarks.load import (
    REAL_TIME_MARGIN_NS,
    SLEEP_MARGIN_NS,
    Bot,
    Streamed,
    connect,
    frames_of,
    stream,
)
from benchmarks.results import Figures
from benchmarks.rows import Row
from benchmarks.servers import Candidate, Tls, running
from benchmarks.signals import samples_out_after
from benchmarks.stamps import (
    CUT_VARIABLE,
    FILE_VARIABLE,
    TALK_VARIABLE,
    make_stamp_file,
    read_stamps,
)

SHARED_MEMORY = Path("/dev/shm")
"""In memory, so that no stamp ever waits for a disk."""
STAMPS_A_FRAME = 6
"""At most: a frame of 100 ms is handed over in five chunks."""
FIRST_BOT = -1
"""Comes before memory is first looked at, so that no meeting pays for imports."""


@attrs.frozen
class _Reading:
    at_ns: int
    used_ns: dict[int, int]
    """By process of the server."""
    load_ns: int
    busy_ns: int
    spoken: int
    resident_kib: int


@attrs.frozen
class _Meter:
    pid: int
    cores: Cores
    bots: list[Bot]

    def read(self) -> _Reading:
        return _Reading(
            time.monotonic_ns(),
            cpu_ns_of_each(self.pid),
            own_cpu_ns(os.getpid()),
            cores_busy_ns(self.cores.servers),
            sum(bot.control.spoken for bot in self.bots),
            resident_kib(self.pid),
        )


def run_trial(
    candidate: Candidate,
    row: Row,
    cores: Cores,
    *,
    warm_up_s: float,
    window_s: float,
    tls: Tls | None,
    punctual: bool = True,
) -> Figures:
    """Start ``candidate``, load it as ``row`` says, look at the clocks, end it.

    A ``punctual`` generator has real-time priority on a core of its own, where that is allowed,
    and elsewhere spins before each frame: what comes late is then the server's doing, or its
    core's. Another takes no more of its core than it needs, and sends some 60 us late.

    Raises:
        LinkError, ServerError, OSError: it failed under the load.
    """
    client_tls = client_side(tls)
    frames = frames_of(row)
    total = round((warm_up_s + window_s) * 1000 / row.frame_ms) + 1
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as directory:
        stamps = Path(directory) / "stamps"
        make_stamp_file(stamps, STAMPS_A_FRAME * row.bots * total)
        variables = {
            FILE_VARIABLE: str(stamps),
            TALK_VARIABLE: str(row.talk_every),
            CUT_VARIABLE: str(row.cut_ms),
        }
        with running(candidate, cores, variables, tls) as server:
            first = connect(server.port, FIRST_BOT, client_tls)
            stream([first], row, frames, 0.0, 0.3, lambda: None)
            first.leave()
            empty_kib = resident_kib(server.pid)
            bots: list[Bot] = []
            try:
                for index in range(row.bots):  # one by one: on a failure, those are closed
                    bots.append(connect(server.port, index, client_tls))  # noqa: PERF401
                meter = _Meter(server.pid, cores, bots)
                alone = cores.load not in cores.servers
                with priority.real_time(punctual and alone) as first_in_line:
                    margin_ns = REAL_TIME_MARGIN_NS if first_in_line else SLEEP_MARGIN_NS
                    sent = stream(
                        bots, row, frames, warm_up_s, window_s, meter.read,
                        margin_ns=margin_ns if punctual else 0,
                    )  # fmt: skip
            finally:
                for bot in bots:
                    bot.leave()
        found = measure(
            read_stamps(stamps),
            sent.schedule,
            samples_out_after(sent.schedule.frames, row.frame_ms),
        )
    grown_kib = sent.after.resident_kib - empty_kib  # while all of them stream
    return _figures(row, cores, sent, found, grown_kib / row.bots)


def _figures(
    row: Row, cores: Cores, sent: Streamed[_Reading], found: Latency, memory_kib: float
) -> Figures:
    before, after = sent.before, sent.after
    wall_ns = after.at_ns - before.at_ns
    each_ns = [ns - before.used_ns.get(pid, 0) for pid, ns in after.used_ns.items()]
    used_ns, load_ns = sum(each_ns), after.load_ns - before.load_ns
    ours_ns = used_ns + (load_ns if cores.load in cores.servers else 0)
    foreign_ns = after.busy_ns - before.busy_ns - ours_ns
    measured = (sent.schedule.frames - sent.schedule.first) * row.bots
    talked_to = len(range(0, row.bots, row.talk_every)) if row.talk_every else 0
    spoken = after.spoken - before.spoken
    return Figures(
        cpu_us=used_ns / measured / 1e3,
        p50_ms=found.p50_ms,
        p99_ms=found.p99_ms,
        p999_ms=found.p999_ms,
        memory_kib=memory_kib,
        busy=used_ns / wall_ns,
        foreign=max(0.0, foreign_ns / wall_ns),
        delivered=found.delivered,
        early=found.early,
        late_p99_ms=sent.late_p99_ms,
        spoken_hz=spoken / talked_to / (wall_ns / 1e9) if talked_to else 0.0,
        heaviest=max(each_ns) / used_ns,
        load=load_ns / wall_ns,
    )


def client_side(tls: Tls | None) -> ssl.SSLContext | None:
    """What a bot needs to trust the certificate of ``tls``."""
    if tls is None:
        return None
    context = ssl.create_default_context(cafile=tls.cert)
    context.check_hostname = False
    return context
