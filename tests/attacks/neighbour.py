"""The live meeting beside the attacks: a well-behaved bot that counts what it sends."""

from __future__ import annotations

import json
import math
import struct

import attrs
import numpy as np
import trio

from tests.attacks.client import plain
from tests.edge.peers import BINARY, CLOSE, PING, PONG, TEXT, Peer, close_payload, frame, head
from trio_bridge.wire.control import encode_user_message
from trio_bridge.wire.hello import encode_hello

RATE_HZ, FRAME_SAMPLES = 48_000, 960
FRAME_S = FRAME_SAMPLES / RATE_HZ
TALK_S, PAUSE_S = 0.6, 2.4
"""A sentence, then room for the echo of it: 0.6 s that end the utterance, 0.6 s of speech."""
ANSWER_S = 5.0
"""In which a question in the chat must be answered; on a quiet machine it takes 2 ms."""
BOT_ID = "neighbour"


def _frame(samples: np.ndarray[tuple[int], np.dtype[np.float64]]) -> bytes:
    name = b"Alice"
    header = struct.pack("<BH", 1, len(name)) + name + struct.pack("<H", len(name)) + name
    return plain(BINARY, header + (samples * 32_767).astype("<i2").tobytes())


def _frames() -> list[bytes]:
    """One sentence and one pause."""
    time_s = np.arange(round((TALK_S + PAUSE_S) * RATE_HZ)) / RATE_HZ
    sound = np.where(time_s < TALK_S, 0.3 * np.sin(2 * np.pi * 300 * time_s), 0.0)
    return [_frame(sound[n : n + FRAME_SAMPLES]) for n in range(0, len(sound), FRAME_SAMPLES)]


@attrs.define(eq=False)
class Neighbour:
    """One bot with both channels."""

    control: Peer
    audio: Peer
    sent_frames: int = 0
    late_s: float = 0.0
    """How far we fell behind real time ourselves, at most: the machine's fault."""
    asked: int = 0
    answered: int = 0
    spoken: int = 0
    """Messages of speech that came back."""
    slowest_answer_s: float = 0.0
    _over: trio.Event = attrs.field(factory=trio.Event, init=False)
    """`live` has ended, so nobody is in the midst of sending."""
    _answers: trio.MemorySendChannel[str] = attrs.field(init=False)
    _answers_in: trio.MemoryReceiveChannel[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._answers, self._answers_in = trio.open_memory_channel[str](math.inf)

    async def live(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Stream, talk, and answer pings, until cancelled.

        Raises:
            AssertionError: a question was not answered, or a channel was closed.
        """
        await self._introduce(self.control, b"/bridge")
        await self._introduce(self.audio, b"/bridge/audio")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stream)
                nursery.start_soon(self._read, self.control)
                nursery.start_soon(self._read, self.audio)
                nursery.start_soon(self._ask)
                task_status.started()
        finally:
            self._over.set()

    async def leave(self) -> None:
        """Close both channels as a bot does that is done, once `live` has been cancelled."""
        await self._over.wait()
        for peer in (self.audio, self.control):
            await peer.send(frame(CLOSE, close_payload(1000)))
            assert await peer.close_code() == 1000
            await peer.stream.aclose()

    async def _introduce(self, peer: Peer, target: bytes) -> None:
        await peer.upgrade(head(target=target))
        await peer.send(frame(TEXT, encode_hello(BOT_ID).encode()))
        opcode, payload = await peer.read()
        assert opcode == TEXT
        assert b'"ack"' in payload

    async def _stream(self) -> None:
        frames = _frames()
        next_s = trio.current_time()
        while True:
            # Shielded: a frame that is half out would be our own mistake.
            with trio.CancelScope(shield=True):
                await self.audio.send(frames[self.sent_frames % len(frames)])
                self.sent_frames += 1
            now_s = trio.current_time()
            self.late_s = max(self.late_s, now_s - next_s)
            # Never catching up: a burst could cost frames, by no fault of the bridge.
            next_s = max(next_s + FRAME_S, now_s)
            await trio.sleep_until(next_s)

    async def _read(self, peer: Peer) -> None:
        while True:
            opcode, payload = await peer.read()
            assert opcode != CLOSE, f"our channel was closed: {payload!r}"
            if opcode == PING:
                with trio.CancelScope(shield=True):
                    await peer.send(frame(PONG, payload))
            elif opcode == TEXT:
                self._hear(json.loads(payload))

    def _hear(self, command: dict[str, str]) -> None:
        if command["command"] == "sendaudio":
            self.spoken += 1
        elif command["command"] == "sendmsg":
            self._answers.send_nowait(command["message"])

    async def _ask(self) -> None:
        while True:
            question = f"are you there? {self.asked}"
            self.asked += 1
            began_s = trio.current_time()
            with trio.CancelScope(shield=True):
                await self.control.send(
                    frame(TEXT, encode_user_message(question).encode()),
                )
            with trio.move_on_after(ANSWER_S) as waiting:
                while await self._answers_in.receive() != question:
                    pass
            assert not waiting.cancelled_caught, "the agent does not answer any more"
            self.answered += 1
            waited_s = trio.current_time() - began_s
            self.slowest_answer_s = max(self.slowest_answer_s, waited_s)
            await trio.sleep(0.25)
