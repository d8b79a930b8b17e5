"""One meeting: a nursery that owns every task working for one ``bot_id``."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import attrs
import trio

from trio_bridge.attendance import NORMAL, Attendance, Kind, Link, Socket
from trio_bridge.audio.speakers import OwnVoice, Speaker
from trio_bridge.audio.timeline import Heard, Timeline
from trio_bridge.audio.vad import VadSettings
from trio_bridge.bargein import BargeIn
from trio_bridge.config import Settings
from trio_bridge.ears import Audience
from trio_bridge.errors import SessionEndedError, SocketClosedError, WireError
from trio_bridge.intake import Intake
from trio_bridge.lanes import Bell
from trio_bridge.ledger import Ledger, read_ledger
from trio_bridge.log import BoundLog, Throttle, excerpt
from trio_bridge.meeting import Agent, InterruptSource, Meeting, UnknownMessage, UserMessage
from trio_bridge.pacing import Playout
from trio_bridge.pump import Pump, samples_of_ms
from trio_bridge.wire.control import (
    ControlError,
    InterruptRequest,
    RepeatedReady,
    UserText,
    parse_control,
)
from trio_bridge.wire.frames import FrameError

GOING_AWAY, UNSUPPORTED, VANISHED, FAILED = 1001, 1003, 1006, 1011
"""Close codes of RFC 6455 §7.4.1 that a session says or sees."""

AUDIO_MESSAGE_BYTES = 256 << 10
"""A channel's share of an audio message: 2 s of PCM even in base64, the longest frame taken."""
CONTROL_MESSAGE_BYTES = 1 << 20
TICK_S, IDLE_TICK_S = 0.2, 1.0
"""How often a meeting looks whether its audio has stopped (half of what counts as a gap), and
how often while no audio channel is there."""
MESSAGE_ID_CHARACTERS = 256
"""A longer id is none: nobody needs it, and it would be remembered."""
MESSAGE_IDS = 512
"""User messages remembered so that a repeated one is not answered twice."""


