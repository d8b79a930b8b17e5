"""A bot on real sockets that writes its own bytes, so that it decides what one packet holds."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import attrs
import trio

from tests.edge.peers import CLOSE, TEXT, Loopback, Peer, close_payload, frame, head
from trio_bridge.fleet.places import home_of
from trio_bridge.wire.frames import AudioFrame, encode_frame
from trio_bridge.wire.hello import encode_hello

FRAME_SAMPLES = 960
BINARY = 2


def bots_of(slot: int, count: int, workers: int = 2) -> list[str]:
    """The first ``count`` ids whose worker is the one in ``slot``."""
    ids = (f"bot-{n}" for n in range(10_000))
    return list(islice((bot for bot in ids if home_of(bot, workers) == slot), count))


def sound(frames: int) -> bytes:
    """So many WebSocket frames of 20 ms of faint noise."""
    pcm = (b"\x01\x00\xff\xff" * FRAME_SAMPLES)[: 2 * FRAME_SAMPLES]
    return frame(BINARY, encode_frame(AudioFrame("u1", "Alice", pcm))) * frames


@attrs.define(eq=False)
class Bot:
    """One bot, whose two channels are opened by hand."""

    net: Loopback
    """The server's port; it hangs up in the end."""
    bot_id: str
    in_path: bool = False
    """Its id is in the path, as live bots were seen to put it."""
    token: str = ""

    async def open(self, kind: str, behind: bytes = b"") -> Peer:
        """Connect, say everything up to and with ``behind`` at once, and wait for the ack."""
        channel = "/bridge/audio" if kind == "audio" else "/bridge"
        peer = await self.knock(channel, behind)
        status, _, _ = await peer.answer()
        assert status == 101, status
        ack = await next_message(peer)
        assert "ack" in (ack.get("command"), ack.get("type"))
        return peer

    async def knock(self, channel: str = "/bridge", behind: bytes = b"") -> Peer:
        """Connect and say all that, and wait for nothing."""
        target = f"/{self.bot_id}" if self.in_path else ""
        target += f"/t/{self.token}" if self.token else ""
        peer = await self.net.dial()
        hello = frame(TEXT, encode_hello(self.bot_id).encode())
        await peer.send(head(target=(target + channel).encode()), hello, behind)
        return peer


async def next_message(peer: Peer) -> dict[str, Any]:
    opcode, payload = await peer.read()
    assert opcode == TEXT, (opcode, payload)
    message: dict[str, Any] = json.loads(payload)
    return message


async def chat(peer: Peer, text: str) -> str:
    """Type ``text`` and return what the echo agent writes back."""
    await peer.send(frame(TEXT, json.dumps({"command": "usermsg", "message": text}).encode()))
    while (message := await next_message(peer))["command"] != "sendmsg":
        pass
    return str(message["message"])


async def leave(peer: Peer) -> None:
    """Close with 1000 and wait for the server's Close and the end."""
    await peer.send(frame(CLOSE, close_payload(1000)))
    assert await peer.close_code() == 1000
    await trio.aclose_forcefully(peer.stream)
