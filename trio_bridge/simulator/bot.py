"""A MeetStream bot: joins a server with two WebSockets, plays a scenario, measures the answer.

One nursery owns every task: one reader a socket, one writer for the control channel, one for
each reconnect; the conductor, which sends the audio, is the caller's own task.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs
import numpy as np
import trio

from trio_bridge.simulator import events
from trio_bridge.simulator.errors import SimulatorError
from trio_bridge.simulator.events import Channel, SimEvent
from trio_bridge.simulator.link import Link, Message, OpenStream, open_tcp
from trio_bridge.simulator.listening import Listener
from trio_bridge.simulator.report import CloseReport, Report, SentInterrupt, SpeakerReport
from trio_bridge.simulator.scenario import Reconnect, Scenario, UserMessage
from trio_bridge.simulator.voices import Room, Voice, encode, load_voices
from trio_bridge.simulator.wavs import MEETING_RATE_HZ, check_writable, writing_wav
from trio_bridge.wire.control import encode_interrupt, encode_user_message
from trio_bridge.wire.hello import encode_hello


class RecordingError(SimulatorError):
    """The meeting was held and could not be saved; ``report`` is what was measured."""

    def __init__(self, reason: str, report: Report) -> None:
        super().__init__(reason)
        self.report = report


_Act = UserMessage | Reconnect | float
"""What the script does besides speech; a bare number is the time of an interrupt."""


async def simulate(
    scenario: Scenario,
    *,
    on_event: Callable[[SimEvent], None] | None = None,
    stop: trio.Event | None = None,
    open_stream: OpenStream | None = None,
) -> Report:
    """Run one meeting to its end and report it.

    Set ``stop`` to leave early, properly and with a report. ``on_event`` is called in order,
    from inside the run: what it raises ends the run. ``open_stream`` replaces the TCP
    connection, for tests and for unusual transports.

    On `trio.Cancelled` both connections are dropped without a Close.

    Raises:
        SimulatorError: a WAV cannot be used, the server cannot be reached or refuses the
            upgrade, or the recording cannot be written (found out before it connects).
        RecordingError: the recording could not be written after all.
    """
    if scenario.save is not None:
        check_writable(scenario.save)
    if all(isinstance(part.sound, np.ndarray) for part in scenario.speakers):
        voices = load_voices(scenario)  # no thread: a virtual clock would run on meanwhile
    else:
        voices = await trio.to_thread.run_sync(load_voices, scenario)
    host, port, secure = scenario.address
    opener = open_stream or partial(open_tcp, host, port, secure)
    failure: SimulatorError | None = None
    async with trio.open_nursery() as nursery:
        bot = _Bot(
            scenario=scenario,
            voices=voices,
            on_event=on_event or _ignore,
            stop=trio.Event() if stop is None else stop,
            nursery=nursery,
            open_stream=opener,
        )
        try:
            await bot.attend()
        except SimulatorError as error:
            failure = error  # raised outside, where the nursery does not wrap it in a group
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    report = bot.ears.report()
    if scenario.save is None:
        return report
    total = round(bot.ears.media_s * MEETING_RATE_HZ)
    try:
        with writing_wav(scenario.save) as append:
            for block in bot.ears.recording.blocks(voices, total):
                append(block)  # under a millisecond, so it needs no thread
                await trio.lowlevel.checkpoint()
    except SimulatorError as error:
        raise RecordingError(str(error), attrs.evolve(report, saved=None)) from error
    return report


@attrs.define(eq=False)
class _Bot:
    """The state of one run."""

    scenario: Scenario
    voices: tuple[Voice, ...]
    on_event: Callable[[SimEvent], None]
    stop: trio.Event
    nursery: trio.Nursery
    open_stream: OpenStream
    ears: Listener = attrs.field(init=False)
    _control: Link = attrs.field(init=False)
    _audio: Link = attrs.field(init=False)
    _outbox: trio.MemorySendChannel[UserMessage | float] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.ears = Listener(self.scenario, self.on_event)
        self._control = self._link("control", self.ears.on_control)
        self._audio = self._link("audio", self.ears.on_audio)

    def _link(self, channel: Channel, on_message: Callable[[Message], None]) -> Link:
        host, port, secure = self.scenario.address
        name = f"[{host}]" if ":" in host else host
        default = port == (443 if secure else 80)
        return Link(
            where=self.scenario.where,
            host=name if default else f"{name}:{port}",
            resource=self.scenario.resource(channel),
            headers=self.scenario.headers,
            hello=encode_hello(self.scenario.bot_id),
            open_stream=self.open_stream,
            nursery=self.nursery,
            on_message=on_message,
            on_closed=partial(self._on_closed, channel),
            on_fault=self.ears.fault,
        )

    async def attend(self) -> None:
        """Join, play the script, leave.

        Raises:
            SimulatorError: a channel could not be opened at the beginning.
        """
        await self._join()
        self.ears.start_s = trio.current_time()
        self._outbox, inbox = trio.open_memory_channel[UserMessage | float](
            len(self.scenario.messages) + len(self.scenario.interrupts_s) + 1
        )
        written = trio.Event()
        self.nursery.start_soon(self._write_control, inbox, written)
        with self._outbox:
            await self._conduct()
        await written.wait()  # each of its writes has a deadline
        self.ears.finish()
        async with trio.open_nursery() as closing:
            closing.start_soon(self._control.leave)
            closing.start_soon(self._audio.leave)

    # --- the connections

    async def _join(self) -> None:
        failures: list[SimulatorError] = []

        async def join(channel: Channel) -> None:
            link = self._control if channel == "control" else self._audio
            try:
                await link.open()
            except SimulatorError as error:
                failures.append(error)
            else:
                self.on_event(events.Joined(self.ears.now_s, channel))

        order = self.scenario.order
        if order == "together":
            async with trio.open_nursery() as joining:
                joining.start_soon(join, "control")
                joining.start_soon(join, "audio")
        else:
            await join(order)
            if not failures:
                await trio.sleep(self.scenario.order_gap_s)
                await join("audio" if order == "control" else "control")
        if failures:
            raise failures[0]

    async def _reconnect(self, cut: Reconnect) -> None:
        link = self._control if cut.channel == "control" else self._audio
        link.returning = True
        try:
            if cut.how == "overlap":
                await link.replace()
            else:
                await link.lose(abrupt=cut.how == "abrupt")
                await trio.sleep(cut.pause_s)
                await link.open()
        except SimulatorError as error:
            self.ears.fault(f"could not reconnect {cut.channel}: {error}")
        else:
            self.on_event(events.Joined(self.ears.now_s, cut.channel))
        finally:
            link.returning = False

    def _on_closed(self, channel: Channel, code: int, reason: str, by_us: bool) -> None:
        at_s = self.ears.now_s
        by = "bot" if by_us else "server"
        self.ears.tally.closes.append(CloseReport(channel, code, reason, by, at_s))
        self.on_event(events.Closed(at_s, channel, code, reason, "bot" if by_us else "server"))

    # --- what we send

    async def _conduct(self) -> None:
        """Send the meeting's audio, a frame at a time, and start what else the script holds."""
        scenario = self.scenario
        frame_samples = scenario.frame_ms * MEETING_RATE_HZ // 1000
        frame_s = frame_samples / MEETING_RATE_HZ
        room = Room(
            self.voices,
            scenario.layout,
            frame_samples,
            scenario.bot_name,
            scenario.silence_label,
        )
        acts = self._acts()
        script_end_s = self._script_end_s()
        deadline_s = self.ears.start_s
        index = 0
        while not self._over(script_end_s):
            begin_s, end_s = index * frame_s, (index + 1) * frame_s
            # The tail is in real time: there the bot's answers are waited for.
            rate = scenario.speed if begin_s < script_end_s else 1.0
            if rate:
                # Absolute deadlines: the error of one sleep is not added to the next. A frame
                # is sent when it ends, as a microphone would have it.
                deadline_s += frame_s / rate
                await trio.sleep_until(deadline_s)
                self.ears.tally.late_s = max(
                    self.ears.tally.late_s, trio.current_time() - deadline_s
                )
            else:
                await trio.lowlevel.checkpoint()
                deadline_s = trio.current_time()
            self.ears.advance()
            while acts and _time_of(acts[0]) < end_s:
                self._start(acts.pop(0))
            self._note_speech(index * frame_samples, frame_samples, deadline_s, rate)
            echo = self.ears.take_echo(frame_samples) if scenario.own_voice_echo else None
            for frame in room.frames(index, echo):
                if await self._audio.send(encode(frame, scenario.form)):
                    self.ears.tally.frames_sent += 1
                    self.ears.tally.sent_samples += frame_samples
                else:
                    self.ears.tally.frames_lost += 1
            index += 1
            self.ears.media_s = end_s

    def _acts(self) -> list[_Act]:
        scenario = self.scenario
        acts: list[_Act] = [
            *scenario.messages,
            *scenario.interrupts_s,
            *scenario.reconnects,
        ]
        return sorted(acts, key=_time_of)

    def _script_end_s(self) -> float:
        ends = [voice.end / MEETING_RATE_HZ for voice in self.voices]
        return max([*ends, *(_time_of(act) for act in self._acts())], default=0.0)

    def _over(self, script_end_s: float) -> bool:
        if self.stop.is_set():
            return True
        if not any((link.up or link.returning) for link in (self._control, self._audio)):
            return True  # the server has closed both
        scenario = self.scenario
        # Half a sample of tolerance: the sum of the frames is a float.
        passed_s = self.ears.media_s + 0.5 / MEETING_RATE_HZ
        if scenario.duration_s is not None:
            return passed_s >= scenario.duration_s
        tail_end_s = script_end_s + scenario.tail_s
        if passed_s >= tail_end_s + scenario.linger_s:
            return True
        return passed_s >= tail_end_s and not self.ears.busy

    def _start(self, act: _Act) -> None:
        if isinstance(act, Reconnect):
            self.nursery.start_soon(self._reconnect, act)
        else:
            self._outbox.send_nowait(act)  # it has room for all of the script

    async def _write_control(
        self, inbox: trio.MemoryReceiveChannel[UserMessage | float], written: trio.Event
    ) -> None:
        """The control channel's only writer: a slow server must not hold up the audio."""
        async for act in inbox:
            if isinstance(act, UserMessage):
                text = encode_user_message(act.text, speaker_name=act.speaker_name)
                at_s = self.ears.now_s
                if await self._control.send(text):
                    self.on_event(events.MessageSent(at_s, act.text))
                else:
                    self.ears.fault("a usermsg could not be sent")
                continue
            # Measured from before the write: the server may answer while it still returns.
            at_s = self.ears.now_s
            tail = self.ears.queue.mark(at_s)
            sent = SentInterrupt(at_s, tail)
            self.ears.tally.sent.append(sent)
            if await self._control.send(encode_interrupt()):
                self.on_event(events.InterruptSent(at_s))
            else:
                self.ears.tally.sent.remove(sent)
                self.ears.fault("an interrupt could not be sent")
        written.set()

    def _note_speech(self, start: int, length: int, deadline_s: float, rate: float) -> None:
        """Announce who begins in this frame; remember when speech ended, on the clock."""
        for voice in self.voices:
            if start <= voice.start < start + length:
                duration_s = len(voice.samples) / MEETING_RATE_HZ
                self.on_event(
                    events.Spoke(self.ears.now_s, voice.speaker_name, duration_s, voice.text)
                )
            if start < voice.speech_end <= start + length:
                left_s = (start + length - voice.speech_end) / MEETING_RATE_HZ
                ended_s = deadline_s - self.ears.start_s - (left_s / rate if rate else 0.0)
                spoken_s = (voice.speech_end - voice.speech_start) / MEETING_RATE_HZ
                began_s = ended_s - (spoken_s / rate if rate else 0.0)
                self.ears.tally.speakers.append(
                    SpeakerReport(voice.speaker_name, began_s, ended_s)
                )


def _time_of(act: _Act) -> float:
    return act if isinstance(act, float | int) else act.at_s


def _ignore(_: SimEvent) -> None: ...
