"""The agents of the bridge under attack: a bot's id says how its agent behaves.

``bench-N`` are the neighbours and the disturbed: they are listened to and talked to in turns.
``probe`` counts what is alive in the server's process. Every other name is a fault.
"""

from __future__ import annotations

import gc
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import numpy as np
import trio

from benchmarks.signals import AGENT_RATE_HZ, tone
from benchmarks.stamps import BOT_PREFIX, index_of
from tests.chaos.marks import (
    BOTS_VARIABLE,
    FILE_VARIABLE,
    FRAME_SAMPLES,
    MarkReader,
    Notes,
    open_waited,
    read_waited_ns,
)
from trio_bridge.meeting import AudioChunk, Meeting, UserMessage

SPEECH_S = 5
PAUSE_S = 3.0
"""Longer than any silence that still counts as a gap within an answer."""
BLOCK_S = 0.25
"""Less than the playback lead of 0.3 s and the audio backlog of 0.4 s, which are there for
this; the watchdog's 0.2 s are less."""
STUBBORN_S = 1.5
"""What an agent that swallows its cancellation goes on for; `--teardown-s` is less."""
STEP_S = 86_400.0
"""A clock that was wrong by a day."""

_notes: list[tuple[Notes, int]] = []  # one for all meetings


async def attend(meeting: Meeting) -> None:
    """Behave as the bot's id asks for."""
    kind = meeting.bot_id.partition("-")[0]
    if meeting.bot_id.startswith(BOT_PREFIX):
        await converse(meeting)
    else:
        await KINDS.get(kind, listen)(meeting)


async def converse(meeting: Meeting) -> None:
    """Speak for `SPEECH_S`, be quiet for `PAUSE_S`; note which frames were heard, and when."""
    bot = index_of(meeting.bot_id)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_talk, meeting, (bot * 0.37) % (SPEECH_S + PAUSE_S))
        if bot < int(os.environ[BOTS_VARIABLE]):
            await _note_frames(meeting, bot)
        else:
            async for _ in meeting.audio(rate_hz=AGENT_RATE_HZ, chunk_ms=20):
                pass
        nursery.cancel_scope.cancel()


async def _note_frames(meeting: Meeting, bot: int) -> None:
    (notes, waited), marks, expected = _open_notes(), MarkReader(), 0
    async for chunk in meeting.audio(rate_hz=48_000, chunk_ms=20):
        for number in marks.read(chunk.samples):
            notes.note(bot, number, time.monotonic_ns(), read_waited_ns(waited))
            if number != expected:
                meeting.log("frame lost", expected=expected, came=number)
            expected = number + 1


def _open_notes() -> tuple[Notes, int]:
    if not _notes:
        path = Path(os.environ[FILE_VARIABLE])
        _notes.append((Notes(path, int(os.environ[BOTS_VARIABLE])), open_waited(0)))
    return _notes[0]


async def _talk(meeting: Meeting, first_s: float, *, speech_s: int = SPEECH_S) -> None:
    speech = tone(AGENT_RATE_HZ * speech_s).reshape(-1, AGENT_RATE_HZ // 10)
    await trio.sleep(first_s)  # not all in step
    while True:
        async with meeting.turn() as turn:
            for piece in speech:  # as a model would bring it
                await turn.say(piece, rate_hz=AGENT_RATE_HZ)
        await trio.sleep(PAUSE_S)


async def count(meeting: Meeting) -> None:
    """Answer each message with what is alive in this process."""
    _open_notes()  # two descriptors, which are no leak of the first neighbour's
    async for event in meeting.events():
        if isinstance(event, UserMessage):
            if event.text == "collect":
                gc.collect()
            counts = {
                "tasks": trio.lowlevel.current_statistics().tasks_living,
                "threads": threading.active_count(),
                "objects": len(gc.get_objects()) if event.text == "collect" else 0,
            }
            await meeting.chat(json.dumps(counts))


async def listen(meeting: Meeting) -> None:
    """Answer ``heard N`` once N frames without a silent sample were heard, and any other
    message with itself."""
    heard, wanted = 0, 0
    async for event in meeting.events(rate_hz=48_000, chunk_ms=20):
        match event:
            case AudioChunk(samples=samples):
                heard += int(np.count_nonzero(samples))  # no silence that filled a gap
            case UserMessage(text=text) if text.startswith("heard "):
                wanted = int(text.removeprefix("heard ")) * FRAME_SAMPLES
            case UserMessage(text=text):
                await meeting.chat(text)
        if wanted and heard >= wanted:
            wanted = 0
            await meeting.chat("heard")


async def be_slow(meeting: Meeting) -> None:
    """Take ten times as long over the audio as it lasts."""
    async for _ in meeting.audio(chunk_ms=20):
        await trio.sleep(0.2)


async def start_late(meeting: Meeting) -> None:
    """Load a model, say, before listening."""
    await trio.sleep(0.3)
    await listen(meeting)


async def fail(meeting: Meeting) -> None:
    """Raise at the first message."""
    async for event in meeting.events():
        match event:
            case UserMessage():
                raise RuntimeError("injected")


async def refuse_to_stop(meeting: Meeting) -> None:
    """Go on for `STUBBORN_S` after the cancellation."""
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(STUBBORN_S)


async def block(meeting: Meeting) -> None:
    """Hold the whole loop for `BLOCK_S` at each message."""
    async for event in meeting.events():
        if isinstance(event, UserMessage):
            time.sleep(BLOCK_S)  # noqa: ASYNC251  # the fault itself
            await meeting.chat("blocked")


async def chatter(meeting: Meeting) -> None:
    """Chat and talk as fast as it is let."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_talk_on, meeting)
        async for _ in meeting.audio():
            await meeting.chat("x" * 4_000)
        nursery.cancel_scope.cancel()


async def orate(meeting: Meeting) -> None:
    """Talk without a pause, and anew after each interrupt."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_talk_on, meeting)
        await listen(meeting)
        nursery.cancel_scope.cancel()


async def _talk_on(meeting: Meeting) -> None:
    speech = tone(AGENT_RATE_HZ // 10)
    while True:
        async with meeting.turn() as turn:
            while True:
                await turn.say(speech, rate_hz=AGENT_RATE_HZ)


async def step_clock(meeting: Meeting) -> None:
    """Put this process's wall clock off by the days that a message says; back at the end."""
    real = time.time
    try:
        async for event in meeting.events():
            if isinstance(event, UserMessage):
                off_s = float(event.text) * STEP_S
                time.time = partial(_add, real, off_s)
                await meeting.chat("stepped")
    finally:
        time.time = real


def _add(clock: Callable[[], float], off_s: float) -> float:
    return clock() + off_s


KINDS: dict[str, Callable[[Meeting], Awaitable[None]]] = {
    "probe": count,
    "slow": be_slow,
    "late": start_late,
    "raise": fail,
    "stubborn": refuse_to_stop,
    "block": block,
    "chatter": chatter,
    "storm": orate,
    "clock": step_clock,
}
