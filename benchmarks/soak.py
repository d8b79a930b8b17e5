"""``python -m benchmarks.soak --bots 100 --minutes 30``: does it stay as it is?

A real server whose agent talks to every bot in turns; bots that stream 20 ms frames in real
time and lose sockets at random, one about every two seconds. At the end all leave, and the
server's books are compared with what was sent. Exit status 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.accounting import choose_cores, raise_file_limit
from benchmarks.judged import Judged, judged_table
from benchmarks.ledgers import Account, Books, audit
from benchmarks.playback import RATE_HZ
from benchmarks.rows import Row
from benchmarks.servers import Candidate, running
from benchmarks.soak_load import SoakLoad
from benchmarks.stamps import bot_id_of

MEMORY_BAR_MIB_H = 1.0
SHORT_MINUTES = 10.0
"""In less the growth of memory cannot be told from its noise."""


def main(argv: Sequence[str] | None = None) -> int:
    """Soak, report, judge; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--bots", type=int, default=100, metavar="N", help="bots [100]")
    parser.add_argument("--minutes", type=float, default=30.0, metavar="M", help="[30]")
    parser.add_argument(
        "--lose-every-s", type=float, default=2.0, metavar="S",
        help="seconds between lost sockets, on average [2]",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the chances [1]")
    parser.add_argument(
        "--server-flags", default="", metavar="FLAGS",
        help='for trio_bridge, e.g. "--audio-tick-ms 20" (write --server-flags="...")',
    )  # fmt: skip
    parser.add_argument("--log", default="", metavar="FILE", help="keep the server's log here")
    arguments = parser.parse_args(argv)
    cores = choose_cores()
    raise_file_limit()
    os.sched_setaffinity(0, cores.loads)
    with tempfile.TemporaryDirectory() as directory:
        log = Path(arguments.log or Path(directory) / "server.log")
        command = ["trio_bridge", "--port", "0", "--agent", "benchmarks.soak_agent:take_turns"]
        command += ["--log-format", "json", *arguments.server_flags.split()]
        candidate = Candidate("trio_bridge", tuple(command), log=log)
        with running(candidate, cores, {}) as server:
            load = SoakLoad(
                server.pid,
                server.port,
                arguments.bots,
                arguments.seed,
                arguments.lose_every_s,
            )
            load.run(arguments.minutes * 60)
        lines = log.read_text(errors="replace").splitlines()
    accounts = {
        bot_id_of(bot.index): Account(
            bot.frames, bot.perhaps_unread, bot.playback.samples / RATE_HZ
        )
        for bot in load.bots
    }
    books = audit(lines, accounts, Row().frame_ms)
    judged = judge(load, books, arguments.minutes)
    sys.stdout.write("\n".join(to_markdown(judged, books, load, arguments.minutes)) + "\n")
    return 0 if all(one.held is not False for one in judged) else 1


def judge(load: SoakLoad, books: Books, minutes: float) -> list[Judged]:
    """Every figure beside its bar."""
    slope, error = growth_mib_h(load.memory)
    gaps = [gap for bot in load.bots for gap in bot.playback.gaps]
    by_cause = {
        c: sum(g.cause == c for g in gaps) for c in ("server", "away", "client", "machine")
    }
    faults = [fault for bot in load.bots for fault in bot.faults]
    answers = sum(bot.playback.answers for bot in load.bots)
    least_s = min((bot.playback.least_s for bot in load.bots), default=float("inf"))
    grown = None if minutes < SHORT_MINUTES else slope < MEMORY_BAR_MIB_H
    lost = ", ".join(f"{way} {n}" for way, n in sorted(load.losses.items()))
    alarms = ", ".join(f"{event} {n}" for event, n in sorted(books.alarms.items()))
    exact = not books.errors and books.meetings > 0
    return [
        Judged(
            "memory after a third",
            f"{slope:+.2f} MiB/hour (standard error {error:.2f}), {load.memory_mib:.1f} MiB",
            f"< {MEMORY_BAR_MIB_H:g} MiB/hour",
            grown,
        ),
        Judged(
            "ledgers",
            f"{books.meetings} meetings, {len(books.errors)} not exact; {books.sent} frames "
            f"sent, {books.frames} taken, {books.unread} left unread where a newer socket took "
            "over",
            "exact to the sample",
            exact,
        ),
        Judged(
            "playback gaps of the server's making",
            f"{by_cause['server']} in {answers} answers",
            "0",
            not by_cause["server"],
        ),
        Judged(
            "other gaps",
            f"{by_cause['away']} while the bot was away, {by_cause['client']} while this "
            f"generator was stalled, {by_cause['machine']} while others had the server's core; "
            f"the server counted {books.starved}",
            "",
            None,
        ),
        Judged("shortest playback queue", f"{least_s * 1000:.0f} ms", "", None),
        Judged("sockets lost on purpose", lost or "none", "", None),
        Judged("sockets the server ended", f"{len(faults)}", "0", not faults),
        Judged("audio the agents lost", f"{books.dropped_s:.3f} s", "0", books.dropped_s == 0),
        Judged("warnings and errors in the log", alarms or "none", "none", not alarms),
        Judged(
            "the server's core",
            f"{load.busy:.0%} used; waited for others {load.waited_s:.1f} s in all",
            "",
            None,
        ),
        Judged(
            "this generator",
            f"late by {load.late_p99_ms:.1f} ms at p99, {load.late_max_ms:.0f} ms at most; "
            f"{load.stalls} stalls over {load.STALL_S * 1000:.0f} ms",
            "",
            None,
        ),
    ]


def to_markdown(
    judged: Sequence[Judged], books: Books, load: SoakLoad, minutes: float
) -> list[str]:
    """The summary, and what went wrong in words."""
    lines = [
        f"Soak: {len(load.bots)} bots, 20 ms frames, {minutes:g} minutes",
        "",
        *judged_table(judged),
    ]
    if minutes < SHORT_MINUTES:
        lines += ["", f"Memory is not judged in less than {SHORT_MINUTES:g} minutes."]
    wrong = books.errors + [fault for bot in load.bots for fault in bot.faults]
    wrong += [
        f"bot {bot.index}: gap of {gap.length_s * 1000:.0f} ms at "
        f"{load.elapsed_s(gap.at_s):.1f} s"
        for bot in load.bots
        for gap in bot.playback.gaps
        if gap.cause == "server"
    ]
    return lines + (["", *(f"- {text}" for text in wrong[:20])] if wrong else [])


def growth_mib_h(memory: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """The slope of resident memory, in MiB an hour, and its standard error.

    ``memory`` is (seconds, KiB); the first third of the time is warm-up and left out.
    """
    if len(memory) < 6:
        return 0.0, float("inf")
    times_s, kib = np.array(memory, np.float64).T
    warm = times_s >= times_s[0] + (times_s[-1] - times_s[0]) / 3
    x, y = times_s[warm] / 3600, kib[warm] / 1024
    x = x - x.mean()
    slope = float((x * y).sum() / (x * x).sum())
    rest = y - y.mean() - slope * x
    error = float(np.sqrt((rest * rest).sum() / (len(x) - 2) / (x * x).sum()))
    return slope, error


if __name__ == "__main__":
    sys.exit(main())
