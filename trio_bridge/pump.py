"""The control socket's one writer: commands first, speech when it is due.

It outlives sockets: what could not be sent waits for the next one. Nothing cancels a write,
because a cancelled one leaves half a frame on the wire; an interrupt empties the queue and
goes next, so it waits for at most the one message that is being written.
"""

from __future__ import annotations

import logging
import math
from typing import Protocol

import attrs
import trio

from trio_bridge.audio.pcm import Samples
from trio_bridge.audio.resample import Quality, Resampler
from trio_bridge.bell import Bell
from trio_bridge.errors import SessionEndedError, SocketClosedError
from trio_bridge.lanes import Lane, Overflow
from trio_bridge.log import BoundLog, Throttle
from trio_bridge.pacing import RATE_HZ, Playout
from trio_bridge.wire.commands import ClearAudio, Command, SendAudio

SILENT_S = 10.0
"""Of no speech, after which what speaking needs is given back: 190 KiB of queue and 130 KiB of
resampler. Agents that answer one another's sentences are not silent for so long."""
COMMAND_BYTES = 4 << 20
"""Commands that wait for a control socket, by default: a few pictures, or an hour of chat."""


class TextSink(Protocol):
    """The part of a WebSocket that the writer needs."""

    async def send(self, text: str) -> None:
        """Send one message within a deadline of its own.

        Raises:
            SocketClosedError: the socket is gone, or the peer does not read; not to be retried.
        """


def _new_commands(pump: Pump) -> Lane[str]:
    return Lane("commands", pump.command_backlog, Overflow.WAIT, cost=len, bell=pump._bell)


