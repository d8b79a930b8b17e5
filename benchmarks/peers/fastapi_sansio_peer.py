"""FastAPI + uvicorn + uvloop, with uvicorn's sans-I/O ``websockets`` implementation."""

from __future__ import annotations

import socket
import ssl

from benchmarks.peers import fastapi_peer
from benchmarks.peers.work import PeerBridge


def serve(
    bridge: PeerBridge,
    listener: socket.socket,
    tls: ssl.SSLContext | None,
    cert: str | None,
    key: str | None,
) -> None:
    """Serve until the process is told to end."""
    fastapi_peer.serve(bridge, listener, tls, cert, key, "websockets-sansio")
