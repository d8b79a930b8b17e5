"""One meeting: the nursery of its agent and pump; its sockets' own tasks read for it."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Awaitable, Callable

import attrs
import trio

from trio_bridge.attendance import NORMAL, Attendance, Kind, Link, Socket
from trio_bridge.audio.speakers import OwnVoice
from trio_bridge.audio.timeline import Timeline
from trio_bridge.audio.vad import VadSettings
from trio_bridge.bargein import BargeIn
from trio_bridge.bell import SET
from trio_bridge.clock import Clock
from trio_bridge.config import Settings
from trio_bridge.ears import Audience
from trio_bridge.errors import SessionEndedError, SocketClosedError, WireError
from trio_bridge.inbox import Inbox
from trio_bridge.inflow import Inflow
from trio_bridge.intake import Intake
from trio_bridge.ledger import Ledger
from trio_bridge.log import BoundLog, Throttle, excerpt
from trio_bridge.meeting import Agent, Meeting, UnknownMessage
from trio_bridge.pacing import Playout
from trio_bridge.pump import Pump, samples_of_ms
from trio_bridge.stretch import Stretch
from trio_bridge.watchdog import meeting_of_task
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

IDLE_TICK_S = 1.0
"""How often a meeting looks after its time while no audio channel is there."""


@attrs.define(eq=False)
class Session:
    """Alive from its first channel until both are gone; `run` is its whole life."""

    bot_id: str
    agent: Agent
    settings: Settings
    _clock: Clock
    log: BoundLog = attrs.field(init=False)
    inflow: Inflow = attrs.field(init=False)
    pump: Pump = attrs.field(init=False)
    meeting: Meeting = attrs.field(init=False)
    ignored: int = attrs.field(default=0, init=False)
    """Control messages that were unknown, empty, repeated or partial."""
    _attendance: Attendance = attrs.field(init=False)
    _inbox: Inbox = attrs.field(factory=Inbox, init=False)
    _reject_throttle: Throttle = attrs.field(factory=Throttle, init=False)
    _nursery: trio.Nursery = attrs.field(init=False)
    _ready: trio.Event = attrs.field(factory=trio.Event, init=False)
    _over: trio.Event = attrs.field(factory=trio.Event, init=False)
    _agent_done: trio.Event = attrs.field(factory=trio.Event, init=False)
    _pump_done: trio.Event = attrs.field(factory=trio.Event, init=False)
    _verdict: tuple[int, str] = attrs.field(default=(NORMAL, ""), init=False)
    _due_s: float = attrs.field(default=0.0, init=False)
    """When `_keep_time` is to be called next."""

    def __attrs_post_init__(self) -> None:
        settings = self.settings
        bound = {"bot_id": self.bot_id}
        self.log = BoundLog(logging.getLogger(__name__), bound)
        vad = VadSettings(
            threshold_dbfs=settings.vad_threshold_dbfs,
            hangover_s=settings.end_of_turn_ms / 1000,
        )
        intake = Intake(
            Timeline(settings.layout),
            OwnVoice(settings.bot_name, settings.bot_speaker_id),
            silence_own=settings.own_voice == "silence",
            channels=settings.channels,
            quality=settings.resample_quality,
        )
        audience = Audience(samples_of_ms(settings.audio_backlog_ms))
        self.pump = Pump(
            self.bot_id,
            Playout(settings.chunk_ms / 1000, settings.lead_ms / 1000),
            samples_of_ms(settings.speech_backlog_ms),
            BoundLog(logging.getLogger("trio_bridge.pump"), bound),
            settings.command_backlog_kib << 10,
        )
        self.meeting = Meeting(
            self.bot_id,
            audience,
            self.pump,
            BoundLog(logging.getLogger("trio_bridge.agent"), bound),
            settings.resample_quality,
            vad,
        )
        self._attendance = Attendance(settings.grace_s)
        self.inflow = Inflow(
            intake,
            audience,
            self.pump.playout,
            BargeIn(settings.barge_in_ms / 1000, vad),
            lambda: self.meeting.interrupt("barge-in"),
        )

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
        return self.inflow.ledger

    def end(self, code: int = NORMAL, reason: str = "") -> None:
        """End the meeting: its sockets are closed with ``code``. Only the first call counts."""
        if not self.over:
            self._verdict = (code, reason)
            self.inflow.listen_to(None)
            self._over.set()

    # -- its life --------------------------------------------------------------------------

    async def run(self) -> None:
        """Own the agent and the pump until the meeting is over; then nobody reads for it.

        A failure in any of them ends this meeting and is logged here, once; it reaches
        neither the server nor another meeting. On `trio.Cancelled` the meeting ends at once.
        """
        meeting_of_task.set(self.bot_id)
        self.log.info("meeting began")
        try:
            await self._live()
        except* Exception as failures:
            self.end(FAILED, "internal error")
            self.log.exception("meeting failed", exc_info=failures)
        finally:
            self.end(GOING_AWAY, "going away")
            self._ready.set()
            self._attendance.dismiss(*self._verdict)
            self.log.info("meeting ended", extra=self._summary())
            self.inflow.let_go()

    async def _live(self) -> None:
        async with trio.open_nursery() as self._nursery:
            try:
                self._nursery.start_soon(self._run_pump)
                self._nursery.start_soon(self._run_agent)
                self._keep_time(trio.current_time())
                self._ready.set()
                self._ready = SET
                await self._over.wait()
                self.inflow.finish(trio.current_time())
                self.pump.stop()
                self._attendance.dismiss(*self._verdict)
                with trio.move_on_after(self.settings.wrap_up_s):
                    await self._agent_done.wait()
            finally:
                self.end(GOING_AWAY, "going away")
                self._attendance.dismiss(*self._verdict)
                self.pump.stop()  # an agent that shields its waits must not wait for ever
                self.inflow.audience.close()
                self._nursery.cancel_scope.cancel()
                await self._see_them_stop()

    async def _run_pump(self) -> None:
        try:
            await self.pump.run()
        except Exception as fault:
            self._end_on(fault)
        finally:
            self._pump_done.set()

    def _end_on(self, fault: Exception) -> None:
        """A fault of ours ends the meeting by its ordinary way: its sockets are told 1011, and
        no other meeting notices."""
        self.log.error("meeting failed", exc_info=fault)
        self.end(FAILED, "internal error")

    async def _run_agent(self) -> None:
        try:
            work: object = self.agent(self.meeting)
            if not isinstance(work, Awaitable):
                raise TypeError("the agent is no coroutine function: write async def")  # noqa: TRY301
            await work
        except* SessionEndedError as failures:
            if not self.over:  # another meeting's
                self.log.exception("agent failed", exc_info=failures)
            self.end(FAILED, "the agent failed")  # it was in mid-sentence when the bot left
        except* trio.Cancelled as cancelled:
            if trio.current_effective_deadline() == -math.inf:
                raise
            self._fail(cancelled)  # nobody cancels us: the agent had kept it from elsewhere
        except* KeyboardInterrupt:
            raise
        except* BaseException as failures:  # asyncio.CancelledError, SystemExit, GeneratorExit
            self._fail(failures)
        else:
            if not self.over:
                self.log.info("agent returned")
        finally:
            self._agent_done.set()

    def _fail(self, failures: BaseExceptionGroup[BaseException]) -> None:
        self.log.error("agent failed", exc_info=failures)
        self.end(FAILED, "the agent failed")

    async def _see_them_stop(self) -> None:
        with trio.move_on_after(self.settings.teardown_s, shield=True) as patience:
            await self._pump_done.wait()
            await self._agent_done.wait()
        if patience.cancelled_caught and self._nursery.child_tasks:
            names = sorted(task.name for task in self._nursery.child_tasks)
            fields = {"after_s": self.settings.teardown_s, "tasks": names}
            self.log.error("meeting would not stop", extra=fields)

    def _keep_time(self, now_s: float) -> None:
        """Gaps become silence, and grace runs out; then ask the clock for the next time."""
        if self.over:
            return
        try:
            self._due_s = self._time_has_passed(now_s)
        except Exception as fault:
            self._end_on(fault)
        else:
            self._clock.at(self._due_s, self._strike)

    def _strike(self, now_s: float) -> None:
        if now_s < self._due_s:
            return  # the clock has been asked anew since
        due_s = self.inflow.flows_until_s(now_s)
        if due_s is None or not self.pump.rested:
            self._keep_time(now_s)
            return
        self._due_s = due_s
        self._clock.at(due_s, self._strike)

    def _time_has_passed(self, now_s: float) -> float:
        grace_ends_s = self._attendance.grace_ends_s
        if grace_ends_s is not None and now_s >= grace_ends_s:
            self.end(NORMAL, "nobody came back")
        due_s = self.inflow.tick(now_s)
        self.pump.rest(now_s)
        if "audio" not in self._attendance:
            due_s = now_s + IDLE_TICK_S
        if grace_ends_s is not None and grace_ends_s > now_s:
            due_s = min(due_s, grace_ends_s)
        return due_s

    def _summary(self) -> dict[str, object]:
        intake = self.inflow.intake
        return {
            "code": self._verdict[0],
            "reason": self._verdict[1],
            "frames": intake.frames,
            "rejected": dict(intake.rejected),
            "flawed": dict(intake.flawed),
            "ignored": self.ignored,
            "notes_dropped": self.inflow.audience.notes_dropped,
            "waits": self.pump.waits,
            "interrupts": self.pump.interrupts,
            "starved": self.pump.playout.starved,
            **self.ledger.summary(),
        }

    # -- its channels ----------------------------------------------------------------------

    async def serve_channel(self, kind: Kind, socket: Socket) -> tuple[int, str]:
        """Lend ``socket`` to the meeting; returns when it has enough, with what to close with.

        The newest socket of a kind wins: the older one is told 1000, and its late end changes
        nothing. The reading is done here, by the connection's own task, which has its socket
        back the moment the meeting is over; so cancelling either side stops it.

        Raises:
            SessionEndedError: the meeting was over before it could take the socket.
        """
        await self._ready.wait()
        if self.over:
            raise SessionEndedError("the meeting ended before this channel joined")
        link = Link(kind, socket)
        replaced = self._attendance.join(link)
        if kind == "audio":
            self.inflow.listen_to(link)
        self.log.info("channel joined", extra={"channel": kind, "again": replaced})
        meeting_of_task.set(self.bot_id)
        code = VANISHED
        try:
            with link.scope:
                take = self._begin_audio(link) if kind == "audio" else self._begin_control(link)
                while True:
                    take(await socket.receive())
        except trio.Cancelled:  # the connection's task, not the link's scope
            code = GOING_AWAY
            raise
        except SocketClosedError as closed:
            code = closed.code
        except Exception:  # ours: it ends this channel with 1011, and the meeting goes on
            self.log.exception("channel failed", extra={"channel": kind})
            link.verdict = (FAILED, "internal error")
        finally:
            if link.scope.cancelled_caught:
                code = link.verdict[0]  # we ended it
            link.done = True
            self._leave(link, code)
        return link.verdict

    def _begin_audio(self, link: Link) -> Callable[[bytes | str], object]:
        hear = functools.partial(self._on_audio, link)
        size = self.settings.audio_message_bytes * self.settings.channels
        link.socket.arm(max_message_bytes=size, on_audio=hear, on_text=hear)
        return hear

    def _begin_control(self, link: Link) -> Callable[[bytes | str], object]:
        link.socket.arm(max_message_bytes=self.settings.control_message_bytes)
        self.pump.attach(link.socket)
        return functools.partial(self._on_control, link)

    def _leave(self, link: Link, code: int) -> None:
        try:
            self._forget(link, code)
        except Exception as fault:
            self._end_on(fault)

    def _forget(self, link: Link, code: int) -> None:
        """``link`` left; that means nothing where a newer one has its place."""
        if link.kind == "control":
            self.pump.detach(link.socket)
        if not self._attendance.holds(link):
            return
        self.log.info("channel left", extra={"channel": link.kind, "code": code})
        if link.kind == "audio":
            self.inflow.listen_to(None)
        now_s = trio.current_time()
        if self._attendance.leave(link, code, now_s):
            self.end(NORMAL, "the bot left")
        self._keep_time(now_s)

    # -- what comes in ---------------------------------------------------------------------

    def _on_audio(self, link: Link, message: bytes | str) -> Stretch | None:
        try:
            return self.inflow.hear(link, message, trio.current_time())
        except FrameError as error:
            self._reject(link, message, error, self.inflow.intake.rejected_in_a_row)
            return None

    def _on_control(self, link: Link, message: bytes | str) -> None:
        try:
            self._obey(message)
            link.bad = 0
        except ControlError as error:
            link.bad += 1
            self.inflow.intake.rejected[error.reason] += 1
            self._reject(link, message, error, link.bad)

    def _obey(self, message: bytes | str) -> None:
        parsed = parse_control(message)
        if isinstance(parsed, InterruptRequest):
            self.meeting.interrupt("meeting")
        elif isinstance(parsed, UserText):
            said = self._inbox.accept(parsed)
            if said is None:
                self.ignored += 1
            else:
                self.inflow.audience.note(said)
        elif isinstance(parsed, RepeatedReady):
            self.ignored += 1
            another = parsed.bot_id != self.bot_id
            if another and self._reject_throttle.admits(trio.current_time()):
                more = {"more_before": self._reject_throttle.take_suppressed()}
                self.log.warning("second ready with another bot_id ignored", extra=more)
        else:
            self.ignored += 1
            self.inflow.audience.note(UnknownMessage(parsed.kind))

    def _reject(self, link: Link, message: str | bytes, error: WireError, bad: int) -> None:
        """Log a bad message, once a second at most; a long run of them ends the socket."""
        if self._reject_throttle.admits(trio.current_time()):
            fields = {"channel": link.kind, "reason": str(error), "excerpt": excerpt(message)}
            more = self._reject_throttle.take_suppressed()
            self.log.warning("message rejected", extra={**fields, "more_before": more})
        if bad >= self.settings.bad_frames:
            link.end(UNSUPPORTED, f"{bad} bad messages in a row")
