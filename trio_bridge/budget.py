"""What one meeting can make us hold, at worst: every queue, its bound, its policy, its counter.

Bytes for a hostile bot and an agent that floods, with the default settings; `queues` computes
them for any. A meeting of people needs 190 KiB. What an agent keeps itself is not in it.

    queue                      MiB  when it is full                counted in
    ear, mix                   6.4  oldest dropped                 Ear.dropped_samples, ledger
    ear's notes                5.0  oldest dropped                 notes_dropped
    ear's utterance            1.8  given out as it is             -
    ear's labels               5.0  oldest forgotten               -
    timeline, held             2.9  placed                         ledger: waiting
    timeline, voices          23.8  mixed without the latest       ledger: waiting
    speakers                   0.6  forgotten and learnt again     -
    resamplers                 5.8  forgotten and begun again      -
    commands                   5.0  the agent waits                Pump.waits
    speech                     1.3  the agent waits                Pump.waits
    message ids                0.6  oldest forgotten               Inbox.forgotten
    audio socket               1.0  Close 1009; 4 MB/s, delayed    edge counts
    control socket             4.0  Close 1009; 4 MB/s, delayed    edge counts

An ear by speaker has four times the audio, and an utterance for each of 64 voices. A meeting
has at most 32 ears; one is what agents open. Beside the meetings, the registry remembers 1024
bots whose agents failed (0.6 MiB). All of it is 63.2 MiB.
"""

from __future__ import annotations

import attrs

from trio_bridge.audio.hearing import LABELS_KEPT
from trio_bridge.audio.layout import FRAMES_FOR_ONE
from trio_bridge.audio.mixing import LONGEST_LEAD_S, MANY_VOICES
from trio_bridge.audio.speakers import LONGEST_TEXT
from trio_bridge.audio.timeline import LONGEST_FILL_S
from trio_bridge.audio.vad import VadSettings
from trio_bridge.config import Settings
from trio_bridge.ears import NOTES_COST, SHORTEST_PIECE
from trio_bridge.inbox import MESSAGE_ID_CHARACTERS, MESSAGE_IDS
from trio_bridge.intake import (
    LONGEST_FRAME_S,
    RESAMPLERS_REMEMBERED,
    SPEAKERS_REMEMBERED,
)
from trio_bridge.pacing import RATE_HZ
from trio_bridge.pacing import SAMPLE_BYTES as SPEECH_BYTES

SAMPLE_BYTES = 4
CHARACTER_BYTES = 4
"""The widest of Python's texts."""
OBJECT_BYTES = 256
"""Whatever is in a queue, beside its contents: the object, its place, its numbers (measured:
118 to 206)."""
NAMED_BYTES = OBJECT_BYTES + 2 * LONGEST_TEXT * CHARACTER_BYTES
"""The same with a speaker of its own."""
RESAMPLER_BYTES = 92 << 10
EAR_RATE_HZ = 16_000
"""The default; another rate is another utterance."""
LONGEST_COMMAND_BYTES = 1 << 20
COPIES = 4
"""Of a message on its way in: what came, what is cut, what trio-websocket joins, the text."""


@attrs.frozen
class Queue:
    """One line of the table above."""

    name: str
    most_bytes: int


def queues(settings: Settings) -> tuple[Queue, ...]:
    """Every queue of one meeting, with one ear for the mix."""
    second = RATE_HZ * SAMPLE_BYTES
    backlog = settings.audio_backlog_ms * RATE_HZ // 1000
    pieces = backlog // SHORTEST_PIECE * NAMED_BYTES
    audio = max(backlog * SAMPLE_BYTES, round(LONGEST_FILL_S * second))  # one piece, alone
    utterance_s = VadSettings().longest_s
    frame = round(LONGEST_FRAME_S * second)
    chunks = settings.speech_backlog_ms // settings.chunk_ms + 2  # one begun, one put back
    speech = chunks * (settings.chunk_ms * RATE_HZ // 1000 * SPEECH_BYTES + OBJECT_BYTES)
    return (
        Queue("ear, mix", audio + pieces),
        Queue("ear's notes", NOTES_COST * (CHARACTER_BYTES + 1)),
        Queue("ear's utterance", round(utterance_s * EAR_RATE_HZ * SAMPLE_BYTES)),
        Queue("ear's labels", LABELS_KEPT * (NAMED_BYTES + OBJECT_BYTES)),
        Queue("timeline, held", FRAMES_FOR_ONE * frame),
        Queue("timeline, voices", (MANY_VOICES + 1) * round(LONGEST_LEAD_S * second)),
        Queue("speakers", SPEAKERS_REMEMBERED * (NAMED_BYTES + OBJECT_BYTES)),
        Queue("resamplers", RESAMPLERS_REMEMBERED * RESAMPLER_BYTES),
        Queue("commands", (settings.command_backlog_kib << 10) + LONGEST_COMMAND_BYTES),
        Queue("speech", speech + 6 * second),
        Queue(
            "message ids",
            MESSAGE_IDS * (OBJECT_BYTES + MESSAGE_ID_CHARACTERS * CHARACTER_BYTES),
        ),
        Queue("audio socket", COPIES * settings.audio_message_bytes * settings.channels),
        Queue("control socket", COPIES * settings.control_message_bytes),
    )


def most_bytes(settings: Settings) -> int:
    """What one meeting can make us hold."""
    return sum(queue.most_bytes for queue in queues(settings))
