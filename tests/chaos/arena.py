"""A bridge under attack, its neighbours, and the judgement after each fault."""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import trio

from benchmarks.accounting import choose_cores, raise_file_limit
from benchmarks.ledgers import ROUNDED_S, Account, audit
from tests.chaos.attack import Attack, Fault, Sent
from tests.chaos.bridge import (
    Bridge,
    ChaosError,
    Child,
    Counts,
    Probe,
    count,
    count_at_rest,
    running_bridge,
)
from tests.chaos.faults import UNTIMED
from tests.chaos.marks import Notes

SETTLE_S = 5.0
"""After a fault everything is back at the baseline within that."""
TIMES = 1.5
"""A neighbour's p99 under attack, at most, times its undisturbed one."""
TRIES = 3
"""Of a fault whose window was worse than that: the machine has other things to do as well."""
WINDOW_S = 1.2
"""From the beginning of a fault until everything is at rest, and no less than this: 1 % of
fewer frames is a handful."""
ARRIVAL_S = 2.0
"""A frame that was not heard by then is lost."""
GROWN_KIB = 1_024
"""Of resident memory, over one fault and what the neighbours do meanwhile. That it stays there
is for the hour to show, and for ten of each in a row."""
FRAME_S = 0.02
GAP_S = 0.1
"""What a blocked loop may cost in playback: its 0.25 s, less the 0.2 s that are queued at the
bot just before a chunk, and what the chunk takes."""
AFTER_S = 0.5
LOUD = {"ERROR", "CRITICAL"}

Floats = npt.NDArray[np.float64]


@attrs.frozen
class Window:
    """How the neighbours fared for a while."""

    frames: int
    p99_ms: float
    """From the send to the agent's hands, less what the bridge waited for its core."""
    whole_p99_ms: float
    """The same, with what it waited."""
    lost: int


@attrs.define
class Struck:
    """What one run of a fault did."""

    attack: Attack
    window: Window
    settled_s: float
    counts: Counts
    grown_kib: int = 0
    wrong: list[str] = attrs.field(factory=list)
    """What must not be, a line each."""


@attrs.frozen
class Outcome:
    """A fault, judged."""

    last: Struck
    window: Window
    """The quietest."""
    quiet_ms: float
    """The neighbours' undisturbed p99 that it is compared with."""
    tries: int
    wrong: list[str]

    @property
    def times(self) -> float:
        """The window's p99 to the undisturbed one."""
        return self.window.p99_ms / self.quiet_ms


