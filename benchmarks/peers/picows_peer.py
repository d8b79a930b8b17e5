"""picows + uvloop: callbacks in place of a read loop."""

from __future__ import annotations

import asyncio
import socket
import ssl

import uvloop
from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_create_server,
)

from benchmarks.peers.work import Channel, PeerBridge, PeerMeeting


class Connection(WSListener):
    """One socket; its first message says whose it is."""

    def __init__(self, bridge: PeerBridge, channel: Channel) -> None:
        self._bridge = bridge
        self._channel = channel
        self._meeting: PeerMeeting | None = None

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.BINARY:
            if self._meeting is not None and self._channel == "audio":
                self._meeting.hear(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.TEXT:
            self._on_text(transport, frame.get_payload_as_utf8_text())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close()
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self._meeting is not None:
            self._bridge.leave(self._meeting)

    def _on_text(self, transport: WSTransport, text: str) -> None:
        if self._meeting is not None:
            if self._channel == "audio":
                self._meeting.hear(text)
            return
        self._meeting, ack = self._bridge.join(text, self._channel)
        transport.send(WSMsgType.TEXT, ack.encode())
        if self._channel == "control":

            async def send(message: str) -> None:
                transport.send(WSMsgType.TEXT, message.encode())

            self._meeting.speak_through(send)


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
    def connection(request: WSUpgradeRequest) -> WSListener:
        return Connection(bridge, "audio" if request.path == b"/bridge/audio" else "control")

    server = await ws_create_server(connection, sock=listener, ssl=tls)
    async with server:
        await asyncio.get_running_loop().create_future()
