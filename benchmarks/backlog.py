"""How soon workers that have the cores to themselves have worked off what lies in the kernel.

The load generator writes while the workers are stopped, and sleeps while they work. So two
cores are enough to watch two workers at full speed; a stream needs a core for its sender.
"""

from __future__ import annotations

import gc
import math
import os
import select
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs
import numpy as np
import numpy.typing as npt

from benchmarks import priority
from benchmarks.accounting import Cores, family
from benchmarks.load import DISTINCT_FRAMES, Bot, connect, frames_of
from benchmarks.rows import Row
from benchmarks.servers import ours, running
from benchmarks.signals import samples_out_after
from benchmarks.stamps import FILE_VARIABLE, make_stamp_file, read_stamps_of_each
from benchmarks.trial import SHARED_MEMORY
from benchmarks.wsclient import Link, LinkError

Ints = npt.NDArray[np.int64]

BOTS_A_WORKER = 500
"""As many as a core is said to carry. The same for each worker, as with the CPU per frame: one
with half as many meetings would find more of them in its cache."""
FRAMES = 3
"""A round, on each bot's audio socket, read at once: 60 ms of audio. soxr gives out something
for two frames of three, so with fewer one round is twice the work of the next."""
ROUND_S = 0.12
"""Four times what a round takes, and far below the 400 ms after which a gap is filled."""
STOP_S = 0.002
WARM_UP, ROUNDS = 2, 25
"""For each server that is started."""
SERVERS = 7
"""Started for each number of workers, one and two in turn."""
AHEAD = priority.LOWEST + 1
"""The generator's: a backlog is written and started in one go, before workers and others."""
WAITED = 0.05
"""Share of a round beyond which it does not count, if a worker waited so long for others to
leave its core: each has one of its own, so it is never another worker that it waits for."""
NOT_QUIET = 0.5
"""Share of the rounds that may be left out before the figure is called disturbed."""


@attrs.frozen
class Round:
    """One backlog, from the moment that the workers may run."""

    began_ns: int
    ended_ns: int
    """The generator was awake again."""
    frames: int
    """On each socket so far, with those of earlier rounds."""
    waited_ns: int
    """How long the unluckiest worker's loop was ready to run and somebody else ran."""


@attrs.frozen
class Backlog:
    """What one number of workers made of it."""

    workers: int
    servers: tuple[tuple[float, ...], ...]
    """Milliseconds of each round that counts, for each server that was started."""
    rounds: int
    """Those that were left out included."""
    balances: tuple[float, ...] = ()
    """Of each server: see `balance`."""

    @property
    def medians_ms(self) -> list[float]:
        """Of each server's rounds; NaN: none counts."""
        return [statistics.median(found) if found else math.nan for found in self.servers]

    @property
    def ms(self) -> float:
        """The median of those; NaN: no round counts."""
        medians = [ms for ms in self.medians_ms if not math.isnan(ms)]
        return statistics.median(medians) if medians else math.nan

    @property
    def frames_hz(self) -> float:
        """Frames a second by all workers."""
        return self.workers * BOTS_A_WORKER * FRAMES / (self.ms / 1e3)

    @property
    def disturbed(self) -> bool:
        """Too many rounds were left out."""
        counted = sum(len(rounds) for rounds in self.servers)
        return counted < (1.0 - NOT_QUIET) * self.rounds


def measure_backlogs(cores: Cores) -> dict[int, Backlog]:
    """One and two workers, each on a core of its own; needs two cores.

    Raises:
        LinkError, ServerError, OSError: a server failed.
    """
    found: dict[int, list[tuple[float, ...]]] = {1: [], 2: []}
    balances: dict[int, list[float]] = {1: [], 2: []}
    for n in range(SERVERS):
        for workers in (1, 2) if n % 2 else (2, 1):
            counted, even = _run_server(workers, cores)
            found[workers].append(counted)
            balances[workers].append(even)
            said = f"median {statistics.median(counted):.1f} ms" if counted else "none counts"
            sys.stderr.write(f"backlog, {workers} worker(s): {said}\n")
    return {
        workers: Backlog(workers, tuple(servers), SERVERS * ROUNDS, tuple(balances[workers]))
        for workers, servers in found.items()
    }


def more_by_backlog(found: Mapping[int, Backlog]) -> float:
    """Frames a second of two workers over one's: the median over pairs of servers that were
    started one after the other. NaN: there is none."""
    ratios = [ratio for ratio in _ratios(found) if not math.isnan(ratio)]
    return statistics.median(ratios) if ratios else math.nan


def balance(stamps_of_each: Sequence[Ints]) -> float:
    """The average worker's share of the bots over the one's that has most: 1 is even."""
    bots = [len(np.unique(stamps[stamps[:, 0] >= 0, 0])) for stamps in stamps_of_each]
    bots = [number for number in bots if number]
    return sum(bots) / (len(bots) * max(bots)) if bots else math.nan


def count_rounds(
    stamps: Ints, rounds: Sequence[Round], out_after: Ints, bots: int
) -> list[float]:
    """Milliseconds until all that was sent in a round has been handed over, round by round.

    Rounds in which a worker waited for its core are left out. So is all from the first round
    on that was not over in time and to the sample: silence that was filled in after a stall
    of 400 ms shifts everything behind it.
    """
    found = []
    for this in rounds:
        now = stamps[(stamps[:, 2] >= this.began_ns) & (stamps[:, 2] < this.ended_ns)]
        now = now[(now[:, 0] >= 0) & (now[:, 0] < bots)]
        reached = np.zeros(bots, np.int64)
        np.maximum.at(reached, now[:, 0], now[:, 1])
        if not (reached == out_after[this.frames - 1]).all():
            break
        took_ns = int(now[:, 2].max()) - this.began_ns
        if this.waited_ns <= WAITED * took_ns:
            found.append(took_ns / 1e6)
    return found


