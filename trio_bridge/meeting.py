"""What an agent is given: one meeting, to listen to and to speak in.

An agent is an ``async def agent(meeting: Meeting) -> None``. It runs in its meeting's nursery
from the bot's first connection on; when the meeting ends its iterators end, and after a moment
to wrap up it is cancelled. What it raises ends its meeting and no other.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal, cast, get_args

import attrs
import numpy as np
import numpy.typing as npt
import trio

from trio_bridge.audio.hearing import AudioChunk, Hearing, SpeakerChange, Utterance, View
from trio_bridge.audio.pcm import Samples, silence
from trio_bridge.audio.resample import Quality, Resampler
from trio_bridge.audio.speakers import Speaker
from trio_bridge.audio.vad import VadSettings
from trio_bridge.ears import Audience, Ear
from trio_bridge.given import (
    backlog_given,
    choice_given,
    chunk_given,
    flag_given,
    image_given,
    rate_given,
    samples_given,
    text_given,
    url_given,
)
from trio_bridge.log import BoundLog, Throttle
from trio_bridge.pacing import RATE_HZ
from trio_bridge.pump import Pump, samples_of_ms
from trio_bridge.turns import TurnGate
from trio_bridge.wire.commands import Role, SendChat, SendImage, SendImageUrl, SendMessage

__all__ = [
    "Agent",
    "AudioChunk",
    "Ear",
    "Event",
    "Interrupt",
    "Meeting",
    "Speaker",
    "SpeakerChange",
    "Turn",
    "UnknownMessage",
    "UserMessage",
    "Utterance",
]

InterruptSource = Literal["meeting", "barge-in", "agent"]


@attrs.frozen
class UserMessage:
    """Text that a person in the meeting wrote to the bot."""

    text: str
    speaker: Speaker | None = None
    """None where the platform does not say who."""


@attrs.frozen
class Interrupt:
    """Our speech was stopped. The turn under way, if any, was cancelled."""

    source: InterruptSource
    """The meeting's ``interrupt`` message, a person who spoke, or the agent itself."""
    flushed_s: float
    """Seconds of speech that had not been sent and never will be."""
    heard_s: float
    """Seconds of this turn's speech that were heard: an estimate that can be too low by up to
    the lead, since platforms other than Google Meet play out what they have queued."""


@attrs.frozen
class UnknownMessage:
    """The bot sent a well-formed message of a kind that the bridge does not know."""

    kind: str


Event = AudioChunk | Utterance | UserMessage | SpeakerChange | Interrupt | UnknownMessage


@attrs.frozen
class _Figures:
    """How far a turn has come, in samples at 48 kHz."""

    said: int
    heard: int
    at_bot: int


