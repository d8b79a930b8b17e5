"""An hour of chaos: meetings that talk, faults at random from a printed seed, a judgement.

Half of the meetings are left alone, half keep losing sockets, and every few seconds a fault
strikes beside them. After each the losses pause until everything is back where it was.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs
import numpy as np
import trio

from benchmarks.judged import Judged
from benchmarks.ledgers import Account
from benchmarks.soak import MEMORY_BAR_MIB_H, SHORT_MINUTES, growth_mib_h
from tests.chaos.arena import SETTLE_S, TIMES, Arena, ledger_of, loud_lines
from tests.chaos.attack import Fault
from tests.chaos.bridge import ChaosError, Child, Counts
from tests.chaos.faults import LONG, QUICK, UNTIMED

FIRST_DISTURBED = 1_000
WARM_UP_S = 5.0
QUIET_S = 1.0
HOLD_S = 20.0
"""Until all the disturbed have both sockets: pauses of theirs last 3 s, and refusals."""
LONG_EVERY = 2
"""Rounds of all the quick faults to one fault of the long ones."""
FEW = 3
"""Windows of one kind below which a median says nothing."""


@attrs.define
class Log:
    """What happened, in figures."""

    started_s: float = attrs.field(factory=time.monotonic)
    memory: list[tuple[float, int]] = attrs.field(factory=list)
    """(seconds, KiB resident), each time that everything was at rest."""
    faults: Counter[str] = attrs.field(factory=Counter)
    p99_ms: defaultdict[str, list[float]] = attrs.field(factory=lambda: defaultdict(list))
    times: defaultdict[str, list[float]] = attrs.field(factory=lambda: defaultdict(list))
    """A window's p99 to the undisturbed one just before it."""
    settled_s: list[float] = attrs.field(factory=list)
    frames: int = 0
    wrong: list[str] = attrs.field(factory=list)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_s


async def run_chaos(
    arena: Arena, disturbed: Child, minutes: float, seed: int, say: Callable[[str], object]
) -> list[Judged]:
    """Chaos for ``minutes``, then everybody leaves; each bar and what was found."""
    log = Log()
    arena.calm = partial(_hold, disturbed)
    baseline = await _calm(arena, disturbed)
    say(f"at rest: {baseline}, {arena.bridge.resident_kib / 1024:.1f} MiB")
    for fault in faults_in_turn(random.Random(seed)):
        if log.elapsed_s >= minutes * 60:
            break
        await _one_fault(arena, disturbed, fault, baseline, log, say)
    return await _the_end(arena, disturbed, log, minutes)


def faults_in_turn(chance: random.Random) -> Iterator[Fault]:
    """All the quick ones in a new order each round, and now and then a long one; for ever."""
    rounds = 0
    while True:
        rounds += 1
        deck = list(QUICK)
        if rounds % LONG_EVERY == 0:
            deck.append(chance.choice(LONG))
        chance.shuffle(deck)
        yield from deck


async def _calm(arena: Arena, disturbed: Child) -> Counts:
    """Hold the disturbed, and return what is alive once it no longer changes."""
    if await _hold(disturbed):
        raise ChaosError("the disturbed could not connect")
    await trio.sleep(WARM_UP_S)
    return await arena.counts_at_rest()


async def _hold(disturbed: Child) -> list[str]:
    """Have all sockets of the disturbed back; what is wrong if they are not."""
    disturbed.tell("hold")
    with trio.move_on_after(HOLD_S) as scope:
        await trio.to_thread.run_sync(disturbed.says, "whole", abandon_on_cancel=True)
    if scope.cancelled_caught:
        return [f"the disturbed could not get their sockets back in {HOLD_S:g} s"]
    return []


async def _one_fault(
    arena: Arena,
    disturbed: Child,
    fault: Fault,
    baseline: Counts,
    log: Log,
    say: Callable[[str], object],
) -> None:
    quiet = await arena.rest(QUIET_S)
    disturbed.tell("go on")
    name, began_s = fault.__name__, log.elapsed_s
    struck = await arena.strike(fault, baseline)
    window, counts, wrong = struck.window, struck.counts, struck.wrong
    if quiet.lost:
        wrong.append(f"{quiet.lost} frames of the neighbours were lost without a fault")
    kib = arena.bridge.resident_kib
    log.memory.append((log.elapsed_s, kib))
    log.faults[name] += 1
    log.p99_ms[name].append(window.p99_ms)
    log.times[name].append(window.p99_ms / quiet.p99_ms)
    log.settled_s.append(struck.settled_s)
    log.frames += quiet.frames + window.frames
    log.wrong += [f"{name}: {text}" for text in wrong]
    say(
        f"{began_s / 60:6.2f} min {name:34} p99 {window.p99_ms:7.2f} ms, "
        f"{quiet.p99_ms:5.2f} before; at rest after {struck.settled_s:.2f} s, "
        f"{counts.tasks} tasks, {counts.fds} fds, {kib / 1024:.2f} MiB"
        + "".join(f"\n    WRONG {w}" for w in wrong)
    )
    attack = struck.attack
    for text in loud_lines(arena.bridge.records[attack.since :], attack.injected):
        say(f"    LOUD {text}")


