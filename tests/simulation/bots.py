"""One bot: its sockets, what it sent, and what its meeting heard, all checked as it comes."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import attrs
import numpy as np

from tests.simulation.sockets import CODES, BotSocket, Credit, Record
from trio_bridge.attendance import Kind
from trio_bridge.registry import FAILURE_PAUSE_S
from trio_bridge.simulator.commands import (
    Acknowledged,
    CommandFault,
    PlayAudio,
    PostCaption,
    PostChat,
    ShowImage,
    StopAudio,
    read_command,
)

if TYPE_CHECKING:
    from tests.simulation.agents import Run
    from tests.simulation.world import World


@attrs.define(eq=False)
class Mark:
    """Speech that can be told from all other: its number is the value of every sample."""

    number: int
    run: Run
    epoch: int
    """Interrupts of its meeting before its turn began."""
    said: int
    received: int = 0


class Bot:
    """What one bot did and heard."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.id = f"bot-{number}"
        self.sockets: list[BotSocket] = []
        self.records: list[Record] = []
        self.runs: list[Run] = []
        self.marks: list[Mark] = []
        self.sent = Credit()
        """All that was sent, whatever became of it: an upper bound."""
        self.texts: list[str] = []
        """What was typed, each text once."""
        self.failed_s = -math.inf
        self.bad_in_a_row = Counter[Kind]()
        self.last_mark = 0
        self.faulty_since_s: float | None = None
        """When a fault was injected into it; what becomes of it is not the bridge's doing."""

    # -- its sockets -----------------------------------------------------------------------

    def newest(self, kind: Kind) -> BotSocket | None:
        """The newest socket of ``kind`` that the bot believes to be open."""
        for socket in reversed(self.sockets):
            if socket.kind == kind:
                return socket if self._usable(socket) else None
        return None

    def oldest(self, kind: Kind) -> BotSocket | None:
        for socket in self.sockets:
            if socket.kind == kind and self._usable(socket):
                return socket
        return None

    def _usable(self, socket: BotSocket) -> bool:
        closed = socket.close_said is not None or socket.silent or socket.mute
        return socket.line.open and not closed

    def greeting(self, socket: BotSocket) -> None:
        """``socket`` is about to say a good hello: it will be the newest of its kind."""
        now_s = self.world.now_s
        for other in self.sockets:
            if other.kind == socket.kind and other.greeted and other is not socket:
                other.meet("replaced", now_s)
                if other.record is None:  # both are on their way: who comes later is open
                    socket.meet("replaced", now_s)
        if self.world.draining:
            socket.meet("drain", now_s)
        failing = [run.record for run in self.runs if run.failing]
        if any(not record.ended_as for record in failing):
            self.failed_s = now_s  # the server's pause begins anew with each attempt
        if now_s <= self.failed_s + FAILURE_PAUSE_S + 0.001:
            socket.meet("failed", now_s)
        socket.greeted = True

    def doom(self, fate: str) -> None:
        """``fate`` may befall all sockets that are there."""
        for socket in self.sockets:
            socket.meet(fate, self.world.now_s)

    def fail(self, record: Record) -> None:
        """Its agent raises now."""
        if not record.session.over:
            self.failed_s = self.world.now_s
            self.doom("failed")

    def closed_by_server(self, socket: BotSocket) -> None:
        """A Close has come: is there a reason for its code?"""
        assert socket.close_seen is not None
        if self.faulty_since_s is not None:
            return
        socket.expire(self.world.now_s)
        code, reason = socket.close_seen
        if not any(code in CODES[fate] for fate in socket.fates) and not (
            "left" in socket.fates and code == 1_005
        ):
            self.world.blame(
                f"{self.id} {socket.kind} {socket.number} was closed with {code} {reason!r}; "
                f"what was done to it: {sorted(socket.fates) or 'nothing'}"
            )

    def find_the_newest(self) -> None:
        """At rest: of several that came at once, one is left."""
        for socket in self.sockets:
            if socket.fates == {"replaced"} and socket.close_seen is None and not socket.gone:
                others = (s for s in self.sockets if s.kind == socket.kind and s.greeted)
                if all(s is socket or s.gone or s.close_seen for s in others):
                    socket.fates.clear()
                    socket.ending_s = None

    @property
    def stalls(self) -> bool:
        """The server may be waiting for a control socket that does not read."""
        return any(
            s.kind == "control" and not s.gone and not s.line.reading for s in self.sockets
        )

    # -- its session -----------------------------------------------------------------------

    @property
    def live(self) -> Record | None:
        """Its session that is not over."""
        records = [record for record in self.records if not record.session.over]
        return records[-1] if records else None

    @property
    def run(self) -> Run | None:
        """The agent that runs for it."""
        return self.runs[-1] if self.runs and not self.runs[-1].ended else None

    # -- what its meeting hears ------------------------------------------------------------

    def new_mark(self, run: Run, epoch: int, samples: int) -> Mark:
        mark = Mark(len(self.marks) + 1, run, epoch, samples)
        self.marks.append(mark)
        return mark

    def hear_command(self, socket: BotSocket, text: str) -> None:
        blame = self.world.blame
        try:
            command = read_command(text, self.id)
        except CommandFault as fault:
            blame(f"no documented command: {fault.reason}: {text[:120]}")
            return
        if getattr(command, "flaws", ()):
            blame(f"a command with flaws {command.flaws}: {text[:120]}")
        if isinstance(command, Acknowledged):
            socket.hear_ack()
        elif not socket.acked and self.world.settings.ack:
            blame(f"a command before the ack: {text[:80]}")
        elif isinstance(command, PlayAudio):
            self._hear_speech(command.samples)
        elif isinstance(command, PostChat | PostCaption):
            self._hear_words(command.text)
        elif isinstance(command, ShowImage):
            self._hear_words(command.url.removeprefix("https://images.example/"))
        elif isinstance(command, StopAudio):
            self._hear_clear(socket)
        else:
            blame(f"an unknown command: {text[:120]}")

    def _hear_clear(self, socket: BotSocket) -> None:
        record = socket.record or self.live
        if record is None:
            return
        session = record.session
        for run in self.runs:
            if run.record.session is session:
                run.floor = session.pump.interrupts
        self.world.cleared[session] = session.pump.interrupts

    def _hear_words(self, text: str) -> None:
        blame = self.world.blame
        bot_id, _, rest = text.partition("/")
        if bot_id != self.id:
            blame(f"{self.id} was told what {bot_id} was to be told: {text}")
            return
        run_number, number = map(int, rest.split("/"))
        run = self.runs[run_number]
        if number < run.words_heard:
            blame(f"{self.id} was told {text} again, or after a later one")
        elif number > run.words_heard and self.faulty_since_s is None:
            blame(f"{self.id} was not told what came before {text}")
        run.words_heard = number + 1

    def _hear_speech(self, samples: np.ndarray[tuple[int, ...], np.dtype[np.int16]]) -> None:
        blame = self.world.blame
        if not len(samples):
            blame("speech without samples")
            return
        edges = np.flatnonzero(np.diff(samples)) + 1
        starts = [0, *edges.tolist()]
        for start, end in zip(starts, [*starts[1:], len(samples)], strict=True):
            number = int(samples[start])
            if not 1 <= number <= len(self.marks):
                blame(f"{self.id} was sent speech that nobody said: {number}")
                return
            mark = self.marks[number - 1]
            mark.received += end - start
            if mark.received > mark.said:
                blame(f"{self.id} was sent more of mark {number} than was said")
            if number < self.last_mark:
                blame(f"{self.id} was sent mark {number} after {self.last_mark}")
            if mark.epoch < mark.run.floor:
                blame(
                    f"{self.id} was sent speech of epoch {mark.epoch} after the interrupt "
                    f"number {mark.run.floor} had been sent"
                )
            self.last_mark = max(self.last_mark, number)