@attrs.define(eq=False)
class Turn:
    """One stretch of speech of ours, which an interrupt can cut."""

    _pump: Pump
    _gate: TurnGate
    _quality: Quality
    _log: BoundLog
    _log_throttle: Throttle = attrs.field(factory=Throttle, init=False)
    _epoch: int = attrs.field(init=False)
    _sent_before: int = attrs.field(init=False)
    _said_before: int = attrs.field(init=False)
    _resampler: Resampler | None = attrs.field(default=None, init=False)
    _final: _Figures | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._epoch = self._gate.epoch
        playout = self._pump.playout
        self._sent_before = playout.sent + playout.queued
        self._said_before = playout.said

    @property
    def interrupted(self) -> bool:
        """An interrupt cut this turn short."""
        return self._epoch != self._gate.epoch

    @property
    def said_s(self) -> float:
        """Seconds of speech handed over so far."""
        return self._figures().said / RATE_HZ

    @property
    def heard_s(self) -> float:
        """Seconds of it that were heard: an estimate, never more than `said_s`."""
        return self._figures().heard / RATE_HZ

    @property
    def heard_error_s(self) -> float:
        """How much more may have been heard: what was at the bot when an interrupt came."""
        return self._figures().at_bot / RATE_HZ

    async def say(self, samples: npt.ArrayLike, *, rate_hz: int) -> None:
        """Speak ``samples``: float ``(n,)``, mono, full scale +-1.0, at ``rate_hz``.

        Waits while the playout lane is full. Call it as often as speech comes in: all of a
        turn is one stream, with no click between. On `trio.Cancelled` a first part was taken.

        Raises:
            ValueError: integers, more than one dimension, another scale, or a rate that no
                resampler takes. (NaN and infinity are silence, and logged.)
            TypeError: a rate that is no number.
            SessionEndedError: the meeting is over.
            RuntimeError: the turn is over.
        """
        rate_hz = rate_given("say", rate_hz)
        for block, broken in samples_given("say", samples, rate_hz * BLOCK_S):
            if broken and self._log_throttle.admits(trio.current_time()):
                more = {"more_before": self._log_throttle.take_suppressed()}
                fields = {"samples": broken, "of": len(block), **more}
                self._log.warning("speech was not finite: silence instead", extra=fields)
            await self._say(block, rate_hz)

    async def finish(self) -> None:
        """Send the end of what was said and wait until it has been played, by our estimate.

        Leaving the turn does this; on `trio.Cancelled` the speech goes on.
        """
        rest = self.end_stream()
        if not self.interrupted:
            await self._pump.say(rest)
        self._pump.complete()
        await self._pump.played()

    def freeze(self) -> None:
        """The turn ends here, by an interrupt or by itself: its figures stay what they are."""
        self._final = self._figures()

    def _figures(self) -> _Figures:
        if self._final is not None:
            return self._final
        playout = self._pump.playout
        said = playout.said - self._said_before
        sent = max(0, playout.sent - self._sent_before)
        heard = max(0, sent - playout.unplayed(trio.current_time()))
        return _Figures(said, heard, sent - heard)

    async def _say(self, block: Samples, rate_hz: int) -> None:
        if self.interrupted:  # a shielded agent went on: nobody wants to hear the rest
            await trio.lowlevel.checkpoint()
            return
        if self._final is not None:  # maybe since this task has begun to speak
            raise RuntimeError("the turn is over: speak inside its async with block")
        await self._pump.say(self._resampled(block, rate_hz))

    def _resampled(self, block: Samples, rate_hz: int) -> Samples:
        """At 48 kHz, behind the end of what was said at another rate. No await: one that was
        returned may be another turn's after it."""
        resampler = self._resampler
        if resampler is not None and resampler.from_hz == rate_hz:
            return resampler.process(block)
        rest = self.end_stream()
        self._resampler = resampler = self._pump.borrow_resampler(rate_hz, self._quality)
        return np.concatenate((rest, resampler.process(block)))

    def end_stream(self) -> Samples:
        """The end of what was said so far; what follows begins anew."""
        resampler, self._resampler = self._resampler, None
        return silence(0) if resampler is None else self._pump.return_resampler(resampler)


