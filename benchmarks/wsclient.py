"""A bot's WebSocket, as thin as it gets: raw sockets, frames masked before the clock runs.

Not a general client: it believes what the servers under test send it.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable

import numpy as np

CONTINUE_S = 10.0
"""How long a server may take over a handshake, before the clock runs."""
BACKLOG = 2_000
"""Messages that may wait for a server that does not read; then the run is given up."""
READ_BYTES = 1 << 16

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


class LinkError(Exception):
    """The server closed, refused or stopped reading. The measurement is void."""


def masked(opcode: int, payload: bytes) -> bytes:
    """A whole client frame, ready for the wire, with a mask of its own."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    key = os.urandom(4)
    mask = np.frombuffer(key * (size // 4 + 1), np.uint8)[:size]
    return head + key + (np.frombuffer(payload, np.uint8) ^ mask).tobytes()


class Link:
    """One open socket. `send` and `drain` never block once it is open."""

    def __init__(
        self,
        port: int,
        path: str,
        hello: str,
        tls: ssl.SSLContext | None,
        on_message: Callable[[bytes], None] | None = None,
    ) -> None:
        plain = socket.create_connection(("127.0.0.1", port), CONTINUE_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = plain if tls is None else tls.wrap_socket(plain)
        self.spoken = 0
        """``sendaudio`` messages that have come in."""
        self.on_message = on_message
        """Called by `drain`, and here for what comes with the acknowledgement, with the payload
        of each whole message."""
        self._sending = True
        self._buffer = bytearray()
        self._backlog: deque[bytes] = deque()
        self._messages = 0
        self._upgrade(path, port)
        self.socket.sendall(masked(TEXT, hello.encode()))
        while not self._messages:  # every server acknowledges, so it has joined its meeting
            self._take(self.socket.recv(READ_BYTES))
        self.socket.setblocking(False)

    def send(self, frame: bytes) -> None:
        """Send ``frame``, or queue it behind what the kernel would not take yet.

        Raises:
            LinkError: the server is gone or has not read for too long.
        """
        self._backlog.append(frame)
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the kernel takes it. Raises as `send` does."""
        backlog = self._backlog
        try:
            while backlog:
                sent = self.socket.send(backlog[0])
                if sent == len(backlog[0]):
                    backlog.popleft()
                else:
                    backlog[0] = backlog[0][sent:]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            if len(backlog) > BACKLOG:
                raise LinkError("the server does not read") from None
        except OSError as exc:
            raise LinkError(f"the server is gone: {exc}") from exc

    def drain(self) -> None:
        """Read what has come and answer pings. Raises as `send` does."""
        try:
            self._take(self.socket.recv(READ_BYTES))
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as exc:
            raise LinkError(f"the server is gone: {exc}") from exc

    @property
    def waiting(self) -> int:
        """Messages that the kernel would not take yet."""
        return len(self._backlog)

    def say_close(self, code: int) -> None:
        """Send a Close frame behind what waits; the server is to answer. Raises as `send`."""
        self.send(masked(CLOSE, struct.pack("!H", code)))

    def end_sending(self) -> None:
        """Vanish without a Close frame, but go on reading: the kernel sends its FIN.

        Raises:
            LinkError: the server is gone.
        """
        self._sending = False
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise LinkError(f"the server is gone: {exc}") from exc

    def leave(self) -> None:
        """Say goodbye (Close 1000) as far as that works, and close."""
        with contextlib.suppress(OSError):  # measured already; it may think what it likes
            self.socket.send(masked(CLOSE, struct.pack("!H", 1000)))
        self.socket.close()

    def _upgrade(self, path: str, port: int) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            data = self.socket.recv(READ_BYTES)
            if not data:
                raise LinkError("closed during the handshake")
            self._buffer += data
        if not self._buffer.startswith(b"HTTP/1.1 101"):
            raise LinkError(self._buffer[:80].decode(errors="replace"))
        del self._buffer[: end + 4]
        self._take(b"\0"[:0], first=True)

    def _take(self, data: bytes, first: bool = False) -> None:
        if not data and not first:
            raise LinkError("the server closed")
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 2:
            size, at = buffer[1] & 0x7F, 2
            if size == 126:
                size, at = int.from_bytes(buffer[2:4]), 4
            elif size == 127:
                size, at = int.from_bytes(buffer[2:10]), 10
            if len(buffer) < at + size:
                return
            opcode = buffer[0] & 0x0F
            if opcode == CLOSE:
                raise LinkError(f"the server closed: {bytes(buffer[at : at + size])!r}")
            if opcode == PING:
                if self._sending:  # else nobody is left to send it
                    self.send(masked(PONG, bytes(buffer[at : at + size])))
            else:
                self._messages += 1
                self.spoken += b'"sendaudio"' in buffer[at : at + 32]
                if self.on_message is not None:
                    self.on_message(bytes(buffer[at : at + size]))
            del buffer[: at + size]