@attrs.define(eq=False)
class Arena:
    """Made by `open_arena`."""

    bridge: Bridge
    probe: Probe
    neighbours: Child
    sent: Notes
    heard: Notes
    chance: random.Random
    bots: int
    empty: Counts
    """What was alive before the first neighbour came."""
    calm: Callable[[], Awaitable[list[str]]] | None = None
    """Awaited after each fault, before anything is expected to be at rest; what went wrong."""
    quiet_ms: list[float] = attrs.field(factory=list, init=False)
    """The p99 of each undisturbed window so far."""
    attacks: int = attrs.field(default=0, init=False)
    injected: Counter[tuple[str, str]] = attrs.field(factory=Counter, init=False)
    blocked: list[tuple[float, float]] = attrs.field(factory=list, init=False)
    """When an agent held the loop, in seconds of CLOCK_MONOTONIC."""
    begun: list[tuple[float, str]] = attrs.field(factory=list, init=False)
    """When each fault began, and its name."""

    # -- readings --------------------------------------------------------------------------

    async def counts(self) -> Counts:
        """What is alive now; takes a few ms and a connection, which is not in it."""
        return await count(self.bridge, self.probe)

    async def counts_at_rest(self) -> Counts:
        """The same once it stays what it is: for what others are compared with."""
        return await count_at_rest(self.bridge, self.probe)

    async def settled(self, baseline: Counts) -> tuple[float, Counts]:
        """Wait until everything is back at ``baseline``; seconds, and the counts at the end.

        After `SETTLE_S` it is what it is.
        """
        since_s = trio.current_time()
        while True:
            counts = await self.counts()
            took_s = trio.current_time() - since_s
            if counts == baseline or took_s > SETTLE_S:
                return took_s, counts
            await trio.sleep(0.05)

    def begin_window(self) -> list[int]:
        """The next frame of each neighbour."""
        return [self.sent.last(bot) + 1 for bot in range(self.bots)]

    async def end_window(self, first: list[int]) -> Window:
        """All frames since ``first``, once they were heard."""
        last = [self.sent.last(bot) for bot in range(self.bots)]
        with trio.move_on_after(ARRIVAL_S):
            # Another process notes them, so there is no event to wait for.
            while any(  # noqa: ASYNC110
                self.heard.last(bot) < last[bot] for bot in range(self.bots)
            ):
                await trio.sleep(FRAME_S)
        took, waited, lost = [], [], 0
        for bot in range(self.bots):
            sent, heard = self.sent.read(bot), self.heard.read(bot)
            for number in range(first[bot], last[bot] + 1):
                if number not in sent:
                    continue  # so long ago that newer ones have its slot
                if number not in heard:
                    lost += 1
                    continue
                took.append(heard[number][0] - sent[number][0])
                waited.append(heard[number][1] - sent[number][1])
        if not took:
            raise ChaosError("the neighbours were not heard at all")
        whole = np.array(took, np.float64) / 1e6
        own = np.maximum(whole - np.array(waited, np.float64) / 1e6, 0.0)
        return Window(len(took), _p99(own), _p99(whole), lost)

    async def rest(self, for_s: float) -> Window:
        """An undisturbed window, which is remembered."""
        first = self.begin_window()
        await trio.sleep(for_s)
        window = await self.end_window(first)
        self.quiet_ms.append(window.p99_ms)
        return window

    # -- faults ----------------------------------------------------------------------------

    async def strike(self, fault: Fault, baseline: Counts) -> Struck:
        """Run ``fault`` and settle; how the neighbours fared from its beginning until then."""
        self.attacks += 1
        self.bridge.read_log()
        attack = Attack(self.bridge, random.Random(self.chance.random()), self.attacks)
        before_kib = self.bridge.resident_kib
        until_s = trio.current_time() + WINDOW_S
        self.begun.append((time.monotonic(), fault.__name__))
        first = self.begin_window()
        wrong: list[str] = []
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_probe)
                await fault(attack)
                nursery.cancel_scope.cancel()
        except* (AssertionError, EOFError, OSError, trio.BrokenResourceError) as failures:
            wrong += [f"it went otherwise than it should: {e!r}" for e in failures.exceptions]
        except* trio.TooSlowError:
            wrong.append("something that was to come did not come in time")
        self.injected += attack.injected
        self.blocked += attack.blocked
        if self.calm is not None:
            wrong += await self.calm()
        settled_s, counts = await self.settled(baseline)
        await trio.sleep_until(until_s)
        window = await self.end_window(first)
        struck = Struck(attack, window, settled_s, counts, wrong=wrong)
        struck.grown_kib = self.bridge.resident_kib - before_kib
        if counts != baseline:
            struck.wrong.append(f"{counts} after {settled_s:.1f} s, and {baseline} before")
        if struck.window.lost:
            struck.wrong.append(f"{struck.window.lost} frames of the neighbours were lost")
        self.bridge.read_log()
        struck.wrong += ledger_faults(self.bridge.records[attack.since :], attack.sent)
        return struck

    async def _keep_probe(self) -> None:
        """Let the probe answer pings while a long fault runs."""
        while True:
            await trio.sleep(5.0)
            self.probe.ask()

    async def suffer(self, fault: Fault, baseline: Counts) -> Outcome:
        """Run ``fault`` and judge it, memory and the neighbours' latency included.

        A window that is too slow is measured anew, with the fault, `TRIES` times at most, and
        the quietest counts. So it is with memory: the first of its kind may make the heap as
        large as it needs, and then that is enough. Everything else must be right each time.
        """
        wrong: list[str] = []
        windows: list[Window] = []
        grown_kib: list[int] = []
        while True:
            struck = await self.strike(fault, baseline)
            wrong += struck.wrong
            windows.append(struck.window)
            grown_kib.append(struck.grown_kib)
            window = min(windows, key=lambda one: one.p99_ms)
            outcome = Outcome(
                struck, window, float(np.median(self.quiet_ms)), len(windows), wrong
            )
            slow = outcome.times > TIMES and fault not in UNTIMED
            if len(windows) == TRIES or not (slow or min(grown_kib) > GROWN_KIB):
                break
            await self.rest(0.5)
        if slow:
            wrong.append(
                f"the neighbours' p99 was {window.p99_ms:.2f} ms, {outcome.times:.2f} times "
                f"their {outcome.quiet_ms:.2f} ms without a fault"
            )
        if min(grown_kib) > GROWN_KIB:
            wrong.append(f"memory was not given back, time and again: {grown_kib} KiB")
        return outcome

    # -- the end ---------------------------------------------------------------------------

    def loud(self) -> list[str]:
        """What was logged at ERROR and nobody injected, and frames that agents missed."""
        self.bridge.read_log()
        return loud_lines(self.bridge.records, self.injected)

    async def dismiss(self) -> tuple[dict[str, Any], list[str]]:
        """Let the neighbours leave; their report, and what is wrong with it."""
        with trio.fail_after(20.0):
            report = await trio.to_thread.run_sync(self.neighbours.leave)
        await trio.sleep(0.2)  # the log line of a meeting comes after its last Close
        self.bridge.read_log()
        accounts = {
            bot["bot_id"]: Account(bot["frames"], 0, bot["heard_s"]) for bot in report["bots"]
        }
        ended = [r for r in self.bridge.records if r.get("bot_id") in accounts]
        wrong = ledger_of(ended, accounts)
        for bot in report["bots"]:
            wrong += [f"{bot['bot_id']}: {fault}" for fault in bot["faults"]]
            wrong += [
                f"{bot['bot_id']}: a gap of {length_s * 1000:.0f} ms in its playback, "
                f"{self._when(at_s)}"
                for cause, at_s, length_s in bot["gaps"]
                if cause == "server" and not self._is_injected(at_s, length_s)
            ]
        return report, wrong

    def _when(self, at_s: float) -> str:
        """Between which faults, and what the bridge's watchdog saw just then; for a person."""
        before = [(name, at_s - from_s) for from_s, name in self.begun if from_s <= at_s]
        when = "before any fault" if not before else "{1:.2f} s into {0}".format(*before[-1])
        seen = self.bridge.blocked_near(at_s)
        return ", ".join([when, *(f"blocked {ms} ms in {what}" for ms, what in seen)])

    def _is_injected(self, at_s: float, length_s: float) -> bool:
        return length_s < GAP_S and any(
            from_s <= at_s <= to_s + AFTER_S for from_s, to_s in self.blocked
        )


