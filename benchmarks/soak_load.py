"""The soak's one loop: a hundred bots on time, their sockets, chances and clocks.

One thread and one epoll, as in `benchmarks.load`, but without its busy waiting: a millisecond
more or less is nothing here, and half an hour of a spinning core is not.
"""

from __future__ import annotations

import random
import select
import sys
import time
from collections import Counter, deque

from benchmarks.accounting import cpu_ns, resident_kib, waited_ns
from benchmarks.load import DISTINCT_FRAMES, frames_of
from benchmarks.playback import Playback, Spans
from benchmarks.rows import Row
from benchmarks.soak_bot import WAYS, Kind, SoakBot
from benchmarks.wsclient import Link, LinkError

FRAME_S = 0.02
WAIT_S = 0.002
SHORT_PAUSE_S = (0.0, 0.05)
LONG_PAUSE_S = (0.5, 3.0)
"""Nothing between: a pause about as long as the playback queue proves nothing either way."""
LEAVE_S = 10.0
CORE_S = 0.05
STARVED_S = 0.005
"""In `CORE_S`; less is nothing."""
LOST: tuple[tuple[Kind, ...], ...] = (("audio",), ("control",), ("audio", "control"))
BOTH: tuple[Kind, ...] = ("audio", "control")


class SoakLoad:
    """Runs once; afterwards its figures may be read."""

    STALL_S = 0.05
    """The loop took this long: what came meanwhile is stamped too late."""

    def __init__(
        self,
        pid: int,
        port: int,
        bots: int,
        seed: int,
        lose_every_s: float,
        *,
        first: int = 0,
    ) -> None:
        """``bots`` from number ``first`` on, of the server in process ``pid``."""
        self.until_s = 0.0
        """When `run` stops streaming; may be moved meanwhile."""
        self.memory: list[tuple[float, int]] = []
        """(seconds, KiB resident), once a second while all bots are there."""
        self.losses: Counter[str] = Counter()
        self.stalls = 0
        self.busy = 0.0
        """Share of a core that the server used."""
        self.waited_s = 0.0
        """That the server was ready to run and others had its core."""
        self._late_s: deque[float] = deque(maxlen=200_000)
        self._late_max_s = 0.0
        self._pid, self._lose_every_s = pid, lose_every_s
        self._chance = random.Random(seed)
        self._stalls, self._starvation = Spans(), Spans()
        self._waited_ns = waited_ns(pid)
        self.bots = [
            SoakBot(index, port, Playback(self._stalls, self._starvation, self._look_at_wait))
            for index in range(first, first + bots)
        ]
        self._frames = frames_of(Row())[0]
        self._poll = select.epoll()
        self._open: dict[int, tuple[SoakBot, Link]] = {}
        self._start_s = self._before_s = 0.0
        self._sent = 0

    # -- figures ---------------------------------------------------------------------------

    @property
    def memory_mib(self) -> float:
        """Resident memory at the end of the streaming."""
        return self.memory[-1][1] / 1024 if self.memory else 0.0

    @property
    def late_p99_ms(self) -> float:
        """How late frames were sent, of the last `deque` of them."""
        ordered = sorted(self._late_s)
        return ordered[int(len(ordered) * 0.99)] * 1000 if ordered else 0.0

    @property
    def late_max_ms(self) -> float:
        """The latest frame of all."""
        return self._late_max_s * 1000

    def elapsed_s(self, at_s: float) -> float:
        """Seconds into the run."""
        return at_s - self._start_s

    # -- the run ---------------------------------------------------------------------------

    def run(self, duration_s: float) -> None:
        """Stream for ``duration_s``, then let every bot leave.

        Raises:
            LinkError, OSError: the server took no connection, or no longer does.
        """
        for bot in self.bots:
            for kind in BOTH:
                self._watch(bot, bot.open(kind))
                self._read(0.0)  # those that are there are talked to already
        used_ns = cpu_ns(self._pid)
        self._start_s = time.monotonic()
        try:
            self.until_s = self._start_s + duration_s
            self._stream()
            self.busy = (cpu_ns(self._pid) - used_ns) / 1e9 / duration_s
            self._leave()
        finally:
            for _, link in self._open.values():
                link.socket.close()
            self._poll.close()

    def _stream(self) -> None:
        now_s = self._clock()
        look_s = report_s = lose_s = core_s = now_s
        while now_s < self.until_s:
            self._read(WAIT_S)
            now_s = self._clock()
            self._send(now_s)
            if now_s >= lose_s:
                lose_s = now_s + self._chance.expovariate(1 / self._lose_every_s)
                self._lose(now_s)
            self._bring_back(now_s)
            if now_s >= core_s:
                core_s = now_s + CORE_S
                self._look_at_core(now_s)
            if now_s >= look_s:
                look_s += 1.0
                self.memory.append((now_s - self._start_s, resident_kib(self._pid)))
            if now_s >= report_s + 60:
                report_s += 60
                self._report(now_s)

    def _look_at_core(self, now_s: float) -> None:
        self._look_at_wait(now_s)

    def _look_at_wait(self, now_s: float) -> None:
        before_ns, self._waited_ns = self._waited_ns, waited_ns(self._pid)
        starved_s = (self._waited_ns - before_ns) / 1e9
        self.waited_s += starved_s
        if starved_s > STARVED_S:
            self._starvation.add(now_s - starved_s, now_s)

    def _clock(self) -> float:
        """The time; what has passed since the last look is booked where it was a stall."""
        before_s, self._before_s = self._before_s, time.monotonic()
        if self._before_s - before_s > self.STALL_S:
            self.stalls += 1
            self._stalls.add(before_s, self._before_s)
        return self._before_s

    def _read(self, wait_s: float) -> None:
        for descriptor, _ in self._poll.poll(wait_s, 256):
            bot, link = self._open[descriptor]
            now_s = self._clock()  # first: what came during a stall is not late
            if not bot.read(link, now_s):
                del self._open[descriptor]  # closing it has taken it out of the epoll

    def _send(self, now_s: float) -> None:
        """Every frame whose time has come: bot k's are a k-th of a frame after the first's."""
        apart_s = FRAME_S / len(self.bots)
        due = int((now_s - self._start_s) / apart_s)
        while self._sent < due:
            round_, k = divmod(self._sent, len(self.bots))
            late_s = now_s - self._start_s - self._sent * apart_s
            self._late_s.append(late_s)
            self._late_max_s = max(self._late_max_s, late_s)
            bot = self.bots[k]
            link = bot.links.get("audio")
            try:
                bot.stream(self._frames[round_ % DISTINCT_FRAMES])
            except LinkError as error:
                if link is not None:
                    self._open.pop(link.socket.fileno(), None)
                    bot.lost(link, now_s, str(error))
            self._sent += 1

    def _lose(self, now_s: float) -> None:
        bot = self._chance.choice(self.bots)
        if not bot.whole:
            return
        way = self._chance.choice(WAYS)
        kinds = BOTH if way == "leave" else self._chance.choice(LOST)
        self.losses[f"{way} {' and '.join(kinds)}"] += 1
        if way == "take over":
            for kind in kinds:
                self._watch(bot, bot.take_over(kind, now_s))
        else:
            pause = self._chance.choice((SHORT_PAUSE_S, LONG_PAUSE_S))
            bot.lose(kinds, way, self._chance.uniform(*pause), now_s)

    def _bring_back(self, now_s: float) -> None:
        for bot in self.bots:
            if len(bot.links) < len(BOTH) or bot.parting:
                for kind in bot.due_back(now_s):
                    self._watch(bot, bot.open(kind))

    def _leave(self) -> None:
        """All bots say goodbye; what the server still has for them is read."""
        until_s = time.monotonic() + LEAVE_S
        for bot in self.bots:
            bot.lose(tuple(bot.links), "leave", 3600.0, time.monotonic())
        while any(bot.parting for bot in self.bots) and time.monotonic() < until_s:
            self._read(0.01)

    def _watch(self, bot: SoakBot, link: Link) -> None:
        descriptor = link.socket.fileno()
        self._open[descriptor] = (bot, link)
        self._poll.register(descriptor, select.EPOLLIN)
        # It has just been opened, and that was waiting for the server: no stall of ours.
        self._before_s = time.monotonic()

    def _report(self, now_s: float) -> None:
        gaps = Counter(gap.cause for bot in self.bots for gap in bot.playback.gaps)
        sys.stderr.write(
            f"{(now_s - self._start_s) / 60:.0f} min: {self.memory_mib:.1f} MiB, "
            f"{sum(bot.frames for bot in self.bots)} frames, {self.losses.total()} sockets "
            f"lost, gaps {dict(gaps) or 'none'}, late {self.late_max_ms:.0f} ms at most, "
            f"{sum(len(bot.faults) for bot in self.bots)} faults\n"
        )
