"""One process of a fleet: a whole server, started and ended by its supervisor."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator

import trio

from trio_bridge.errors import SettingsError
from trio_bridge.fleet.hatch import Hatch
from trio_bridge.fleet.places import Places
from trio_bridge.fleet.post import LIFELINE_VARIABLE, READY, Post, read_post
from trio_bridge.fleet.siblings import Siblings
from trio_bridge.meeting import Agent
from trio_bridge.server import Server

log = logging.getLogger(__name__)

MAX_ORDER_BYTES = 64


def open_lifeline(descriptor: str) -> tuple[socket.socket, Post]:
    """The lifeline that the environment names, and what came through it.

    Raises:
        SettingsError: it is none.
    """
    try:
        lifeline = _inherited(int(descriptor))
    except (ValueError, OSError) as exc:
        raise SettingsError(
            f"{LIFELINE_VARIABLE} is for workers that --workers starts; unset it"
        ) from exc
    return lifeline, read_post(lifeline)


def name_worker_in_logs(slot: int) -> None:
    """Give every log record of this process a field ``worker``."""
    make = logging.getLogRecordFactory()

    def make_ours(*args: object, **kwargs: object) -> logging.LogRecord:
        record: logging.LogRecord = make(*args, **kwargs)
        record.worker = slot
        return record

    logging.setLogRecordFactory(make_ours)


async def work(agent: Agent, lifeline: socket.socket, post: Post) -> None:
    """Serve in ``post``'s slot until the supervisor says so, or is gone.

    SIGTERM alone drains as well, and then the supervisor starts another; the supervisor's own
    orders do not come as signals, so that one sent to the whole group counts once.
    """
    places = Places(post.directory, post.settings.workers, post.memory)
    os.close(post.memory)
    siblings = Siblings(post.slot, post.settings.workers, post.directory, places)
    server = Server(agent, post.settings, siblings)
    hatch = Hatch(server)
    listeners = [_listener(descriptor) for descriptor in post.listeners]
    lifeline.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(lifeline))
    receiver = trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with contextlib.closing(places), receiver as signals:
        async with stream, trio.open_nursery() as nursery:
            await nursery.start(server.run, listeners)
            nursery.start_soon(hatch.serve, _listener(post.hatch))
            nursery.start_soon(_obey_signals, signals, server)
            nursery.start_soon(_obey_orders, stream, server, post.directory)
            await server.stopped.wait()
            nursery.cancel_scope.cancel()


async def _obey_signals(signals: AsyncIterator[int], server: Server) -> None:
    async for number in signals:
        if number == signal.SIGHUP:  # somebody told all processes to reload: that ends nobody
            continue
        server.stop(server.settings.drain_s if number == signal.SIGTERM else 0.0)


async def _obey_orders(stream: trio.SocketStream, server: Server, directory: str) -> None:
    """Each order is a line: the seconds that the meetings have. Its end is the supervisor's."""
    orders = b""
    try:
        await stream.send_all(READY)
        while data := await stream.receive_some(MAX_ORDER_BYTES):
            *lines, orders = (orders + data).split(b"\n")
            for line in lines:
                server.stop(float(line))
    except trio.BrokenResourceError:
        pass
    log.error("supervisor is gone: this worker ends")
    shutil.rmtree(directory, ignore_errors=True)  # nobody else is left to do it
    server.stop()


def _listener(descriptor: int) -> trio.SocketListener:
    return trio.SocketListener(trio.socket.from_stdlib_socket(_inherited(descriptor)))


def _inherited(descriptor: int) -> socket.socket:
    inherited = socket.socket(fileno=descriptor)
    inherited.setblocking(False)
    inherited.set_inheritable(False)  # an agent's child processes have no business with it
    return inherited
