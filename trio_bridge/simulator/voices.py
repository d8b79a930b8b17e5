"""The people in the meeting, frame by frame. Sans-I/O: an index in, frames out."""

from __future__ import annotations

import attrs
import numpy as np

from trio_bridge.simulator.scenario import NO_SPEAKER, Form, Layout, Scenario
from trio_bridge.simulator.wavs import MEETING_RATE_HZ, Float32, Int16, to_pcm16
from trio_bridge.wire.frames import (
    AudioFrame,
    encode_frame,
    encode_headed_frame,
    encode_legacy_frame,
)

AUDIBLE = 0.01
"""Amplitude (-40 dBFS) above which a speaker counts as heard: a WAV's silent margins are not
speech, and an answer's delay must not be counted from them."""

EPOCH_MS = 1_700_000_000_000
"""Where form B's ``timestamp_ms`` starts: fixed, so that a run can be repeated to the byte."""

_Key = tuple[str, str]


@attrs.frozen(eq=False)
class Voice:
    """A part with its sound at its place, in samples since the beginning."""

    speaker_id: str
    speaker_name: str
    text: str
    samples: Float32
    start: int
    speech_start: int
    speech_end: int
    """Where the audible part begins and ends (exclusive)."""

    @property
    def end(self) -> int:
        return self.start + len(self.samples)

    def cut_out(self, start: int, count: int) -> Float32:
        """float32 ``(count,)`` from ``start`` on, silence where the voice is not."""
        piece = np.zeros(count, np.float32)
        first, last = max(start, self.start), min(start + count, self.end)
        if first < last:
            piece[first - start : last - start] = self.samples[
                first - self.start : last - self.start
            ]
        return piece


def load_voices(scenario: Scenario) -> tuple[Voice, ...]:
    """Read every part of the scenario. Slow (files, resampling): run it in a thread.

    Raises:
        SimulatorError: a file cannot be used.
    """
    voices = []
    for part in scenario.speakers:
        samples = part.load()
        start = round(part.at_s * MEETING_RATE_HZ)
        audible = np.flatnonzero(np.abs(samples) > AUDIBLE)
        first, last = (int(audible[0]), int(audible[-1]) + 1) if len(audible) else (0, 0)
        voices.append(
            Voice(part.id, part.name, part.text, samples, start, start + first, start + last)
        )
    return tuple(voices)


@attrs.define(eq=False)
class Room:
    """Cuts the voices into frames, labelled as the platform would label them."""

    voices: tuple[Voice, ...]
    layout: Layout
    frame_samples: int
    bot_name: str
    silence_label: str
    _last: _Key = attrs.field(default=(NO_SPEAKER, NO_SPEAKER), init=False)

    def frames(self, index: int, echo: Int16 | None = None) -> list[AudioFrame]:
        """All frames of one tick; ``echo`` is what the bot played, one frame long."""
        start, count = index * self.frame_samples, self.frame_samples
        stamp_ms = EPOCH_MS + start * 1000 // MEETING_RATE_HZ
        own = None if echo is None else echo.astype(np.float32) / np.float32(32768.0)
        if self.layout == "mixed":
            key, mixed = self._mix(start, count, own)
            return [_frame(key, mixed, stamp_ms)]
        streams: dict[_Key, Float32] = {}
        for voice in self.voices:  # a person may speak more than once
            key = (voice.speaker_id, voice.speaker_name)
            piece = voice.cut_out(start, count)
            streams[key] = streams[key] + piece if key in streams else piece
        if own is not None:
            streams[self.bot_name, self.bot_name] = own
        return [_frame(key, stream, stamp_ms) for key, stream in streams.items()]

    def _mix(self, start: int, count: int, own: Float32 | None) -> tuple[_Key, Float32]:
        """Everybody at once, under the name of the loudest who is speaking."""
        mixed = np.zeros(count, np.float32)
        loudest, label = -1.0, None
        for voice in self.voices:
            if voice.start >= start + count or voice.end <= start:
                continue
            piece = voice.cut_out(start, count)
            mixed += piece
            # Within someone's speech a pause keeps their name: platforms do not let go so fast.
            if voice.speech_start < start + count and voice.speech_end > start:
                power = float(piece @ piece)
                if power > loudest:
                    loudest, label = power, (voice.speaker_id, voice.speaker_name)
        if own is not None and own.any():
            mixed += own
            if float(own @ own) > loudest:
                label = (self.bot_name, self.bot_name)
        if label is None:
            nobody = (NO_SPEAKER, NO_SPEAKER)
            return (self._last if self.silence_label == "last" else nobody), mixed
        self._last = label
        return label, mixed


def encode(frame: AudioFrame, form: Form) -> bytes | str:
    """One message of the audio channel, in the given form."""
    if form == "headed":
        return encode_headed_frame(frame)
    if form == "legacy":
        return encode_legacy_frame(frame)
    return encode_frame(frame)


def _frame(key: _Key, samples: Float32, stamp_ms: int) -> AudioFrame:
    pcm = to_pcm16(samples).astype("<i2").tobytes()
    return AudioFrame(key[0], key[1], pcm, timestamp_ms=stamp_ms)
