"""A MeetStream server of a hundred lines, so that the simulator is not tested on the bridge.

It answers a ``usermsg`` in chat and with `answer`, in chunks at absolute times with a lead,
and an ``interrupt`` by falling silent. Runs on TCP and on memory streams.
"""

from __future__ import annotations

import base64
import json
from functools import partial
from typing import cast

import attrs
import numpy as np
import trio
from trio.testing import memory_stream_pair
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from trio_bridge.simulator.wavs import Int16
from trio_bridge.wire.frames import AudioFrame, decode_audio

RATE_HZ = 48_000


def tone(seconds: float, level: float = 0.25) -> Int16:
    """440 Hz as int16."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (np.sin(2 * np.pi * 440 * t) * level * 32767).astype(np.int16)


def voice(seconds: float, level: float = 0.25) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return tone(seconds, level).astype(np.float32) / np.float32(32768)


def sendaudio(bot_id: str, samples: Int16, **changes: object) -> str:
    message: dict[str, object] = {
        "command": "sendaudio",
        "bot_id": bot_id,
        "audiochunk": base64.b64encode(samples.tobytes()).decode(),
        "sample_rate": RATE_HZ,
        "encoding": "pcm16",
        "channels": 1,
        "endianness": "little",
    }
    return json.dumps({**message, **changes})


@attrs.define(eq=False)
class SmallServer:
    """What it saw is in its public lists, what it does in its fields."""

    nursery: trio.Nursery
    answer: Int16 = attrs.field(factory=lambda: tone(2.0))
    chunk_s: float = 0.1
    lead_s: float = 0.3
    pause_after_s: float | None = None
    """Into the answer: send nothing for half a second."""
    greeting: tuple[str, ...] = ()
    """Sent on control after ``ready``."""
    close_control: tuple[int, str] | None = None
    """Close both channels after ``ready``, if set."""
    deaf: bool = False
    """Never answer an ``interrupt``."""
    paths: list[str] = attrs.field(factory=list)
    headers: list[dict[bytes, bytes]] = attrs.field(factory=list)
    hellos: list[dict[str, object]] = attrs.field(factory=list)
    frames: list[AudioFrame] = attrs.field(factory=list)
    frame_times_s: list[float] = attrs.field(factory=list)
    closes: list[int] = attrs.field(factory=list)
    _turn: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def open_stream(self) -> trio.abc.Stream:
        """The bot's end of a connection that needs no socket."""
        ours, theirs = memory_stream_pair()
        self.nursery.start_soon(self.serve, ours)
        return theirs

    async def listen(self) -> str:
        """Serve on loopback; returns the address."""
        listen = partial(trio.serve_tcp, self.serve, 0, host="127.0.0.1")
        listeners = await self.nursery.start(listen)
        return f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}"

    async def serve(self, stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, cast(trio.SocketStream, stream))
            self.paths.append(request.path)
            self.headers.append(dict(request.headers))
            if "/refuse" in request.path:
                await request.reject(401)
                nursery.cancel_scope.cancel()
                return
            socket = await request.accept()
            try:
                await self._channel(socket, nursery, request.path)
            except ConnectionClosed as closed:
                self.closes.append(closed.reason.code if closed.reason else 1006)
            nursery.cancel_scope.cancel()

    async def _channel(
        self, socket: WebSocketConnection, nursery: trio.Nursery, path: str
    ) -> None:
        self.hellos.append(json.loads(await socket.get_message()))
        if self.close_control is not None:
            await socket.aclose(*self.close_control)
            return
        if path.partition("?")[0].endswith("/audio"):
            while True:
                self.frames.append(decode_audio(await socket.get_message()))
                self.frame_times_s.append(trio.current_time())
        bot_id = str(self.hellos[-1]["bot_id"])
        for text in self.greeting:
            await socket.send_message(text.replace("BOT", bot_id))
        while True:
            message = json.loads(await socket.get_message())
            if message["command"] == "usermsg":
                said = json.dumps(
                    {
                        "command": "sendmsg",
                        "bot_id": bot_id,
                        "message": f"you wrote {message['message']}",
                        "msg": f"you wrote {message['message']}",
                    }
                )
                await socket.send_message(said)
                nursery.start_soon(self._speak, socket, bot_id)
            elif message["command"] == "interrupt" and not self.deaf:
                self._turn.cancel()
                stop = {"command": "interrupt", "action": "clear_audio_queue"}
                await socket.send_message(json.dumps({**stop, "bot_id": bot_id}))

    async def _speak(self, socket: WebSocketConnection, bot_id: str) -> None:
        size = round(self.chunk_s * RATE_HZ)
        start_s = trio.current_time() - self.lead_s + self.chunk_s
        with trio.CancelScope() as self._turn:
            for index in range(0, len(self.answer), size):
                await trio.sleep_until(start_s + index / RATE_HZ)
                if self.pause_after_s is not None and index / RATE_HZ >= self.pause_after_s:
                    self.pause_after_s = None
                    start_s += 0.5
                    await trio.sleep_until(start_s + index / RATE_HZ)
                with trio.CancelScope(shield=True):  # a write is not cancelled
                    chunk = self.answer[index : index + size]
                    await socket.send_message(sendaudio(bot_id, chunk))
