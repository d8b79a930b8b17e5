"""FastAPI + uvicorn + uvloop, with uvicorn's ``websockets`` implementation."""

from __future__ import annotations

import socket
import ssl

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from benchmarks.peers.work import Channel, PeerBridge


def serve(
    bridge: PeerBridge,
    listener: socket.socket,
    tls: ssl.SSLContext | None,
    cert: str | None,
    key: str | None,
    implementation: str = "websockets",
) -> None:
    """Serve until the process is told to end."""
    app = FastAPI()

    @app.websocket("/bridge")
    async def control(ws: WebSocket) -> None:
        await _serve(bridge, ws, "control")

    @app.websocket("/bridge/audio")
    async def audio(ws: WebSocket) -> None:
        await _serve(bridge, ws, "audio")

    config = uvicorn.Config(
        app,
        loop="uvloop",
        ws=implementation,
        ws_per_message_deflate=False,
        log_level="error",
        access_log=False,
        ssl_certfile=cert,
        ssl_keyfile=key,
    )
    uvicorn.Server(config).run(sockets=[listener])


async def _serve(bridge: PeerBridge, ws: WebSocket, channel: Channel) -> None:
    await ws.accept()
    meeting, ack = bridge.join(await ws.receive_text(), channel)
    await ws.send_text(ack)
    try:
        if channel == "control":
            meeting.speak_through(ws.send_text)
        while True:
            message = await ws.receive()
            if message["type"] == "websocket.disconnect":
                break
            if channel == "audio":
                data = message.get("bytes")
                meeting.hear(message["text"] if data is None else data)
    except WebSocketDisconnect:
        pass  # the benchmark has left
    finally:
        bridge.leave(meeting)