@attrs.define(eq=False)
class Meeting:
    """One meeting, from the agent's seat."""

    bot_id: str
    """The bot's id; the same as long as the meeting lasts."""
    _audience: Audience
    _pump: Pump
    _log: BoundLog = attrs.field(
        factory=lambda: BoundLog(logging.getLogger("trio_bridge.agent"), {})
    )
    _quality: Quality = "HQ"
    _vad: VadSettings = attrs.field(factory=VadSettings)
    _turns: TurnGate = attrs.field(factory=TurnGate, init=False)
    _turn: Turn | None = attrs.field(default=None, init=False)
    _log_throttle: Throttle = attrs.field(factory=Throttle, init=False)

    # -- listening -------------------------------------------------------------------------

    def audio(
        self,
        *,
        rate_hz: int = 16_000,
        chunk_ms: int = 20,
        by: View = "mix",
        backlog_ms: int | None = None,
    ) -> Ear[AudioChunk]:
        """The meeting's audio from now on, at the rate, chunk size and view asked for.

        With ``chunk_ms`` 0 it comes in whatever lengths it has, which costs least: a frame or
        two at a time. ``by="mix"`` is what a person in the room hears; ``by="speaker"`` each
        speaker alone, chunks of several interleaved. Own voice is left out. When the agent is
        slower than the meeting the oldest audio is dropped once ``backlog_ms`` wait (default:
        the setting).

        Raises:
            ValueError, TypeError: a rate, chunk length, view or backlog that cannot be had.
            RuntimeError: `MOST_EARS` are open already.
        """
        rate_hz = rate_given("audio", rate_hz)
        hearing = Hearing(rate_hz, chunk_given(chunk_ms), by, self._quality)
        return cast(Ear[AudioChunk], self._open(hearing, backlog_ms, told=False))

    def events(
        self,
        *,
        rate_hz: int = 16_000,
        chunk_ms: int | None = None,
        by: View = "mix",
        backlog_ms: int | None = None,
    ) -> Ear[Event]:
        """Everything that happens from now on, in order; messages and interrupts come first.

        Utterances are at ``rate_hz``; with ``chunk_ms`` the audio itself comes as well.
        The rest is as for `audio`.
        """
        hearing = Hearing(
            rate_given("events", rate_hz),
            None if chunk_ms is None else chunk_given(chunk_ms),
            by,
            self._quality,
            vad=self._vad,
            changes=True,
        )
        return self._open(hearing, backlog_ms, told=True)

    # -- speaking --------------------------------------------------------------------------

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn]:
        """Speak, interruptibly: ``async with meeting.turn() as turn: await turn.say(...)``.

        An interrupt cancels the body, and only it: the block is left normally and
        ``turn.interrupted`` is True. Otherwise leaving it waits until all was played; what
        cancels it but an interrupt leaves what was said to be played. One turn at a time: a
        second one waits for the first.
        """
        async with self._turns.hold():
            turn = self._turn = Turn(self._pump, self._turns, self._quality, self._log)
            try:
                yield turn
                await turn.finish()
            finally:
                turn.freeze()
                turn.end_stream()  # the end of what was cut short is nobody's
                self._turn = None
                self._pump.complete()

    def interrupt(self, source: InterruptSource = "agent") -> Interrupt:
        """Stop our speech now: cancel the turn, drop what is queued, tell the bot to drop its
        own. Never waits; every ear is told."""
        choice_given("interrupt: source", source, get_args(InterruptSource))
        heard_s = 0.0
        if self._turn is not None:
            self._turn.freeze()
            heard_s = self._turn.heard_s
        self._turns.interrupt()
        event = Interrupt(source, self._pump.interrupt() / RATE_HZ, heard_s)
        if self._log_throttle.admits(trio.current_time()):
            fields = {"flushed_s": round(event.flushed_s, 3), "heard_s": round(heard_s, 3)}
            more = self._log_throttle.take_suppressed()
            self._log.info("interrupted", extra={"source": source, **fields, "more": more})
        self._audience.note(event)
        return event

    @property
    def speaking(self) -> bool:
        """Our speech is queued or, by our estimate, being played."""
        return self._pump.playout.audible(trio.current_time())

    @property
    def heard_s(self) -> float:
        """Seconds of our speech that the meeting has heard so far: an estimate."""
        return self._pump.playout.heard(trio.current_time()) / RATE_HZ

    @property
    def now_s(self) -> float:
        """Seconds of the meeting heard so far: the clock of every ``start_s``."""
        return self._audience.heard / RATE_HZ

    # -- everything else -------------------------------------------------------------------

    async def chat(self, text: str) -> None:
        """Post ``text``, its first `MAX_TEXT` characters, in the meeting's chat.

        It waits for the bot if that is away.

        Raises:
            TypeError: no text.
            SessionEndedError: the meeting is over.
        """
        await self._pump.command(SendMessage(text_given("chat", text)))

    async def caption(self, text: str, *, final: bool = True, role: Role = "assistant") -> None:
        """Show a transcript line: ``text`` is the whole line so far, ``final`` its last form.

        Of ``text`` the first `MAX_TEXT` characters are shown.

        Raises:
            TypeError, ValueError: no text, no such role.
            SessionEndedError: the meeting is over.
        """
        text = text_given("caption", text)
        flag_given("caption: final", final)
        choice_given("caption: role", role, get_args(Role))
        await self._pump.command(SendChat(text, final, role))

    async def show_image(self, image: bytes) -> None:
        """Show a JPEG or PNG as the bot's camera picture.

        Raises:
            TypeError, ValueError: no bytes, more than `MAX_IMAGE_BYTES`, neither of the two.
            SessionEndedError: the meeting is over.
        """
        await self._pump.command(SendImage(image_given("show_image", image)))

    async def show_image_url(self, url: str) -> None:
        """The same for a picture at a public address, which the bot fetches.

        Raises:
            TypeError, ValueError: no http(s) address.
            SessionEndedError: the meeting is over.
        """
        await self._pump.command(SendImageUrl(url_given("show_image_url", url)))

    def log(self, event: str, **fields: object) -> None:
        """Log ``event`` with ``fields``, marked with this meeting's bot_id."""
        self._log.info(
            text_given("log", event), extra={f"agent_{k}": v for k, v in fields.items()}
        )

    def _open(self, hearing: Hearing, backlog_ms: int | None, *, told: bool) -> Ear[Event]:
        choice_given("by", hearing.by, get_args(View))
        backlog = None if backlog_ms is None else samples_of_ms(backlog_given(backlog_ms))
        if self._audience.ears >= MOST_EARS:
            raise RuntimeError(f"{MOST_EARS} ears are open: close() those that are not used")
        return self._audience.open(hearing, backlog, told=told)


MOST_EARS = 32
"""Open at once in a meeting: each costs what `budget` says, and a loop that opens one an
utterance and keeps them would never be noticed."""
BLOCK_S = 1
"""Seconds of speech taken in one step: 0.2 ms of resampling, before others get their turn."""

Agent = Callable[[Meeting], Awaitable[None]]
"""What users write."""
