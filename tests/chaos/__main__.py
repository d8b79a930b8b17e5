"""``python -m tests.chaos --minutes 60 --bots 20 --seed N``: see the README beside this.

Exit status 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import random
import sys

import trio

from benchmarks.accounting import machine
from benchmarks.judged import judged_table
from tests.chaos.arena import open_arena
from tests.chaos.bridge import Child
from tests.chaos.hour import FIRST_DISTURBED, run_chaos


def say(text: str) -> None:
    """One line, at once: an hour is long."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run, report, judge; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, metavar="M", help="[60]")
    parser.add_argument("--bots", type=int, default=20, metavar="N", help="meetings [20]")
    parser.add_argument("--seed", type=int, metavar="N", help="of all chances [a new one]")
    parser.add_argument(
        "--server-flags", default="", metavar="FLAGS",
        help='for the bridge, e.g. "--audio-tick-ms 20" (write --server-flags="...")',
    )  # fmt: skip
    parser.add_argument("--keep-log", default="", metavar="FILE", help="copy its log there")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    quiet = max(1, arguments.bots // 2)
    say(
        f"chaos: {arguments.bots} meetings, {quiet} of them undisturbed, {arguments.minutes:g} "
        f"minutes, seed {seed}; {machine()}"
    )
    with open_arena(quiet, seed, *arguments.server_flags.split()) as arena:
        disturbed = Child.start(
            "tests.chaos.disturbed", arena.bridge.port, arena.bridge.pid, FIRST_DISTURBED,
            max(1, arguments.bots - quiet), seed,
        )  # fmt: skip
        try:
            judged = trio.run(run_chaos, arena, disturbed, arguments.minutes, seed, say)
        finally:
            disturbed.kill()
            if arguments.keep_log:
                with open(arguments.keep_log, "wb") as file:
                    file.write(arena.bridge.log.read_bytes())
    say("\n".join(["", *judged_table(judged)]))
    return 0 if all(one.held is not False for one in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
