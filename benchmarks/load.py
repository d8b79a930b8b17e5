"""The open-loop load generator: bots that send on time, whatever the server does.

One thread, no event loop: a list of due times and non-blocking sockets. Every frame has its
due time whether or not the one before it got through, and latencies are counted from there.
"""

from __future__ import annotations

import base64
import gc
import json
import random
import select
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import attrs
import numpy as np

from benchmarks.latency import Schedule
from benchmarks.rows import Row
from benchmarks.signals import noise_pcm
from benchmarks.stamps import bot_id_of
from benchmarks.wsclient import BINARY, TEXT, Link, masked

NAMES = ("Alice Johnson", "Bob Müller", "Carol Ng")
TURN_S = 0.5
"""After this the next speaker has the floor."""
DISTINCT_FRAMES = 25
"""Precomputed per speaker; each with a mask of its own."""
BEGIN_WITHIN_S = 0.25
"""Bots begin within this of one another: soxr works on 60 ms at a time, and meetings that all
began at once would have all of its work fall into the same 40 ms of each."""
SLEEP_MARGIN_NS = 150_000
"""A sleep can be this much too long; the rest of the wait is spent polling the clock."""
REAL_TIME_MARGIN_NS = 30_000
"""The same at real-time priority, whose timers have no slack. What is left of the core is for
the machine's own business: where no core ever pauses, it stops one of the two that are watched,
for a millisecond and more, several times a second."""
READ_EVERY_NS = 1_000_000

Reading = TypeVar("Reading")


@attrs.frozen(eq=False)
class Bot:
    """Both sockets of one bot."""

    control: Link
    audio: Link

    def leave(self) -> None:
        """Close 1000 on both."""
        self.audio.leave()
        self.control.leave()


@attrs.frozen(eq=False)
class Streamed(Generic[Reading]):
    """What was sent, and the meter's readings around the measured part of it."""

    schedule: Schedule
    before: Reading
    after: Reading
    late_p99_ms: float
    """How late the generator itself was; the servers' latencies include it."""


def connect(port: int, index: int, tls: ssl.SSLContext | None) -> Bot:
    """A bot that has said ready on both sockets and was acknowledged.

    Raises:
        LinkError, OSError: the server does not take it.
    """
    hello = json.dumps(
        {"type": "ready", "bot_id": bot_id_of(index), "message": "Ready to receive messages"}
    )
    return Bot(Link(port, "/bridge", hello, tls), Link(port, "/bridge/audio", hello, tls))


def frames_of(row: Row) -> list[list[bytes]]:
    """For each speaker, frames ready for the wire."""
    return [
        [_wire(row, speaker, noise_pcm(row.frame_ms, seed)) for seed in range(DISTINCT_FRAMES)]
        for speaker in range(row.speakers)
    ]


def stream(
    bots: Sequence[Bot],
    row: Row,
    frames: Sequence[Sequence[bytes]],
    warm_up_s: float,
    window_s: float,
    meter: Callable[[], Reading],
    between: Callable[[float], object] | None = None,
    margin_ns: int = SLEEP_MARGIN_NS,
) -> Streamed[Reading]:
    """Send as ``row`` says for ``warm_up_s`` and then, measured, for ``window_s``.

    Each bot sends as many frames as go into that, from a moment of its own on.

    ``between(wait_s)`` is called all the time between two frames and may do other things, for
    ``wait_s`` seconds; the generator is late by what it takes longer. ``margin_ns`` is how long
    before a frame is due sleeping ends: 0 uses less CPU and sends some 60 us later.

    Raises:
        LinkError: a server closed a socket or stopped reading.
    """
    period_ns = row.frame_ms * 1_000_000
    first = round(warm_up_s * 1000 / row.frame_ms)
    total = first + round(window_s * 1000 / row.frame_ms)
    turn = max(1, round(TURN_S * 1000 / row.frame_ms))
    # Meetings are not in step with one another. Same seed: the same load for every server.
    chance = random.Random(1)
    phases = sorted(chance.randrange(period_ns) for _ in bots)
    begun_by = max(1, round(BEGIN_WITHIN_S * 1000 / row.frame_ms))
    begins = [chance.randrange(begun_by) for _ in bots]
    links = {b.audio.socket.fileno(): b.audio for b in bots}
    links |= {b.control.socket.fileno(): b.control for b in bots}
    poll = select.epoll()
    for descriptor in links:
        poll.register(descriptor, select.EPOLLIN)
    late: list[int] = []
    before = after = meter()
    late_p99_ms = 0.0
    gc.collect()
    gc.disable()
    start = time.monotonic_ns() + 20_000_000
    read_at = start
    try:
        for n in range(total + begun_by):
            if n == first:
                before = meter()
                late.clear()
            if n == total:
                after, late_p99_ms = meter(), float(np.percentile(late, 99)) / 1e6
            base = start + n * period_ns
            for bot, phase, begin in zip(bots, phases, begins, strict=True):
                number = n - begin
                if not 0 <= number < total:
                    continue
                frame = frames[number // turn % len(frames)][number % DISTINCT_FRAMES]
                due = base + phase
                now = time.monotonic_ns()
                while now < due or now > read_at + 5 * READ_EVERY_NS:
                    if now > read_at:
                        read_at = now + READ_EVERY_NS
                        for descriptor, _ in poll.poll(0, 8):
                            links[descriptor].drain()
                    elif between is not None:
                        between(max(0, due - now - margin_ns) / 1e9)
                    elif due - now > 2 * margin_ns:
                        time.sleep((due - now - margin_ns) / 1e9)
                    now = time.monotonic_ns()
                bot.audio.send(frame)
                late.append(now - due)
        _settle(links, poll)
    finally:
        gc.enable()
        poll.close()
    delays = np.array(begins, np.int64) * period_ns + np.array(phases, np.int64)
    schedule = Schedule(start, period_ns, delays, first, total)
    return Streamed(schedule, before, after, late_p99_ms)


def _settle(links: dict[int, Link], poll: select.epoll) -> None:
    """Give the server a moment for what is still on its way."""
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        for descriptor, _ in poll.poll(0.01, 64):
            links[descriptor].drain()
        for link in links.values():
            link.flush()


def _wire(row: Row, speaker: int, pcm: bytes) -> bytes:
    name = NAMES[speaker]
    if row.form == "legacy JSON":
        fields = {
            "type": "PCMChunk",
            "speakerName": name,
            "audioData": base64.b64encode(pcm).decode("ascii"),
        }
        return masked(TEXT, json.dumps(fields).encode())
    who = f"user_{speaker:04}".encode()
    named = name.encode()
    return masked(
        BINARY,
        b"".join(
            (
                b"\x01",
                len(who).to_bytes(2, "little"),
                who,
                len(named).to_bytes(2, "little"),
                named,
                pcm,
            )
        ),
    )