def backlog_section(found: Mapping[int, Backlog]) -> list[str]:
    """Lines of Markdown."""
    lines = [
        "### A backlog",
        "",
        f"{BOTS_A_WORKER} bots a worker. The workers are stopped (SIGSTOP), {FRAMES} frames",
        f"of {Row().frame_ms} ms are written to each bot's audio socket, the generator goes to",
        "sleep, and the workers go on; the clock stops at the last bot's last stamp. A worker",
        "has a core, at real-time priority where that is allowed, so that whatever else this",
        "machine does has to wait. Every sample must arrive. Two get twice the work, so the",
        "figure is two times one's milliseconds over theirs; it cannot be above two times the",
        "balance, which is the average worker's bots over the ones of the one with most.",
        "",
        "| workers | bots | ms, median | fastest | 90 % within | frames/s | balance "
        "| backlogs that count |",
        "| ---: " * 8 + "|",
    ]
    for workers, backlog in found.items():
        rounds = [ms for server in backlog.servers for ms in server]
        if not rounds:
            continue
        bots = workers * BOTS_A_WORKER
        lines.append(
            f"| {workers} | {bots} | {backlog.ms:.1f} | {min(rounds):.1f} "
            f"| {np.percentile(rounds, 90):.1f} | {backlog.frames_hz:.0f} "
            f"| {min(backlog.balances, default=1.0):.2f} | {len(rounds)} of {backlog.rounds} |"
        )
    more = more_by_backlog(found)
    if math.isnan(more):
        return [*lines, "", "Not enough of them count: not a quiet machine.", ""]
    pairs = [ratio for ratio in _ratios(found) if not math.isnan(ratio)]
    return [
        *lines,
        "",
        f"Two over one: **{more:.2f}** with nothing else on the cores; {min(pairs):.2f} to",
        f"{max(pairs):.2f} in {len(pairs)} pairs of servers, one after the other.",
        "",
    ]


def _ratios(found: Mapping[int, Backlog]) -> list[float]:
    pairs = zip(found[1].medians_ms, found[2].medians_ms, strict=True)
    return [2.0 * one / two for one, two in pairs]


def _run_server(workers: int, cores: Cores) -> tuple[tuple[float, ...], float]:
    """Milliseconds of the rounds of one server that count, and its `balance`."""
    bots_wanted, total = workers * BOTS_A_WORKER, (WARM_UP + ROUNDS) * FRAMES
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as directory:
        stamps = Path(directory) / "stamps"
        make_stamp_file(stamps, bots_wanted * total)
        candidate = ours(f"{workers} worker(s)", ("--workers", str(workers)))
        with running(candidate, cores, {FILE_VARIABLE: str(stamps)}) as server:
            pids = family(server.pid)[1:] or [server.pid]  # the supervisor serves nobody
            bots: list[Bot] = []
            try:
                for index in range(bots_wanted):  # one by one: on a failure, those are closed
                    bots.append(connect(server.port, index, None))  # noqa: PERF401
                for pid, core in zip(pids, (cores.server, cores.load), strict=False):
                    _seclude(pid, core)
                with priority.real_time(level=AHEAD):
                    rounds = _run_rounds(pids, bots)
            finally:
                for bot in bots:
                    bot.leave()
        written = read_stamps_of_each(stamps)
    out_after = samples_out_after(total, Row().frame_ms)
    all_ = np.concatenate(written)
    counted = count_rounds(all_, rounds[WARM_UP:], out_after, bots_wanted)
    return tuple(counted), balance(written)


def _run_rounds(pids: Sequence[int], bots: Sequence[Bot]) -> list[Round]:
    frames = frames_of(Row())[0]
    links = {b.audio.socket.fileno(): b.audio for b in bots}
    links |= {b.control.socket.fileno(): b.control for b in bots}
    rounds: list[Round] = []
    gc.collect()
    gc.disable()
    try:
        with select.epoll() as poll:
            for descriptor in links:
                poll.register(descriptor, select.EPOLLIN)
            for n in range(0, (WARM_UP + ROUNDS) * FRAMES, FRAMES):
                numbers = range(n, n + FRAMES)
                data = b"".join(frames[number % DISTINCT_FRAMES] for number in numbers)
                with _stopped(pids):
                    for bot in bots:
                        _put(bot.audio, data)
                    before_ns = [_waited_ns(pid) for pid in pids]
                    began_ns = time.monotonic_ns()
                time.sleep(ROUND_S)
                ended_ns = time.monotonic_ns()
                waits = [_waited_ns(p) - b for p, b in zip(pids, before_ns, strict=True)]
                rounds.append(Round(began_ns, ended_ns, n + FRAMES, max(waits)))
                for descriptor, _ in poll.poll(0, len(links)):
                    links[descriptor].drain()  # pings
    finally:
        gc.enable()
    return rounds


@contextmanager
def _stopped(pids: Sequence[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    # A worker stops when it is on its core next, and one of them shares ours.
    time.sleep(STOP_S)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _waited_ns(pid: int) -> int:
    """Of the thread with the event loop alone: other threads of a worker wait for that one."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1])


def _put(link: Link, data: bytes) -> None:
    link.send(data)
    if link.waiting:
        raise LinkError("the kernel does not take a whole backlog")


def _seclude(pid: int, core: int) -> None:
    """Give ``pid`` a core of its own: others run there when it has nothing to do."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has just ended, or we may not
            os.sched_setaffinity(int(thread.name), {core})
            param = os.sched_param(priority.LOWEST)
            os.sched_setscheduler(int(thread.name), os.SCHED_FIFO, param)
