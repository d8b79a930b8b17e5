"""From audio messages to the meeting's timeline: decode, leave out our own voice, place.

Sans-I/O; the caller says what time it is. Every sample is accounted for.
"""

from __future__ import annotations

from collections import Counter

import attrs

from trio_bridge.audio.pcm import Samples, from_pcm16, silence
from trio_bridge.audio.resample import Quality, Resampler
from trio_bridge.audio.speakers import LONGEST_TEXT, OwnVoice, Speaker
from trio_bridge.audio.timeline import RATE_HZ, Heard, Timeline
from trio_bridge.wire.frames import AUDIO_TYPE, ODD_BYTE, AudioFrame, FrameError, decode_audio

LONGEST_FRAME_S = 2.0
"""Real frames have 20 to 100 ms; what is longer is no live audio."""
SPEAKERS_REMEMBERED = 256
"""Ids and names are a stranger's: beyond this many the memory begins anew."""
RESAMPLERS_REMEMBERED = 64
"""The same for speakers at another rate than the wire's, whose resamplers have 92 KiB each."""
LONG_NAME = "long name"
"""The flaw of a frame whose speaker's id or name has more than `LONGEST_TEXT` characters: it is
heard, under the beginning."""


@attrs.frozen
class Known:
    """A header of form A, and what it means."""

    header: bytes
    speaker: Speaker
    own: bool


@attrs.define(eq=False)
class Intake:
    """One meeting's audio on its way in.

    Balance, in samples at 48 kHz: ``received == own_left_out + timeline.received``.
    """

    timeline: Timeline
    own_voice: OwnVoice
    silence_own: bool = True
    """Our own voice becomes silence of the same length; otherwise it is left out."""
    channels: int = 1
    quality: Quality = "HQ"
    frames: int = attrs.field(default=0, init=False)
    received: int = attrs.field(default=0, init=False)
    own: int = attrs.field(default=0, init=False)
    """Samples of our own voice."""
    own_left_out: int = attrs.field(default=0, init=False)
    """Those of them that did not even become silence."""
    rejected: Counter[str] = attrs.field(factory=Counter, init=False)
    """Messages that were no frame, by reason."""
    flawed: Counter[str] = attrs.field(factory=Counter, init=False)
    """Frames that had to be mended, by flaw; their audio was heard."""
    rejected_in_a_row: int = attrs.field(default=0, init=False)
    known: Known | None = attrs.field(default=None, init=False)
    """The header of the last good frame of form A."""
    _longest_bytes: int = attrs.field(init=False)
    _speakers: dict[tuple[str, str], Speaker] = attrs.field(factory=dict, init=False)
    _resamplers: dict[tuple[str, int], Resampler] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._longest_bytes = round(LONGEST_FRAME_S * RATE_HZ) * 2 * self.channels

    def take(self, message: bytes | str, now_s: float) -> Heard:
        """Hear one message of the audio channel, in any of the forms it has.

        Raises:
            FrameError: it was no frame; it is counted, and the next good one is heard.
        """
        known = self.known
        if (
            known is not None
            and isinstance(message, bytes)
            and message.startswith(known.header)
        ):
            # A header says its own length, so equal bytes mean equal fields: most frames are
            # the same speaker's as the one before.
            start = len(known.header)
            size = len(message) - start
            if 0 < size <= self._longest_bytes and not size % (2 * self.channels):
                self.rejected_in_a_row = 0
                samples = from_pcm16(message, self.channels, start=start)
                return self._place(known.speaker, known.own, samples, now_s)
        try:
            frame = decode_audio(message)
            if max(len(frame.speaker_id), len(frame.speaker_name)) > LONGEST_TEXT:
                frame = _with_short_names(frame)
            samples = self._samples(frame)
        except FrameError as exc:
            self.rejected[exc.reason] += 1
            self.rejected_in_a_row += 1
            raise
        self.rejected_in_a_row = 0
        self.flawed.update(frame.flaws)
        speaker = self._speaker(frame)
        own = speaker in self.own_voice
        if isinstance(message, bytes) and message[0] == AUDIO_TYPE and not frame.flaws:
            header = message[: len(message) - len(frame.pcm)]
            self.known = Known(header, speaker, own)
        return self._place(speaker, own, samples, now_s)

    def book(self, frames: int, samples: int) -> None:
        """Count ``frames`` good ones that were heard elsewhere, ``samples`` in all."""
        self.frames += frames
        self.received += samples
        self.rejected_in_a_row = 0

    def _place(self, speaker: Speaker, own: bool, samples: Samples, now_s: float) -> Heard:
        self.frames += 1
        self.received += len(samples)
        if not len(samples):  # a piece that costs nothing would fit any lane, for ever
            return Heard([], [])
        if not own:
            return self.timeline.add(speaker, samples, now_s)
        self.own += len(samples)
        if self.silence_own and not self.timeline.separate:
            return self.timeline.add(None, silence(len(samples)), now_s)
        self.own_left_out += len(samples)
        return Heard([], [])

    def _samples(self, frame: AudioFrame) -> Samples:
        channels = self.channels if frame.channels == 1 else frame.channels
        spare = len(frame.pcm) % (2 * channels)
        pcm = frame.pcm[: len(frame.pcm) - spare]
        if len(pcm) > LONGEST_FRAME_S * frame.rate_hz * channels * 2:
            raise FrameError("longer than 2 s", 0)
        if spare and ODD_BYTE not in frame.flaws:
            self.flawed[ODD_BYTE] += 1
        samples = from_pcm16(pcm, channels)
        if frame.rate_hz == RATE_HZ:
            return samples
        key = (Speaker.called(frame.speaker_id, frame.speaker_name).key, frame.rate_hz)
        resampler = self._resamplers.get(key)
        if resampler is None:
            if len(self._resamplers) >= RESAMPLERS_REMEMBERED:
                self._resamplers.clear()
            resampler = Resampler(frame.rate_hz, RATE_HZ, self.quality)
            self._resamplers[key] = resampler
        return resampler.process(samples)

    def _speaker(self, frame: AudioFrame) -> Speaker:
        key = (frame.speaker_id, frame.speaker_name)
        speaker = self._speakers.get(key)
        if speaker is None:
            if len(self._speakers) >= SPEAKERS_REMEMBERED:
                self._speakers.clear()
            speaker = self._speakers[key] = Speaker(*key)
        return speaker


def _with_short_names(frame: AudioFrame) -> AudioFrame:
    return attrs.evolve(
        frame,
        speaker_id=frame.speaker_id[:LONGEST_TEXT],
        speaker_name=frame.speaker_name[:LONGEST_TEXT],
        flaws=(*frame.flaws, LONG_NAME),
    )
