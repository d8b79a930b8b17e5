"""What the bot hears and reads: the server's commands, and its speech through the queue.

No I/O: messages are handed in, and the clock is Trio's, so a virtual one drives it in tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import numpy as np
import trio

from trio_bridge.simulator import events
from trio_bridge.simulator.commands import (
    Acknowledged,
    CommandFault,
    PlayAudio,
    PostCaption,
    PostChat,
    ShowImage,
    StopAudio,
    Unknown,
    read_audio_reply,
    read_command,
)
from trio_bridge.simulator.events import SimEvent
from trio_bridge.simulator.playback import Answer, PlaybackQueue
from trio_bridge.simulator.recording import Recording
from trio_bridge.simulator.report import (
    ReceivedInterrupt,
    Report,
    Tally,
    count,
    measure_answers,
    measure_gaps,
    measure_interrupts,
    measure_lead,
)
from trio_bridge.simulator.scenario import Scenario
from trio_bridge.simulator.wavs import MEETING_RATE_HZ, Int16

QUIET_S = 1.0
"""Silence of the bot after which it counts as done, so that the meeting can end."""


@attrs.define(eq=False)
class Listener:
    """The receiving half of a bot, with all that is measured."""

    scenario: Scenario
    on_event: Callable[[SimEvent], None]
    start_s: float = attrs.field(default=math.inf, init=False)
    """On Trio's clock; all other times count from here. Until it is set they are 0, so that
    time never runs backwards, which `PlaybackQueue` relies on."""
    media_s: float = attrs.field(default=0.0, init=False)
    """How much of the meeting has passed; equal to the clock only at speed 1."""
    end_s: float = attrs.field(default=0.0, init=False)
    queue: PlaybackQueue = attrs.field(factory=PlaybackQueue, init=False)
    tally: Tally = attrs.field(factory=Tally, init=False)
    recording: Recording = attrs.field(factory=Recording, init=False)
    _echo: bytearray = attrs.field(factory=bytearray, init=False)
    _answer: Answer | None = attrs.field(default=None, init=False)
    """The answer that was announced as started, and not yet as stopped."""
    _heard_until_s: float = attrs.field(default=0.0, init=False)

    @property
    def now_s(self) -> float:
        """Seconds since both channels were open; 0 before."""
        return max(0.0, trio.current_time() - self.start_s)

    @property
    def busy(self) -> bool:
        """The bot speaks, or may only be taking a breath."""
        quiet_s = self.now_s - self._heard_until_s
        return self.queue.playing or (self.queue.played > 0 and quiet_s < QUIET_S)

    def finish(self) -> None:
        """We leave: what is still queued will not be heard."""
        self.advance()
        self.end_s = self.now_s
        if self._answer is not None:
            self._announce_stop(self._answer, self._heard_until_s)

    def on_control(self, message: str | bytes) -> None:
        """Do what a message of the control channel says; a bad one is a fault, counted."""
        now_s = self.now_s
        self.advance()
        try:
            command = read_command(message, self.scenario.bot_id)
        except CommandFault as fault:
            self.fault(fault.reason)
            return
        for flaw in command.flaws:
            self.fault(flaw)
        match command:
            case PlayAudio(samples=samples):
                self._play(samples, now_s)
            case StopAudio():
                self._stop_audio(now_s)
            case PostChat(text=text):
                self.tally.chats.append(text)
                self.on_event(events.ChatPosted(now_s, text))
            case PostCaption(role=role, text=text, is_final=is_final):
                if is_final:
                    self.tally.captions.append((role, text))
                else:
                    self.tally.partial_captions += 1
                self.on_event(events.CaptionPosted(now_s, role, text, is_final))
            case ShowImage(size_bytes=size_bytes, url=url):
                self.tally.images += 1
                self.on_event(events.ImageShown(now_s, size_bytes, url))
            case Acknowledged():
                self.tally.acks += 1
            case Unknown(kind=kind):
                count(self.tally.unknown, kind)

    def on_audio(self, message: str | bytes) -> None:
        """Note a message of the audio channel; there is nothing to do for it."""
        try:
            reply = read_audio_reply(message)
        except CommandFault as fault:
            self.fault(f"{fault.reason} on the audio channel")
            return
        if isinstance(reply, Unknown):
            count(self.tally.unknown, reply.kind)
        else:
            self.tally.acks += 1

    def _play(self, samples: Int16, now_s: float) -> None:
        self.queue.enqueue(samples, now_s)
        playing = self.queue.current
        if playing is not None and playing is not self._answer:
            self._answer = playing
            self.on_event(events.AudioStarted(playing.start_s))

    def _stop_audio(self, now_s: float) -> None:
        tail = self.queue.mark(now_s)
        dropped_s = 0.0
        if self.scenario.platform == "meet":
            dropped_s = self.queue.clear(now_s)
        else:
            self.queue.cut(now_s)
        self.tally.interrupt_received(ReceivedInterrupt(now_s, tail, dropped_s))
        self.on_event(events.Cleared(now_s, dropped_s, self.queue.queued_s))
        self.advance()

    def advance(self) -> None:
        """Let the queue play up to now; what was heard goes to the recording and the echo."""
        now_s = self.now_s
        self.queue.advance(now_s)
        for heard in self.queue.take_heard():
            # Less than a sample apart is the same breath.
            follows = abs(heard.at_s - self._heard_until_s) * MEETING_RATE_HZ < 0.5
            self._heard_until_s = heard.at_s + len(heard.samples) / MEETING_RATE_HZ
            if self.scenario.save is not None:
                at_s = heard.at_s if self.scenario.speed == 1 else self.media_s
                at = round(at_s * MEETING_RATE_HZ)
                self.recording.add(at, heard.samples, follows=follows)
            if self.scenario.own_voice_echo:
                self._echo += heard.samples.tobytes()
        answer = self._answer
        if answer is not None and answer.end_s is not None:
            self._announce_stop(answer, answer.end_s)

    def _announce_stop(self, answer: Answer, at_s: float) -> None:
        self._answer = None
        played_s = answer.played / MEETING_RATE_HZ
        self.on_event(events.AudioStopped(at_s, played_s, answer.cut))

    def take_echo(self, length: int) -> Int16:
        """The next frame of what was played, silence where nothing was."""
        piece = np.frombuffer(bytes(self._echo[: 2 * length]), np.int16)
        del self._echo[: 2 * length]
        return np.pad(piece, (0, length - len(piece)))

    def fault(self, reason: str) -> None:
        """Count and announce what went wrong."""
        count(self.tally.faults, reason)
        self.on_event(events.FaultSeen(self.now_s, reason))

    def report(self) -> Report:
        """What was measured so far."""
        tally, queue, scenario = self.tally, self.queue, self.scenario
        answers = measure_answers(queue, tally.speakers)
        delays = [a.delay_ms for a in answers if a.delay_ms is not None]
        return Report(
            server=scenario.where,
            bot_id=scenario.bot_id,
            platform=scenario.platform,
            form=scenario.form,
            layout=scenario.layout,
            duration_s=self.end_s,
            frames_sent=tally.frames_sent,
            frames_lost=tally.frames_lost,
            sent_s=tally.sent_samples / MEETING_RATE_HZ,
            late_ms=tally.late_s * 1000,
            heard_s=queue.played / MEETING_RATE_HZ,
            received_s=queue.enqueued / MEETING_RATE_HZ,
            cleared_s=queue.cleared / MEETING_RATE_HZ,
            unplayed_s=queue.queued_s,
            first_audio_ms=max(delays, default=None),
            gaps=measure_gaps(queue),
            lead=measure_lead(queue, tally.interrupts_s),
            answers=answers,
            interrupts=measure_interrupts(tally),
            speakers=tuple(tally.speakers),
            chats=tuple(tally.chats),
            captions=tuple(tally.captions),
            partial_captions=tally.partial_captions,
            images=tally.images,
            acks=tally.acks,
            unknown_commands=dict(tally.unknown),
            faults=dict(tally.faults),
            closes=tuple(tally.closes),
            saved=None if scenario.save is None else str(scenario.save),
        )