@attrs.define(eq=False)
class Pump:
    """What one meeting's agent puts into the meeting."""

    bot_id: str
    playout: Playout
    speech_backlog: int
    """Samples at 48 kHz that may be queued; then `say` waits."""
    log: BoundLog = attrs.field(factory=lambda: BoundLog(logging.getLogger(__name__), {}))
    command_backlog: int = COMMAND_BYTES
    """Bytes of commands that may wait; then `command` waits."""
    speech_waits: int = attrs.field(default=0, init=False)
    """Times that `say` had to wait for room."""
    interrupts: int = attrs.field(default=0, init=False)
    _bell: Bell = attrs.field(factory=Bell, init=False)
    _room: Bell = attrs.field(factory=Bell, init=False)
    _turnstile: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    """One command at a time is encoded and waits for room; any number of tasks may."""
    _commands: Lane[str] = attrs.field(
        default=attrs.Factory(_new_commands, takes_self=True), init=False
    )
    _clear_since_s: float | None = attrs.field(default=None, init=False)
    _socket: TextSink | None = attrs.field(default=None, init=False)
    _in_flight: bool = attrs.field(default=False, init=False)
    """A chunk is being written: it may yet come back."""
    _log_throttle: Throttle = attrs.field(factory=Throttle, init=False)
    _stopped: bool = attrs.field(default=False, init=False)
    _resampler: Resampler | None = attrs.field(default=None, init=False)
    """Of a turn that has ended, for the next one."""
    _said_then: int = attrs.field(default=0, init=False)
    """Of the playout, in samples, when `rest` last looked."""
    _silent_since_s: float = attrs.field(default=-math.inf, init=False)
    _rested: bool = attrs.field(default=True, init=False)
    """Samples said when what they needed was given back."""

    @property
    def waits(self) -> int:
        """Times that the agent had to wait, because the bot takes less than it gives."""
        return self.speech_waits + self._commands.waits

    # -- the agent's side ------------------------------------------------------------------

    async def command(self, command: Command) -> None:
        """Queue a command; waits while too many wait for a socket.

        A checkpoint; on `trio.Cancelled` nothing was queued.

        Raises:
            SessionEndedError: the meeting is over.
        """
        async with self._turnstile:
            if not self._commands.closed:
                await self._commands.put(command.encode(self.bot_id))
            if self._commands.closed:
                raise SessionEndedError("the meeting is over: nobody is left to read this")

    async def say(self, samples: Samples) -> None:
        """Queue speech at 48 kHz, waiting while more than the backlog is queued.

        On `trio.Cancelled` a first part of it may be queued; after an interrupt the rest is
        not, even if its caller cannot be cancelled.

        Raises:
            SessionEndedError: the meeting is over.
        """
        epoch = self.interrupts
        await trio.lowlevel.checkpoint()
        at = 0
        while at < len(samples) and epoch == self.interrupts:
            if self._stopped:
                raise SessionEndedError("the meeting is over: nobody is left to hear this")
            room = self.speech_backlog - self.playout.queued
            if room <= 0:
                self.speech_waits += 1
                await self._room.wait()
                continue
            self.playout.push(samples[at : at + room])
            at += room
            self._bell.ring()

    def borrow_resampler(self, rate_hz: int, quality: Quality) -> Resampler:
        """One to 48 kHz, for one turn alone, which returns it."""
        resampler, self._resampler = self._resampler, None
        if resampler is not None and resampler.from_hz == rate_hz:
            return resampler
        return Resampler(rate_hz, RATE_HZ, quality)

    def return_resampler(self, resampler: Resampler) -> Samples:
        """The end of what it was given. It begins anew with the next turn, for which it is
        kept until `rest` finds that there was none for long."""
        if not self._stopped:
            self._resampler, self._rested = resampler, False
        return resampler.finish()

    def complete(self) -> None:
        """What was said is a whole: send its end without waiting for more."""
        self.playout.complete()
        self._bell.ring()

    async def played(self) -> None:
        """Wait until what was said has been sent and, by the model, played."""
        await trio.lowlevel.checkpoint()
        while not self._stopped:
            if self.playout.queued or self._in_flight:
                await self._room.wait()
            elif (done_s := self.playout.done_s()) > trio.current_time():
                await trio.sleep_until(done_s)
            else:
                return

    def interrupt(self) -> int:
        """Drop queued speech, tell the bot to drop its own next; samples flushed."""
        now_s = trio.current_time()
        flushed = self.playout.flush(now_s)
        if self._clear_since_s is None:
            self._clear_since_s = now_s
        self.interrupts += 1
        self._bell.ring()
        self._room.ring()
        return flushed

    # -- the session's side ----------------------------------------------------------------

    def attach(self, socket: TextSink) -> None:
        """Write to ``socket`` from now on."""
        self._socket = socket
        self._bell.ring()

    def detach(self, socket: TextSink) -> None:
        """Stop writing to ``socket``, if it is still the one."""
        if self._socket is socket:
            self._socket = None

    @property
    def rested(self) -> bool:
        """What speaking needs was given back, and nobody has spoken since."""
        return self._rested and self.playout.said == self._said_then

    def rest(self, now_s: float) -> None:
        """Give back what speaking needs, if nobody has spoken for `SILENT_S`."""
        playout = self.playout
        if playout.said != self._said_then:
            self._said_then, self._silent_since_s, self._rested = playout.said, now_s, False
        if self._rested or playout.queued:
            return
        if now_s - max(playout.done_s(), self._silent_since_s) >= SILENT_S:
            self._rested = True
            playout.let_go()
            self._resampler = None

    def stop(self) -> None:
        """The meeting is over: `run` returns after the message it is writing."""
        self._stopped = True
        self._resampler = None
        self._commands.close()
        self._bell.ring()
        self._room.ring()

    async def run(self) -> None:
        """Write until `stop`. The only task that writes to the control socket."""
        while not self._stopped:
            socket = self._socket
            if socket is None:
                await self._bell.wait()
            elif self._clear_since_s is not None:
                await self._send_clear(socket, self._clear_since_s)
            elif (command := self._commands.take_nowait()) is not None:
                if not await self._send(socket, command):
                    self._commands.put_back(command)
            else:
                await self._send_speech(socket)

    async def _send_clear(self, socket: TextSink, since_s: float) -> None:
        self._clear_since_s = None
        if await self._send(socket, ClearAudio().encode(self.bot_id)):
            now_s = trio.current_time()
            if self._log_throttle.admits(now_s):
                waited_ms = round((now_s - since_s) * 1000, 2)
                more = self._log_throttle.take_suppressed()
                self.log.info("interrupt sent", extra={"after_ms": waited_ms, "more": more})
        elif self._clear_since_s is None:
            self._clear_since_s = since_s

    async def _send_speech(self, socket: TextSink) -> None:
        now_s = trio.current_time()
        due_s = self.playout.due_s()
        if due_s is None or due_s > now_s:
            with trio.move_on_at(math.inf if due_s is None else due_s):
                await self._bell.wait()
            return
        chunk = self.playout.take(now_s)
        epoch = self.interrupts
        self._in_flight = True
        sent = await self._send(socket, SendAudio(chunk).encode(self.bot_id))
        self._in_flight = False
        if not sent and epoch == self.interrupts:
            self.playout.put_back(chunk)
        self._room.ring()  # also when it failed: somebody may wait for what is in flight

    async def _send(self, socket: TextSink, text: str) -> bool:
        """Whether ``text`` went out whole; if not, the socket is gone and nobody read it."""
        try:
            with trio.CancelScope(shield=True):  # bounded by the socket's own write deadline
                await socket.send(text)
        except SocketClosedError:
            self.detach(socket)
            return False
        return True


def samples_of_ms(duration_ms: float) -> int:
    """Samples at 48 kHz in ``duration_ms``."""
    return round(duration_ms * RATE_HZ / 1000)
