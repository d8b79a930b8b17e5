"""What every peer does with a meeting: the same steps as trio_bridge, on asyncio."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.signals import AGENT_RATE_HZ, WIRE_RATE_HZ, new_resampler, tone
from benchmarks.stamps import Stamps, cut_ms, index_of, is_spoken_to

OWN_NAMES = frozenset({"meetstream agent", "meeting assistant"})
"""Speakers that are ourselves: trio_bridge's defaults, exact and case-folded as there."""
QUEUED_CHUNKS = 20
"""400 ms of 20 ms frames, as trio_bridge keeps; then the oldest is dropped there and here."""
CHUNK_S = 0.1
"""Speech in one ``sendaudio``."""
TO_FLOAT = np.float32(1 / 32_768)

Channel = Literal["audio", "control"]
SendText = Callable[[str], Awaitable[Any]]


class PeerMeeting:
    """One bot: its resampler, its queue, its consumer."""

    def __init__(self, bot_id: str, stamps: Stamps) -> None:
        self.bot_id = bot_id
        self.channels = 0
        self._index = index_of(bot_id)
        self._stamps = stamps
        self._resampler = new_resampler(WIRE_RATE_HZ, AGENT_RATE_HZ)
        self._queue: asyncio.Queue[Any] = asyncio.Queue(QUEUED_CHUNKS)
        self._tasks = [asyncio.create_task(self._consume())]
        self._chunk = AGENT_RATE_HZ * cut_ms() // 1000
        self._rest = np.zeros(0, np.float32)

    def hear(self, message: bytes | str) -> None:
        """One message of the audio channel: binary frame or legacy JSON."""
        if isinstance(message, str):
            fields = json.loads(message)
            name = fields["speakerName"]
            pcm = base64.b64decode(fields["audioData"])
        else:
            _, id_size = struct.unpack_from("<BH", message)
            (name_size,) = struct.unpack_from("<H", message, 3 + id_size)
            end = 5 + id_size + name_size
            _speaker_id = message[3 : 3 + id_size].decode()
            name = message[5 + id_size : end].decode()
            pcm = message[end:]
        if name.casefold() in OWN_NAMES:
            return
        samples = np.frombuffer(pcm, "<i2").astype(np.float32)
        samples *= TO_FLOAT
        ready = self._resampler.resample_chunk(samples)
        if not len(ready):
            return
        if not self._chunk:
            self._put(ready)
            return
        data = np.concatenate((self._rest, ready)) if len(self._rest) else ready
        whole = len(data) - len(data) % self._chunk
        for at in range(0, whole, self._chunk):
            self._put(data[at : at + self._chunk])
        self._rest = data[whole:]

    def _put(self, chunk: npt.NDArray[np.float32]) -> None:
        if self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(chunk)

    def speak_through(self, send: SendText) -> None:
        """The control channel is there; a bot that is spoken to gets its tone from now on."""
        if is_spoken_to(self._index):
            self._tasks.append(asyncio.create_task(self._talk(send)))

    def end(self) -> None:
        """Both channels are gone."""
        for task in self._tasks:
            task.cancel()

    async def _consume(self) -> None:
        samples = 0
        while True:
            chunk = await self._queue.get()
            samples += len(chunk)
            self._stamps.note(self._index, samples)

    async def _talk(self, send: SendText) -> None:
        loop = asyncio.get_running_loop()
        resampler = new_resampler(AGENT_RATE_HZ, WIRE_RATE_HZ)
        speech = tone(round(AGENT_RATE_HZ * CHUNK_S))
        due_s = loop.time()
        while True:
            samples = resampler.resample_chunk(speech) * np.float32(32_768)
            np.clip(np.rint(samples), -32_768, 32_767, out=samples)
            pcm = samples.astype("<i2").tobytes()
            if pcm:
                await send(
                    json.dumps(
                        {
                            "command": "sendaudio",
                            "bot_id": self.bot_id,
                            "audiochunk": base64.b64encode(pcm).decode("ascii"),
                            "sample_rate": WIRE_RATE_HZ,
                            "encoding": "pcm16",
                            "channels": 1,
                            "endianness": "little",
                        }
                    )
                )
            due_s += CHUNK_S
            await asyncio.sleep(due_s - loop.time())


class PeerBridge:
    """bot_id -> meeting, for both channels."""

    def __init__(self, stamps: Stamps) -> None:
        self._stamps = stamps
        self._meetings: dict[str, PeerMeeting] = {}

    def join(self, hello: str, channel: Channel) -> tuple[PeerMeeting, str]:
        """The meeting that a ready message belongs to, and the acknowledgement to send."""
        fields = json.loads(hello)
        if fields["type"] != "ready":
            raise ValueError("not a ready message")
        bot_id = fields["bot_id"]
        meeting = self._meetings.get(bot_id)
        if meeting is None:
            meeting = self._meetings[bot_id] = PeerMeeting(bot_id, self._stamps)
        meeting.channels += 1
        text = f"{channel.capitalize()} channel bound to {bot_id}"
        return meeting, json.dumps({"type": "ack", "message": text})

    def leave(self, meeting: PeerMeeting) -> None:
        """One channel of ``meeting`` has closed."""
        meeting.channels -= 1
        if not meeting.channels:
            meeting.end()
            self._meetings.pop(meeting.bot_id, None)
