"""``websockets`` + uvloop."""

from __future__ import annotations

import asyncio
import socket
import ssl

import uvloop
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as websockets_serve

from benchmarks.peers.work import PeerBridge


def serve(
    bridge: PeerBridge,
    listener: socket.socket,
    tls: ssl.SSLContext | None,
    cert: str | None,
    key: str | None,
) -> None:
    """Serve until the process is told to end."""
    uvloop.run(_serve(bridge, listener, tls))


async def _serve(
    bridge: PeerBridge, listener: socket.socket, tls: ssl.SSLContext | None
) -> None:
    async def connection(ws: ServerConnection) -> None:
        assert ws.request is not None
        is_audio = ws.request.path == "/bridge/audio"
        hello = await ws.recv(decode=True)
        meeting, ack = bridge.join(hello, "audio" if is_audio else "control")
        await ws.send(ack)
        try:
            if not is_audio:
                meeting.speak_through(ws.send)
            async for message in ws:
                if is_audio:
                    meeting.hear(message)
        finally:
            bridge.leave(meeting)

    async with websockets_serve(connection, sock=listener, ssl=tls, compression=None):
        await asyncio.get_running_loop().create_future()
