"""Interrupts and pacing while others stream: how soon, and how evenly, a bot is served.

Two bots beside the load are spoken to as fast as the agent may, so their lanes are full. One
interrupts about ten times a second at random and times the command that answers; of the other
the chunks' arrivals are compared with their own schedule.
"""

from __future__ import annotations

import base64
import json
import os
import random
import select
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np

from benchmarks.accounting import Cores, cores_busy_ns, cpu_ns, own_cpu_ns
from benchmarks.load import Bot, connect, frames_of, stream
from benchmarks.results import FOREIGN, LATE_MS
from benchmarks.rows import Row
from benchmarks.servers import Candidate, running
from benchmarks.signals import WIRE_RATE_HZ
from benchmarks.stamps import ALWAYS_TALK_FROM, FILE_VARIABLE, make_stamp_file
from benchmarks.wsclient import TEXT, masked

LOAD = Row(bots=100)
INTERRUPT_EVERY_S = (0.05, 0.15)
"""Uniform, so at no fixed phase of the pacer, the frames or a tick."""
FILL_CHUNKS = 10
"""The first ones come in a burst that fills the lead, and so follow no schedule."""


@attrs.frozen
class Speech:
    """What was measured in one trial or, added up, in several."""

    answers_ms: tuple[float, ...]
    """From the write of each ``interrupt`` to the read of the command that clears the bot."""
    late_ms: tuple[float, ...]
    """Of each chunk after the fill: arrival minus its place in the best schedule."""
    disturbed: int
    trials: int = 1

    def __add__(self, other: Speech) -> Speech:
        return Speech(
            self.answers_ms + other.answers_ms,
            self.late_ms + other.late_ms,
            self.disturbed + other.disturbed,
            self.trials + other.trials,
        )


class Watch:
    """The two bots' sockets, looked at whenever the generator has nothing to send."""

    def __init__(self, interrupter: Bot, listener: Bot) -> None:
        self.answers_ns: list[int] = []
        self.chunks: list[tuple[int, int]] = []
        """(arrival in ns, samples) of the listener's speech."""
        self._control = interrupter.control
        interrupter.control.on_message = self._on_answer
        listener.control.on_message = self._on_speech
        self._links = {
            link.socket.fileno(): link
            for bot in (interrupter, listener)
            for link in (bot.control, bot.audio)
        }
        self._chance = random.Random(2)
        self._question = masked(TEXT, json.dumps({"command": "interrupt"}).encode())
        self._asked_ns = 0
        self._read_ns = 0
        self._next_ns = time.monotonic_ns() + 500_000_000

    def look(self, wait_s: float) -> None:
        """Read what comes within ``wait_s``, and interrupt when it is time."""
        now = time.monotonic_ns()
        if now >= self._next_ns and not self._asked_ns:
            self._next_ns = now + round(self._chance.uniform(*INTERRUPT_EVERY_S) * 1e9)
            self._asked_ns = now
            self._control.send(self._question)
        ready, _, _ = select.select(self._links, (), (), wait_s)
        self._read_ns = time.monotonic_ns()
        for descriptor in ready:
            self._links[descriptor].drain()

    def _on_answer(self, message: bytes) -> None:
        if self._asked_ns and b"clear_audio_queue" in message[-200:]:
            self.answers_ns.append(self._read_ns - self._asked_ns)
            self._asked_ns = 0

    def _on_speech(self, message: bytes) -> None:
        fields = json.loads(message)
        if fields.get("command") == "sendaudio":
            size = len(base64.b64decode(fields["audiochunk"]))
            self.chunks.append((self._read_ns, size // 2))


def lateness_ms(chunks: Sequence[tuple[int, int]], fill: int = FILL_CHUNKS) -> list[float]:
    """How late each chunk came after the ``fill`` first ones, in ms.

    ``chunks`` are (arrival in ns, samples at 48 kHz). A chunk is due when all before it have
    been played; the schedule is the latest that no chunk undercuts, so 0 is the best of them.
    """
    if len(chunks) <= fill:
        return []
    arrivals, samples = np.array(chunks, np.int64).T
    played_ns = (np.cumsum(samples) - samples) * (1e9 / WIRE_RATE_HZ)
    late = (arrivals - played_ns)[fill:]
    found: list[float] = ((late - late.min()) / 1e6).tolist()
    return found


def measure_speech(candidate: Candidate, cores: Cores, window_s: float) -> Speech:
    """One trial.

    Raises:
        LinkError, ServerError, OSError: the server failed under the load.
    """
    with tempfile.TemporaryDirectory() as directory:
        stamps = Path(directory) / "stamps"
        make_stamp_file(stamps, 1)  # they are not read here
        with running(candidate, cores, {FILE_VARIABLE: str(stamps)}) as server:
            bots: list[Bot] = []
            try:
                for index in range(LOAD.bots):
                    bots.append(connect(server.port, index, None))  # noqa: PERF401
                pair = [connect(server.port, ALWAYS_TALK_FROM + k, None) for k in (0, 1)]
                bots += pair
                watch = Watch(*pair)

                def meter() -> tuple[int, ...]:
                    used = cpu_ns(server.pid), own_cpu_ns(os.getpid())
                    return time.monotonic_ns(), cores_busy_ns({cores.server}), *used

                sent = stream(
                    bots[: LOAD.bots],
                    LOAD,
                    frames_of(LOAD),
                    1.0,
                    window_s,
                    meter,
                    watch.look,
                )
            finally:
                for bot in bots:
                    bot.leave()
    differences = (b - a for a, b in zip(sent.before, sent.after, strict=True))
    wall_ns, busy_ns, used_ns, load_ns = differences
    foreign_ns = busy_ns - used_ns - (load_ns if cores.shared else 0)
    return Speech(
        tuple(ns / 1e6 for ns in watch.answers_ns),
        tuple(lateness_ms(watch.chunks)),
        int(foreign_ns / wall_ns > FOREIGN or sent.late_p99_ms > LATE_MS),
    )


def speech_section(found: Mapping[str, Speech]) -> list[str]:
    """Lines of Markdown."""
    lines = [
        "## Interrupts and pacing under load",
        "",
        f"{LOAD.title}, and two more that are spoken to all the while, lanes full. One sends",
        "`interrupt` about ten times a second at random and times the command that clears its",
        "queue (bar: 5 ms at p99); the agent goes on at once. The other's chunks arrive at",
        "times that are compared with the best schedule through all of them (bar: 5 ms at",
        "p99), but for the first ten, which fill the bot's queue. The peers have no pacer.",
        "All trials' times in one heap, whatever the generator added included.",
        "",
        "| server | interrupts | p50 ms | p99 ms | max ms "
        "| chunks | late p50 ms | late p99 ms | late max ms | remarks |",
        "| --- " + "| ---: " * 8 + "| --- |",
    ]
    for name, speech in found.items():
        remarks = [f"{speech.disturbed} of {speech.trials} trials disturbed"]
        cells = [name, *_cells(speech.answers_ms), *_cells(speech.late_ms)]
        cells.append(remarks[0] if speech.disturbed else "")
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _cells(times_ms: Sequence[float]) -> list[str]:
    if not times_ms:
        return ["0", "", "", ""]
    p50, p99 = np.percentile(times_ms, (50, 99))
    return [str(len(times_ms)), f"{p50:.2f}", f"{p99:.2f}", f"{max(times_ms):.2f}"]