@attrs.define(eq=False)
class Session:
    """Alive from its first channel until both are gone; `run` is its whole life."""

    bot_id: str
    agent: Agent
    settings: Settings
    log: BoundLog = attrs.field(init=False)
    intake: Intake = attrs.field(init=False)
    audience: Audience = attrs.field(init=False)
    pump: Pump = attrs.field(init=False)
    meeting: Meeting = attrs.field(init=False)
    stale_audio: int = attrs.field(default=0, init=False)
    """Audio messages of a socket that had been replaced."""
    ignored: int = attrs.field(default=0, init=False)
    """Control messages that were unknown, empty, repeated or partial."""
    _barge_in: BargeIn = attrs.field(init=False)
    _attendance: Attendance = attrs.field(init=False)
    _seen_ids: OrderedDict[str, None] = attrs.field(factory=OrderedDict, init=False)
    _reject_throttle: Throttle = attrs.field(factory=Throttle, init=False)
    _nursery: trio.Nursery = attrs.field(init=False)
    _ready: trio.Event = attrs.field(factory=trio.Event, init=False)
    _over: trio.Event = attrs.field(factory=trio.Event, init=False)
    _agent_done: trio.Event = attrs.field(factory=trio.Event, init=False)
    _verdict: tuple[int, str] = attrs.field(default=(NORMAL, ""), init=False)
    _bell: Bell = attrs.field(factory=Bell, init=False)

    def __attrs_post_init__(self) -> None:
        settings = self.settings
        bound = {"bot_id": self.bot_id}
        self.log = BoundLog(logging.getLogger(__name__), bound)
        vad = VadSettings(
            threshold_dbfs=settings.vad_threshold_dbfs,
            hangover_s=settings.end_of_turn_ms / 1000,
        )
        self.intake = Intake(
            Timeline(settings.layout),
            OwnVoice(settings.bot_name, settings.bot_speaker_id),
            silence_own=settings.own_voice == "silence",
            channels=settings.channels,
            quality=settings.resample_quality,
        )
        self.audience = Audience(samples_of_ms(settings.audio_backlog_ms))
        self.pump = Pump(
            self.bot_id,
            Playout(settings.chunk_ms / 1000, settings.lead_ms / 1000),
            samples_of_ms(settings.speech_backlog_ms),
            BoundLog(logging.getLogger("trio_bridge.pump"), bound),
        )
        self.meeting = Meeting(
            self.bot_id,
            self.audience,
            self.pump,
            BoundLog(logging.getLogger("trio_bridge.agent"), bound),
            settings.resample_quality,
            vad,
        )
        self._attendance = Attendance(settings.grace_s)
        self._barge_in = BargeIn(settings.barge_in_ms / 1000, vad)

    @property
    def over(self) -> bool:
        """The meeting has ended; its tasks may still be saying goodbye."""
        return self._over.is_set()

    @property
    def failed(self) -> bool:
        """It ended because something of ours, or the agent, failed."""
        return self.over and self._verdict[0] == FAILED

    @property
    def ledger(self) -> Ledger:
        """Where every sample went, as of now."""
        return read_ledger(self.intake, self.audience, self.pump.playout)

    def end(self, code: int = NORMAL, reason: str = "") -> None:
        """End the meeting: its sockets are closed with ``code``. Only the first call counts."""
        if not self.over:
            self._verdict = (code, reason)
            self._over.set()

    # -- its life --------------------------------------------------------------------------

    async def run(self) -> None:
        """Own every task of this meeting until it is over.

        A failure in any of them ends this meeting and is logged here, once; it reaches
        neither the server nor another meeting. On `trio.Cancelled` the meeting ends at once.
        """
        self.log.info("meeting began")
        try:
            async with trio.open_nursery() as watch:
                cancelled = trio.Event()
                reporting = trio.CancelScope(shield=True)  # also while the server is cancelled
                watch.start_soon(self._report_what_would_not_stop, cancelled, reporting)
                try:
                    await self._live(cancelled)
                finally:
                    reporting.cancel()
        except* Exception as failures:
            self.end(FAILED, "internal error")
            self.log.exception("meeting failed", exc_info=failures)
        finally:
            self.end(GOING_AWAY, "going away")
            self._ready.set()
            self._attendance.dismiss(*self._verdict)
            self.log.info("meeting ended", extra=self._summary())

    async def _live(self, cancelled: trio.Event) -> None:
        async with trio.open_nursery() as self._nursery:
            try:
                self._nursery.start_soon(self._work, self.pump.run)
                self._nursery.start_soon(self._work, self._keep_time)
                self._nursery.start_soon(self._run_agent)
                self._ready.set()
                await self._over.wait()
                self.audience.hear(self.intake.timeline.finish(trio.current_time()))
                self.audience.close()
                self.pump.stop()
                self._attendance.dismiss(*self._verdict)
                with trio.move_on_after(self.settings.wrap_up_s):
                    await self._agent_done.wait()
            finally:
                self._over.set()
                cancelled.set()
                self._nursery.cancel_scope.cancel()

    async def _work(self, task: Callable[[], Awaitable[None]]) -> None:
        # A fault ends the meeting by its ordinary way, so that the sockets are told 1011.
        try:
            await task()
        except Exception:  # ours: it must reach no other meeting
            self.log.exception("meeting failed")
            self.end(FAILED, "internal error")

    async def _run_agent(self) -> None:
        try:
            await self.agent(self.meeting)
        except* SessionEndedError as failures:
            if not self.over:  # another meeting's
                self.log.exception("agent failed", exc_info=failures)
            self.end(FAILED, "the agent failed")  # it was in mid-sentence when the bot left
        except* (trio.Cancelled, KeyboardInterrupt, GeneratorExit):
            raise
        except* (
            BaseException
        ) as failures:  # asyncio.CancelledError, a test's Failed, SystemExit
            self.log.exception("agent failed", exc_info=failures)
            self.end(FAILED, "the agent failed")
        else:
            if not self.over:
                self.log.info("agent returned")
        finally:
            self._agent_done.set()

    async def _report_what_would_not_stop(
        self, cancelled: trio.Event, reporting: trio.CancelScope
    ) -> None:
        with reporting:
            await cancelled.wait()
            await trio.sleep(self.settings.teardown_s)
            self._report_stuck()
            await trio.sleep_forever()

    def _report_stuck(self) -> None:
        names = sorted(task.name for task in self._nursery.child_tasks)
        self.log.error(
            "meeting would not stop",
            extra={"after_s": self.settings.teardown_s, "tasks": names},
        )

    async def _keep_time(self) -> None:
        """The meeting's only clock: gaps become silence, and grace runs out."""
        while not self.over:
            now_s = trio.current_time()
            grace_ends_s = self._attendance.grace_ends_s
            if grace_ends_s is not None and now_s >= grace_ends_s:
                self.end(NORMAL, "nobody came back")
            self._hear(self.intake.timeline.tick(now_s), now_s)
            until_s = now_s + (TICK_S if "audio" in self._attendance else IDLE_TICK_S)
            if grace_ends_s is not None and grace_ends_s > now_s:
                until_s = min(until_s, grace_ends_s)
            with trio.move_on_at(until_s):
                await self._bell.wait()

    def _summary(self) -> dict[str, object]:
        intake = self.intake
        return {
            "code": self._verdict[0],
            "reason": self._verdict[1],
            "frames": intake.frames,
            "rejected": dict(intake.rejected),
            "flawed": dict(intake.flawed),
            "ignored": self.ignored,
            "interrupts": self.pump.interrupts,
            "starved": self.pump.playout.starved,
            **self.ledger.summary(),
        }

    # -- its channels ----------------------------------------------------------------------

    async def serve_channel(self, kind: Kind, socket: Socket) -> tuple[int, str]:
        """Lend ``socket`` to the meeting; returns when it has enough, with what to close with.

        The newest socket of a kind wins: the older one is told 1000, and its late end changes
        nothing. The session's nursery does the reading, so cancelling either side stops it.

        Raises:
            SessionEndedError: the meeting was over before it could take the socket.
        """
        await self._ready.wait()
        if self.over:
            raise SessionEndedError("the meeting ended before this channel joined")
        link = Link(kind, socket)
        replaced = self._attendance.join(link)
        self.log.info("channel joined", extra={"channel": kind, "again": replaced})
        self._nursery.start_soon(self._read, link, name=f"{kind} channel {self.bot_id}")
        try:
            await link.done.wait()
        finally:
            link.end(GOING_AWAY, "going away")
            with trio.CancelScope(shield=True):  # short: it only awaits its socket
                await link.done.wait()
        return link.verdict

    async def _read(self, link: Link) -> None:
        code = VANISHED
        try:
            with link.scope:
                if link.kind == "audio":
                    await self._read_audio(link)
                else:
                    await self._read_control(link)
        except SocketClosedError as closed:
            code = closed.code
        except Exception:  # ours: it ends this channel with 1011, and the meeting goes on
            self.log.exception("channel failed", extra={"channel": link.kind})
            link.verdict = (FAILED, "internal error")
        finally:
            if link.scope.cancelled_caught:
                code = link.verdict[0]  # we ended it
            self._leave(link, code)
            link.done.set()

    async def _read_audio(self, link: Link) -> None:
        link.socket.arm(
            max_message_bytes=AUDIO_MESSAGE_BYTES * self.settings.channels,
            on_audio=lambda message: self._on_audio(link, message),
        )
        while True:
            self._on_audio(link, await link.socket.receive())

    async def _read_control(self, link: Link) -> None:
        link.socket.arm(max_message_bytes=CONTROL_MESSAGE_BYTES)
        if self._attendance.holds(link):  # not if replaced before its task first ran
            self.pump.attach(link.socket)
        bad = 0
        while True:
            message = await link.socket.receive()
            try:
                self._on_control(message)
                bad = 0
            except ControlError as error:
                bad += 1
                self.intake.rejected[error.reason] += 1
                self._reject(link, message, error, bad)

    def _leave(self, link: Link, code: int) -> None:
        """Forget ``link``, unless a newer one has its place."""
        if link.kind == "control":
            self.pump.detach(link.socket)
        if not self._attendance.holds(link):
            return
        self.log.info("channel left", extra={"channel": link.kind, "code": code})
        if self._attendance.leave(link, code, trio.current_time()):
            self.end(NORMAL, "the bot left")
        self._bell.ring()

    # -- what comes in ---------------------------------------------------------------------

    def _on_audio(self, link: Link, message: bytes | str) -> None:
        """One message of the audio channel. Never waits: the socket is always read."""
        if not self._attendance.holds(link) or self.over:
            self.stale_audio += 1
            return
        now_s = trio.current_time()
        try:
            heard = self.intake.take(message, now_s)
        except FrameError as error:
            self._reject(link, message, error, self.intake.rejected_in_a_row)
        else:
            self._hear(heard, now_s)

    def _hear(self, heard: Heard, now_s: float) -> None:
        if not heard.mix and not heard.voices:
            return
        if self._barge_in.hears(heard.mix, self.pump.playout.audible(now_s)):
            self._interrupt("barge-in")
        self.audience.hear(heard)

    def _on_control(self, message: str | bytes) -> None:
        parsed = parse_control(message)
        if isinstance(parsed, InterruptRequest):
            self._interrupt("meeting")
        elif isinstance(parsed, UserText):
            self._on_user_text(parsed)
        elif isinstance(parsed, RepeatedReady):
            self.ignored += 1
            another = parsed.bot_id != self.bot_id
            if another and self._reject_throttle.admits(trio.current_time()):
                more = {"more_before": self._reject_throttle.take_suppressed()}
                self.log.warning("second ready with another bot_id ignored", extra=more)
        else:
            self.ignored += 1
            self.audience.note(UnknownMessage(parsed.kind))

    def _on_user_text(self, said: UserText) -> None:
        if len(said.message_id) > MESSAGE_ID_CHARACTERS:
            said = attrs.evolve(said, message_id="")
        repeated = bool(said.message_id) and said.message_id in self._seen_ids
        if not said.text or not said.is_final or repeated:
            self.ignored += 1
            return
        if said.message_id:
            self._seen_ids[said.message_id] = None
            if len(self._seen_ids) > MESSAGE_IDS:
                self._seen_ids.popitem(last=False)
        named = said.speaker_id or said.speaker_name
        speaker = Speaker(said.speaker_id, said.speaker_name) if named else None
        self.audience.note(UserMessage(said.text, speaker))

    def _interrupt(self, source: InterruptSource) -> None:
        self.meeting.interrupt(source)

    def _reject(self, link: Link, message: str | bytes, error: WireError, bad: int) -> None:
        """Log a bad message, once a second at most; a long run of them ends the socket."""
        if self._reject_throttle.admits(trio.current_time()):
            fields = {"channel": link.kind, "reason": str(error), "excerpt": excerpt(message)}
            more = self._reject_throttle.take_suppressed()
            self.log.warning("message rejected", extra={**fields, "more_before": more})
        if bad >= self.settings.bad_frames:
            link.end(UNSUPPORTED, f"{bad} bad messages in a row")
