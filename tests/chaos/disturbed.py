"""The meetings that keep losing their sockets, of the soak's kind: a process of its own.

``python -m tests.chaos.disturbed PORT PID FIRST BOTS SEED``. On its stdin ``hold`` asks for
all sockets to be there and to stay, which is answered with ``whole``; ``go on`` ends that. It
leaves when its stdin ends, and writes what happened as one line of JSON.
"""

from __future__ import annotations

import json
import os
import select
import sys
from typing import Any

from benchmarks.playback import RATE_HZ
from benchmarks.soak_bot import SoakBot
from benchmarks.soak_load import SoakLoad
from benchmarks.stamps import bot_id_of
from benchmarks.wsclient import LinkError

LOSE_EVERY_S = 1.0
AGAIN_S = 0.25
"""A bot that was refused tries again after that."""


class Disturbed(SoakLoad):
    """The soak's load, which can be told to hold still, and takes a refusal for an answer."""

    def __init__(self, port: int, pid: int, first: int, bots: int, seed: int) -> None:
        super().__init__(pid, port, bots, seed, LOSE_EVERY_S, first=first)
        self.refused = 0
        self._holding = self._told = self._ended = False
        self._again_s = 0.0

    def _lose(self, now_s: float) -> None:
        if self._holding:
            return
        try:
            super()._lose(now_s)
        except (LinkError, OSError):  # it may not even take over its own socket
            self.refused += 1

    def _bring_back(self, now_s: float) -> None:
        if now_s < self._again_s:
            return
        try:
            super()._bring_back(now_s)
        except (LinkError, OSError):  # out of descriptors, say: that is what is being tested
            self.refused += 1
            self._again_s = now_s + AGAIN_S

    def _look_at_core(self, now_s: float) -> None:
        super()._look_at_core(now_s)
        if select.select([0], [], [], 0)[0]:
            # Not readline(): a second line would wait in its buffer, where select looks not.
            told = os.read(0, 4_096)
            self._holding, self._told = told.endswith(b"hold\n"), False
            if not told:
                self.until_s = now_s
        if self._holding and not self._told and all(bot.whole for bot in self.bots):
            self._told = True
            sys.stdout.write("whole\n")
            sys.stdout.flush()

    def _report(self, now_s: float) -> None:
        """Not here: there is one report at the end."""

    def report(self) -> dict[str, Any]:
        """What each bot sent and got, and what went wrong."""
        return {
            "losses": dict(self.losses),
            "refused": self.refused,
            "bots": [_account(bot) for bot in self.bots],
        }


def _account(bot: SoakBot) -> dict[str, Any]:
    return {
        "bot_id": bot_id_of(bot.index),
        "frames": bot.frames,
        "perhaps_unread": bot.perhaps_unread,
        "heard_s": bot.playback.samples / RATE_HZ,
        "faults": bot.faults,
    }


def main() -> None:
    """Stream as the command line says."""
    port, pid, first, bots, seed = (int(word) for word in sys.argv[1:])
    load = Disturbed(port, pid, first, bots, seed)
    load.run(1e9)
    sys.stdout.write(json.dumps(load.report()) + "\n")


if __name__ == "__main__":
    main()
