"""A meeting to test agents in: the real `Meeting`, with a recording bot at the other end."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import attrs
import numpy as np
import trio
from trio.testing import wait_all_tasks_blocked

from trio_bridge.audio.pcm import Samples, from_pcm16
from trio_bridge.audio.speakers import Speaker
from trio_bridge.ears import Audience
from trio_bridge.meeting import Meeting, UserMessage, Utterance
from trio_bridge.pacing import Playout
from trio_bridge.pump import Pump

ALICE, BRUNO = Speaker("p1", "Alice"), Speaker("p2", "Bruno")


def tone(seconds: float, rate_hz: int = 16_000) -> Samples:
    """Speech, as far as anybody who does not recognise words can tell."""
    at = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * 440 * at)).astype(np.float32)


@attrs.define(eq=False)
class Room:
    """What the people do and what they get. `bot` is the control socket's other end."""

    meeting: Meeting
    audience: Audience
    pump: Pump
    commands: list[dict[str, Any]] = attrs.field(factory=list)

    async def send(self, text: str) -> None:
        """The bot receives a command: `TextSink`."""
        await trio.lowlevel.checkpoint()
        self.commands.append(json.loads(text))

    @property
    def chats(self) -> list[str]:
        return [c["message"] for c in self.commands if c["command"] == "sendmsg"]

    @property
    def captions(self) -> list[tuple[str, str, bool]]:
        return [
            (c["role"], c["text"], c["is_final"])
            for c in self.commands
            if c["command"] == "sendchat"
        ]

    @property
    def played(self) -> Samples:
        """All speech that was sent, float32 ``(n,)`` at 48 kHz."""
        pieces = [
            from_pcm16(base64.b64decode(c["audiochunk"]))
            for c in self.commands
            if c["command"] == "sendaudio"
        ]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)

    @property
    def played_s(self) -> float:
        return len(self.played) / 48_000

    def says(self, speaker: Speaker | None, samples: Samples, rate_hz: int = 16_000) -> None:
        """Somebody's utterance just ended."""
        self.audience.note(Utterance(speaker, samples, rate_hz, 0.0))

    def writes(self, text: str, speaker: Speaker | None = None) -> None:
        self.audience.note(UserMessage(text, speaker))

    def leave(self) -> None:
        """Everybody leaves: the meeting is over."""
        self.audience.close()


@asynccontextmanager
async def open_room(
    agent: Callable[[Meeting], Coroutine[Any, Any, None]], *, bot: bool = True
) -> AsyncIterator[Room]:
    """Run ``agent`` in a meeting until the block ends; then it has to end by itself."""
    audience = Audience(48_000)
    pump = Pump("bot-1", Playout(chunk_s=0.1, lead_s=0.3), 48_000)
    room = Room(Meeting("bot-1", audience, pump), audience, pump)
    if bot:
        pump.attach(room)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.run)
        done = trio.Event()

        async def run() -> None:
            await agent(room.meeting)
            done.set()

        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        yield room
        room.leave()
        await done.wait()
        pump.stop()
