"""The attackers' sockets: raw TCP from any loopback address, with faults of real networks."""

from __future__ import annotations

import ctypes
import json
import socket
import struct
from functools import lru_cache

import trio

from tests.edge.peers import BINARY, CLOSE, TEXT, Peer, close_payload, frame, head
from trio_bridge.wire.hello import encode_hello

SO_ATTACH_FILTER = 26
"""Linux, <asm-generic/socket.h>; Python does not name it."""
RETURN_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)
"""One instruction of classic BPF: of any packet keep 0 bytes."""
READ_S = 8.0
"""Nothing that is waited for takes longer, unless the bridge is at fault."""


async def dial(port: int, source: str = "127.0.0.1", *, receive_bytes: int = 0) -> Peer:
    """Connect from the loopback address ``source``.

    Raises:
        OSError: refused.
    """
    sock = trio.socket.socket()
    try:
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await sock.bind((source, 0))
        await sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return Peer(trio.SocketStream(sock))


async def _let_in(peer: Peer) -> None:
    status, _, _ = await peer.answer()
    if status != 101:
        raise EOFError(f"refused with {status}")
    opcode, payload = await peer.read()
    if opcode != TEXT or b"ack" not in payload:
        raise EOFError(f"no acknowledgement: {payload!r}")


def target(kind: str) -> bytes:
    """The path of a channel."""
    return b"/bridge/audio" if kind == "audio" else b"/bridge"


def introduction(kind: str, bot_id: str) -> bytes:
    """All that a bot says before it may speak."""
    return head(target=target(kind)) + frame(TEXT, encode_hello(bot_id).encode())


async def join(
    port: int, kind: str, bot_id: str, source: str = "127.0.0.1", *, receive_bytes: int = 0
) -> Peer:
    """Open a channel and wait until the bridge has acknowledged it.

    Raises:
        EOFError, trio.BrokenResourceError, OSError: it was not let in.
        trio.TooSlowError: no answer.
    """
    with trio.fail_after(READ_S):
        peer = await dial(port, source, receive_bytes=receive_bytes)
        try:
            await peer.send(introduction(kind, bot_id))
            await _let_in(peer)
        except BaseException:
            await trio.aclose_forcefully(peer.stream)
            raise
    return peer


@lru_cache
def sound(frames: int) -> bytes:
    """So many WebSocket frames of 20 ms of faint noise."""
    pcm = b"\x01\x00\xff\xff" * 480
    return frame(BINARY, b"\x01\x02\x00u1\x05\x00Alice" + pcm) * frames


def user_message(text: str) -> bytes:
    """What somebody in the meeting types to the bot."""
    return frame(TEXT, json.dumps({"command": "usermsg", "message": text}).encode())


def interruption() -> bytes:
    """The meeting's interrupt."""
    return frame(TEXT, b'{"command":"interrupt"}')


async def answered(peer: Peer, text: str, answer: str | None = None) -> None:
    """Type ``text`` and wait until the agent chats ``answer`` (None: the same).

    Raises:
        EOFError, trio.BrokenResourceError: the socket ended.
        trio.TooSlowError: no answer.
    """
    await peer.send(user_message(text))
    with trio.fail_after(READ_S):
        while True:
            opcode, payload = await peer.read()
            if opcode == CLOSE:
                raise EOFError(f"closed: {payload!r}")
            if opcode == TEXT:
                fields = json.loads(payload)
                wanted = text if answer is None else answer
                if fields.get("command") == "sendmsg" and fields["message"] == wanted:
                    return


async def leave(peer: Peer, code: int = 1000) -> int:
    """Say Close, wait for the answer and for the end; the answer's code."""
    await peer.send(frame(CLOSE, close_payload(code)))
    with trio.fail_after(READ_S):
        said = await peer.close_code()
    await trio.aclose_forcefully(peer.stream)
    return said


def reset(peer: Peer) -> None:
    """End the connection with RST: what the other end has not read is lost."""
    sock = socket_of(peer)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def go_deaf(peer: Peer) -> None:
    """From now on every packet to this socket is dropped before TCP sees it.

    Nothing is acknowledged, answered or reset: to the other end the machine is gone. As a
    network that drops packets, but it needs no namespace and no rights. Linux only.
    """
    program = ctypes.create_string_buffer(RETURN_NOTHING)
    filters = struct.pack("HP", 1, ctypes.addressof(program))
    socket_of(peer).setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filters)


def socket_of(peer: Peer) -> trio.socket.SocketType:
    """The socket of `dial`."""
    assert isinstance(peer.stream, trio.SocketStream)
    return peer.stream.socket


async def cut(*peers: Peer) -> None:
    """Close the connections as a process that ends does."""
    for peer in peers:
        await trio.aclose_forcefully(peer.stream)