async def _the_end(arena: Arena, disturbed: Child, log: Log, minutes: float) -> list[Judged]:
    """Let everybody leave, and judge."""
    with trio.fail_after(30.0):
        chaos = await trio.to_thread.run_sync(disturbed.leave)
    report, wrong = await arena.dismiss()
    accounts = {
        bot["bot_id"]: Account(bot["frames"], bot["perhaps_unread"], bot["heard_s"])
        for bot in chaos["bots"]
    }
    records = [r for r in arena.bridge.records if r.get("bot_id") in accounts]
    books = ledger_of(records, accounts) + [t for t in wrong if "gap" not in t]
    gaps = [text for text in wrong if "gap" in text]
    unmade = Counter(g[0] for bot in report["bots"] for g in bot["gaps"])
    ended = [r for r in arena.bridge.records if r.get("event") == "meeting ended"]
    settled_s, counts = await arena.settled(arena.empty)
    loud = arena.loud()
    slope, error = growth_mib_h(log.memory)
    grown = None if minutes < SHORT_MINUTES else slope < MEMORY_BAR_MIB_H
    last_mib = log.memory[-1][1] / 1024 if log.memory else 0.0
    faults = ", ".join(f"{name} {n}" for name, n in sorted(log.faults.items()))
    lines = log.wrong + books + gaps + loud
    for text in lines[:40]:
        sys.stdout.write(f"WRONG {text}\n")
    return [
        Judged(
            "memory after a third",
            f"{slope:+.2f} MiB/hour (standard error {error:.2f}), {last_mib:.1f} MiB",
            f"< {MEMORY_BAR_MIB_H:g} MiB/hour",
            grown,
        ),
        Judged(
            "logged at ERROR and not injected",
            f"{len(loud)} ({arena.injected.total()} injected)",
            "0",
            not loud,
        ),
        Judged(
            "ledgers",
            f"{len(ended)} meetings, {len(books)} not exact",
            "exact",
            not books and bool(ended),
        ),
        Judged(
            "frames of the undisturbed",
            f"{sum(bot['frames'] for bot in report['bots'])} sent, each heard once, in order",
            "none lost",
            not any("lost" in t or "heard frame" in t for t in lines),
        ),
        Judged(
            "playback gaps of the undisturbed",
            f"{len(gaps)} of the server's making in "
            f"{sum(bot['answers'] for bot in report['bots'])} answers; all, by cause: "
            f"{dict(unmade) or 'none'}, those of the blocked loop ({len(arena.blocked)} "
            "blocks) among the server's",
            "0",
            not gaps,
        ),
        _judge_p99(log),
        Judged(
            "back at the baseline after each fault",
            f"{log.faults.total()} faults, {len(log.wrong)} things wrong; at rest after "
            f"{max(log.settled_s, default=0.0):.2f} s at most",
            f"within {SETTLE_S:g} s",
            not log.wrong,
        ),
        Judged(
            "at the end",
            f"{counts} after {settled_s:.2f} s",
            f"{arena.empty}, as before the first meeting",
            counts == arena.empty,
        ),
        Judged("faults", faults, "", None),
        Judged("sockets lost by the disturbed", _shown(chaos), "", None),
    ]


def _judge_p99(log: Log) -> Judged:
    timed = {
        name: float(np.median(times))
        for name, times in log.times.items()
        if len(times) >= FEW and name not in {fault.__name__ for fault in UNTIMED}
    }
    if not timed:
        return Judged("p99 of the undisturbed", "too few windows", f"<= {TIMES}", None)
    worst = max(timed, key=lambda name: timed[name])
    usual = float(np.median([p99 for every in log.p99_ms.values() for p99 in every]))
    return Judged(
        "p99 of the undisturbed, to that just before; the median by fault",
        f"{timed[worst]:.2f} times for {worst}, the worst; {usual:.2f} ms in a usual window; "
        f"{log.frames} frames",
        f"<= {TIMES} times",
        timed[worst] <= TIMES,
    )


def _shown(chaos: dict[str, Any]) -> str:
    losses = ", ".join(f"{way} {n}" for way, n in sorted(chaos["losses"].items()))
    faults = [fault for bot in chaos["bots"] for fault in bot["faults"]]
    ended = "; ".join(f"{text} {n}" for text, n in Counter(faults).most_common(3))
    return f"{losses or 'none'}; refused {chaos['refused']} times; ended by the server: " + (
        ended or "none"
    )
