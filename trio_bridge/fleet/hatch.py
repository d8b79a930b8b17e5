"""A worker's hatch: where the others hand connections over and ask how it is.

It lies in a directory that only this user can enter, so its visitors are believed; they are
held to deadlines and sizes all the same.
"""

from __future__ import annotations

import json
import logging
import socket
import struct

import attrs
import trio

from trio_bridge.edge.passing import HandOverError
from trio_bridge.fleet.handover import (
    ASK,
    FULL,
    PREFIX_BYTES,
    TAKEN,
    YOURS,
    decode_passage,
    decode_prefix,
)
from trio_bridge.fleet.siblings import HAND_OVER_S
from trio_bridge.server import Server

log = logging.getLogger(__name__)

VISITS = 256
"""Visitors at a time; the others wait in the kernel's queue, each with its own deadline."""
ACCEPT_RETRY_S = 0.1
"""Pause after accept() found no free file descriptor."""
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_RIGHTS = struct.Struct("i")


@attrs.frozen(eq=False)
class Hatch:
    """Takes connections for ``server``, and answers for it."""

    server: Server
    _room: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(VISITS), init=False)

    async def serve(self, listener: trio.SocketListener) -> None:
        """Receive visitors until cancelled; closes ``listener``. No visitor makes it raise."""
        async with listener, trio.open_nursery() as visits:
            while True:
                await self._room.acquire()
                try:
                    visit = await listener.accept()
                except OSError as exc:
                    self._room.release()
                    log.warning("hatch cannot accept", extra={"errno": exc.errno})
                    await trio.sleep(ACCEPT_RETRY_S)
                else:
                    visits.start_soon(self._receive, visit)

    async def _receive(self, visit: trio.SocketStream) -> None:
        try:
            with trio.fail_after(HAND_OVER_S):
                await self._serve_visit(visit)
        except (HandOverError, OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            # The visitor knows too, and has told the bot to try again.
            log.info("hand-over not completed", extra={"reason": str(error) or repr(error)})
        except Exception:  # one visit's fault must not end the hatch
            log.exception("hand-over failed")
        finally:
            self._room.release()
            await trio.aclose_forcefully(visit)

    async def _serve_visit(self, visit: trio.SocketStream) -> None:
        prefix = decode_prefix(await _read_exactly(visit, PREFIX_BYTES))
        if prefix.purpose == ASK:
            await visit.send_all(json.dumps(self.server.state()).encode())
            return
        body = await _read_exactly(visit, prefix.head_bytes + prefix.unread_bytes)
        passage = decode_passage(prefix, body)
        edge = self.server.edge
        if not edge.has_room(passage):
            await visit.send_all(FULL)
            return
        await visit.send_all(TAKEN)
        connection = await _receive_connection(visit.socket)
        # No checkpoint since it is ours: whatever happens now, somebody owns it.
        if edge.has_room(passage):
            edge.adopt(trio.SocketStream(trio.socket.from_stdlib_socket(connection)), passage)
        else:  # since a moment ago: as on a port that is over its cap
            connection.close()


async def _receive_connection(visit: trio.socket.SocketType) -> socket.socket:
    """What comes beside the word `YOURS`.

    Raises:
        HandOverError: another word, or nothing beside it.
    """
    word, beside, _, _ = await visit.recvmsg(1, socket.CMSG_SPACE(_RIGHTS.size), _CLOEXEC)
    connections = [
        socket.socket(fileno=descriptor)
        for level, kind, rights in beside
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for (descriptor,) in _RIGHTS.iter_unpack(rights)
    ]
    if word == YOURS and len(connections) == 1:
        connections[0].set_inheritable(False)
        return connections[0]
    for connection in connections:
        connection.close()
    raise HandOverError("the bot left, or the worker it came to had enough")


async def _read_exactly(visit: trio.SocketStream, size: int) -> bytes:
    """Up to ``size`` bytes; fewer at the end of the stream."""
    data = bytearray()
    while len(data) < size and (more := await visit.receive_some(min(size - len(data), 65536))):
        data += more
    return bytes(data)
