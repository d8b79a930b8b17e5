"""The meetings that nothing is done to: a process of its own, so that no attacker slows it.

``python -m tests.chaos.neighbours PORT PID NOTES BOTS``: frames that say which they are, in
real time, on both sockets of each bot; what the agents say is played. It says ``streaming``
once all are there, leaves when its stdin ends, and writes what happened as one line of JSON.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.accounting import waited_ns
from benchmarks.playback import RATE_HZ, Playback, Spans
from benchmarks.soak_bot import Kind, SoakBot
from benchmarks.stamps import bot_id_of
from benchmarks.wsclient import BINARY, Link, LinkError, masked
from tests.chaos.marks import Notes, marked_pcm, open_waited, read_waited_ns

FRAME_S = 0.02
STALL_S = 0.05
"""This loop took that long: what came meanwhile is timed too late."""
CORE_S, STARVED_S = 0.05, 0.005
"""How often to look what the server waited for its core, and what of it is worth a note."""
LEAVE_S = 5.0
HEAD = b"\x01\x02\x00u1\x05\x00Alice"
KINDS: tuple[Kind, ...] = ("audio", "control")


class Neighbours:
    """Runs once."""

    def __init__(self, port: int, pid: int, notes: Notes) -> None:
        self._stalls, self._starvation = Spans(), Spans()
        self._pid, self._notes = pid, notes
        self._waited = open_waited(pid)
        self._starved_ns = self._both_waited_ns()
        self.bots = [
            SoakBot(n, port, Playback(self._stalls, self._starvation, self._look_at_wait))
            for n in range(notes.bots)
        ]
        self.stalls = 0
        self._before_s = 0.0
        self._open: dict[int, tuple[SoakBot, Link]] = {}
        self._poll = select.epoll()

    def run(self) -> None:
        """Stream until stdin ends, then leave.

        Raises:
            LinkError, OSError: the server took no connection.
        """
        for bot in self.bots:
            for kind in KINDS:
                link = bot.open(kind)
                self._open[link.socket.fileno()] = (bot, link)
                self._poll.register(link.socket.fileno(), select.EPOLLIN)
                self._before_s = time.monotonic()  # that was the server, and no stall of ours
                self._read(0.0)  # those that are there are talked to already
        self._poll.register(0, select.EPOLLIN)
        sys.stdout.write("streaming\n")
        sys.stdout.flush()
        self._stream()
        self._leave()

    def _stream(self) -> None:
        apart_s = FRAME_S / len(self.bots)
        start_s = core_s = time.monotonic()
        sent = 0
        while True:
            due_s = start_s + sent * apart_s
            if not self._read(max(0.0, due_s - time.monotonic())):
                return
            now_s = self._clock()
            if now_s >= core_s:
                core_s = now_s + CORE_S
                self._look_at_wait(now_s)
            while start_s + sent * apart_s <= now_s:
                self._send(self.bots[sent % len(self.bots)])
                sent += 1

    def _send(self, bot: SoakBot) -> None:
        number = bot.frames
        frame = masked(BINARY, HEAD + marked_pcm(number))
        now_ns, waited = time.monotonic_ns(), read_waited_ns(self._waited)
        try:
            bot.stream(frame)
        except LinkError as error:
            bot.lost(bot.links["audio"], now_ns / 1e9, str(error))
            return
        if bot.frames > number:
            self._notes.note(bot.index, number, now_ns, waited)

    def _read(self, wait_s: float) -> bool:
        """Read what there is; False once stdin has ended."""
        for descriptor, _ in self._poll.poll(wait_s, 64):
            if descriptor == 0:
                return False
            bot, link = self._open[descriptor]
            if not bot.read(link, self._clock()):  # first: what came in a stall is not late
                del self._open[descriptor]  # closing it has taken it out of the epoll
        return True

    def _clock(self) -> float:
        """The time; what has passed since the last look is booked where it was a stall."""
        before_s, self._before_s = self._before_s, time.monotonic()
        if self._before_s - before_s > STALL_S:
            self.stalls += 1
            self._stalls.add(before_s, self._before_s)
        return self._before_s

    def _look_at_wait(self, now_s: float) -> None:
        before_ns, self._starved_ns = self._starved_ns, self._both_waited_ns()
        starved_s = (self._starved_ns - before_ns) / 1e9
        if starved_s > STARVED_S:
            self._starvation.add(now_s - starved_s, now_s)

    def _both_waited_ns(self) -> int:
        """For their cores, the bridge to say something and this process to read it."""
        return waited_ns(self._pid) + waited_ns(os.getpid())

    def _leave(self) -> None:
        self._poll.unregister(0)
        until_s = time.monotonic() + LEAVE_S
        for bot in self.bots:
            bot.lose(tuple(bot.links), "leave", 3600.0, time.monotonic())
        while any(bot.parting for bot in self.bots) and time.monotonic() < until_s:
            self._read(0.01)

    def report(self) -> dict[str, Any]:
        """What each bot sent and got, and what went wrong."""
        return {
            "stalls": self.stalls,
            "bots": [
                {
                    "bot_id": bot_id_of(bot.index),
                    "frames": bot.frames,
                    "heard_s": bot.playback.samples / RATE_HZ,
                    "answers": bot.playback.answers,
                    "gaps": [[g.cause, g.at_s, g.length_s] for g in bot.playback.gaps],
                    "faults": bot.faults,
                }
                for bot in self.bots
            ],
        }


def main() -> None:
    """Stream as the command line says."""
    port, pid, path, bots = sys.argv[1:]
    neighbours = Neighbours(int(port), int(pid), Notes(Path(path), int(bots)))
    neighbours.run()
    sys.stdout.write(json.dumps(neighbours.report()) + "\n")


if __name__ == "__main__":
    main()
