"""aiohttp + uvloop."""

from __future__ import annotations

import asyncio
import socket
import ssl

import uvloop
from aiohttp import WSMsgType, web

from benchmarks.peers.work import Channel, PeerBridge


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
    async def connection(request: web.Request, channel: Channel) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        meeting, ack = bridge.join(await ws.receive_str(), channel)
        await ws.send_str(ack)
        try:
            if channel == "control":
                meeting.speak_through(ws.send_str)
            async for message in ws:
                if channel == "audio" and message.type in (WSMsgType.BINARY, WSMsgType.TEXT):
                    meeting.hear(message.data)
        finally:
            bridge.leave(meeting)
        return ws

    async def control(request: web.Request) -> web.WebSocketResponse:
        return await connection(request, "control")

    async def audio(request: web.Request) -> web.WebSocketResponse:
        return await connection(request, "audio")

    app = web.Application()
    app.router.add_get("/bridge", control)
    app.router.add_get("/bridge/audio", audio)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener, ssl_context=tls).start()
    await asyncio.get_running_loop().create_future()
