"""A whole bridge on the virtual clock: the real server and the real edge on memory streams."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs
import numpy as np
import trio
from trio.testing import memory_stream_pair
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)

from trio_bridge.audio.pcm import Samples, to_pcm16
from trio_bridge.config import Settings
from trio_bridge.meeting import Agent, Meeting
from trio_bridge.server import Server
from trio_bridge.session import Session
from trio_bridge.wire.frames import AudioFrame, encode_frame
from trio_bridge.wire.hello import encode_hello

RATE_HZ = 48_000
BOT = "bot-1"


class Door(trio.abc.Listener[trio.SocketStream]):
    """A listener whose connections never leave this process."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](math.inf)

    async def accept(self) -> trio.SocketStream:
        # The edge takes any stream; only the type of `Listener` asks for a socket's.
        return cast(trio.SocketStream, await self._receive.receive())

    async def aclose(self) -> None:
        self._receive.close()
        await trio.lowlevel.checkpoint()

    async def open_stream(self) -> trio.abc.Stream:
        ours, theirs = memory_stream_pair()
        await self._send.send(theirs)
        return ours


@attrs.define(eq=False)
class Channel:
    """One WebSocket of a bot, from the bot's side."""

    ws: WebSocketConnection
    stream: trio.abc.Stream

    async def send(self, message: str | bytes | dict[str, Any]) -> None:
        if isinstance(message, dict):
            message = json.dumps(message)
        await self.ws.send_message(message)

    async def hear(self, speaker: str, samples: Samples, *, frame_ms: int = 20) -> None:
        """Send ``samples`` as frames in real time; ``speaker`` is both id and name."""
        length = RATE_HZ * frame_ms // 1000
        start_s = trio.current_time()
        for n in range(0, len(samples), length):
            pcm = to_pcm16(samples[n : n + length])
            await trio.sleep_until(start_s + n / RATE_HZ)
            await self.send(encode_frame(AudioFrame(speaker, speaker, pcm)))

    async def command(self) -> dict[str, Any]:
        """The next command, of any kind."""
        command: dict[str, Any] = json.loads(await self.ws.get_message())
        return command

    async def next(self, name: str) -> dict[str, Any]:
        """The next command called ``name``; others are passed over."""
        while (command := await self.command())["command"] != name:
            pass
        return command

    async def closed(self) -> tuple[int, str]:
        """Wait for the server's Close; its code and reason."""
        try:
            while True:
                await self.ws.get_message()
        except ConnectionClosed as end:
            reason = end.reason
            return (1006, "") if reason is None else (reason.code, reason.reason or "")

    async def leave(self) -> None:
        """Close with 1000, as a bot does that is done."""
        await self.ws.aclose(1000)

    async def vanish(self) -> None:
        """End without a word."""
        await trio.aclose_forcefully(self.stream)


@attrs.define(eq=False)
class Room:
    """A running bridge and the way in."""

    server: Server
    door: Door
    nursery: trio.Nursery

    @property
    def session(self) -> Session:
        (session,) = self.server.registry
        return session

    async def connect(self, path: str) -> Channel:
        stream = await self.door.open_stream()
        ws = await wrap_client_stream(
            self.nursery, cast(trio.SocketStream, stream), "bridge", path
        )
        return Channel(ws, stream)

    async def refusal(self, path: str) -> int:
        """The HTTP status with which an upgrade to ``path`` is refused."""
        status: list[int] = []

        def note(group: BaseExceptionGroup[ConnectionRejected]) -> None:
            leaf: BaseException = group
            while isinstance(leaf, BaseExceptionGroup):
                leaf = leaf.exceptions[0]
            assert isinstance(leaf, ConnectionRejected)
            status.append(leaf.status_code)

        stream = cast(trio.SocketStream, await self.door.open_stream())
        try:
            async with trio.open_nursery() as nursery:
                await wrap_client_stream(nursery, stream, "bridge", path)
        except* ConnectionRejected as group:
            note(group)
        await trio.aclose_forcefully(stream)
        return status[0]

    async def join(self, path: str, bot_id: str = BOT) -> Channel:
        """Connect and introduce ourselves."""
        channel = await self.connect(path)
        await channel.send(encode_hello(bot_id))
        return channel

    async def control(self, bot_id: str = BOT) -> Channel:
        channel = await self.join("/bridge", bot_id)
        assert (await channel.command())["command"] == "ack"
        return channel

    async def audio(self, bot_id: str = BOT) -> Channel:
        channel = await self.join("/bridge/audio", bot_id)
        assert json.loads(await channel.ws.get_message())["type"] == "ack"
        return channel


@asynccontextmanager
async def bridge(
    agent: Agent, *, wall_clock: Callable[[], float] = time.time, **settings: Any
) -> AsyncIterator[Room]:
    """A bridge with ``agent``; at the end it stops, and nothing of it may be left.

    Without a watchdog unless asked for: that is a thread that looks at the real time, so what
    it logs would depend on the machine.
    """
    door = Door()
    server = Server(agent, Settings(**{"watchdog_ms": 0, **settings}), wall_clock=wall_clock)
    async with trio.open_nursery() as peers:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run, [door])
            yield Room(server, door, peers)
            nursery.cancel_scope.cancel()
        assert server.registry.running == 0
        assert not server.edge.sockets
        peers.cancel_scope.cancel()


async def listener(meeting: Meeting) -> None:
    """An agent that hears everything and says nothing."""
    async for _ in meeting.events(chunk_ms=20):
        pass


def tone(seconds: float, level: float = 0.3, tone_hz: float = 300.0) -> Samples:
    """A sine at 48 kHz."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (level * np.sin(2 * np.pi * tone_hz * time_s)).astype(np.float32)


def quiet(seconds: float) -> Samples:
    """Silence at 48 kHz."""
    return np.zeros(round(seconds * RATE_HZ), np.float32)