@contextmanager
def open_arena(bots: int, seed: int, *flags: str) -> Iterator[Arena]:
    """A bridge with ``bots`` neighbours that stream, and a probe. Warm, and nothing else on.

    Raises:
        ChaosError: it did not start, or did not end well.
    """
    raise_file_limit()
    cores = choose_cores()
    with tempfile.TemporaryDirectory() as name, _on(cores.loads):
        directory = Path(name)
        with running_bridge(directory, bots, *flags, cores=cores) as bridge:
            sent = Notes(directory / "sent", bots, make=True)
            heard = Notes(directory / "heard", bots)
            probe = Probe(bridge.port)
            empty = trio.run(count_at_rest, bridge, probe)
            child = Child.start(
                "tests.chaos.neighbours", bridge.port, bridge.pid, directory / "sent", bots,
                cores=cores,
            )  # fmt: skip
            try:
                child.says("streaming")
                yield Arena(bridge, probe, child, sent, heard, random.Random(seed), bots, empty)
            finally:
                probe.close()
                child.kill()


def ledger_of(records: list[dict[str, Any]], accounts: dict[str, Account]) -> list[str]:
    """What is not exact in the books of bots that stream 20 ms frames."""
    return audit((json.dumps(record) for record in records), accounts, 20).errors


def ledger_faults(records: list[dict[str, Any]], sent: dict[str, Sent]) -> list[str]:
    """What is not exact in the books of a fault's bots."""
    frames: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    wrong = []
    for record in records:
        bot_id = str(record.get("bot_id"))
        if record.get("event") != "meeting ended" or bot_id not in sent:
            continue
        ended[bot_id] += 1
        frames[bot_id] += record["frames"]
        if record["ledger"] != "balanced":
            wrong.append(f"{bot_id}: {record['ledger']}")
        if record["rejected"]:
            wrong.append(f"{bot_id}: rejected {record['rejected']}")
        if abs(record["received_s"] - record["frames"] * FRAME_S) > 2 * ROUNDED_S:
            wrong.append(
                f"{bot_id}: {record['frames']} frames, but {record['received_s']} s received"
            )
    for bot_id, expected in sent.items():
        if not ended[bot_id]:
            wrong.append(f"{bot_id}: its meeting did not end")
        elif not expected.least <= frames[bot_id] <= expected.most:
            wrong.append(
                f"{bot_id}: {frames[bot_id]} frames taken, {expected.least} to "
                f"{expected.most} sent"
            )
    return wrong


def loud_lines(records: list[dict[str, Any]], injected: Counter[tuple[str, str]]) -> list[str]:
    """Lines at ERROR that nobody injected, injected ones that are missing, lost frames."""
    expected = injected.copy()
    wrong = []
    for record in records:
        event, bot_id = str(record.get("event")), str(record.get("bot_id"))
        if event == "frame lost":
            wrong.append(f"{bot_id}: heard frame {record.get('agent_came')} after "
                         f"{record.get('agent_expected')}")  # fmt: skip
        if record.get("level") not in LOUD:
            continue
        expected[event, bot_id] -= 1
        if expected[event, bot_id] < 0:
            wrong.append(f"{record.get('level')}: {event} {record}")
    wrong += [f"not logged: {event} of {bot}" for (event, bot), n in expected.items() if n > 0]
    return wrong


def _p99(values: Floats) -> float:
    return float(np.percentile(values, 99))


@contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    """Run this process, the attacker, on ``cores``."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)
