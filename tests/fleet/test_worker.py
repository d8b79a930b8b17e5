"""One worker, run in this process: its orders, and the end of its supervisor."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from tests.core.rooms import listener
from tests.edge.peers import CLOSE, Loopback, close_payload, frame
from tests.fleet.bots import Bot, bots_of
from trio_bridge.config import Settings
from trio_bridge.fleet.places import new_memory
from trio_bridge.fleet.post import READY, Post, encode_post
from trio_bridge.fleet.siblings import hatch_path
from trio_bridge.fleet.worker import name_worker_in_logs, open_lifeline, work


@attrs.define(eq=False)
class Working:
    lifeline: socket.socket
    directory: Path


@asynccontextmanager
async def working(tmp_path: Path, drain_s: float = 0.0) -> AsyncIterator[Working]:
    """A worker with one bot; the block must end it."""
    directory = tmp_path / "hatches"
    (directory / "meetings").mkdir(parents=True)
    hatch = socket.socket(socket.AF_UNIX)
    hatch.bind(hatch_path(str(directory), 0))
    hatch.listen()
    port = socket.create_server(("127.0.0.1", 0))
    ours, theirs = socket.socketpair()
    settings = Settings(workers=2, drain_s=drain_s)
    net = Loopback(port.getsockname()[1])
    post = Post(
        slot=0,
        directory=str(directory),
        listeners=(port.detach(),),
        hatch=hatch.detach(),
        memory=new_memory(2),
        settings=settings,
    )
    with ours, trio.fail_after(10):
        ours.sendall(encode_post(post))
        line, got = open_lifeline(str(theirs.detach()))
        assert got == post
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, listener, line, got)
            await trio.lowlevel.wait_readable(ours)
            assert ours.recv(10) == READY
            peer = await Bot(net, bots_of(0, 1)[0]).open("control")
            yield Working(ours, directory)
            assert await peer.close_code() == 1001
            await peer.send(frame(CLOSE, close_payload(1001)))
        await trio.aclose_forcefully(peer.stream)


async def test_an_order_ends_it_and_a_shorter_one_counts(tmp_path: Path) -> None:
    async with working(tmp_path) as worker:
        worker.lifeline.send(b"600.0\n0")
        await trio.testing.wait_all_tasks_blocked()
        worker.lifeline.send(b".0\n")
    assert worker.directory.exists()


async def test_the_end_of_the_supervisor_is_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with working(tmp_path) as worker:
        worker.lifeline.shutdown(socket.SHUT_RDWR)
    assert not worker.directory.exists()
    assert "supervisor is gone: this worker ends" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_of_its_own_ends_it_too(number: signal.Signals, tmp_path: Path) -> None:
    async with working(tmp_path, drain_s=0.05):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)


def test_its_log_lines_say_which_worker_it_is() -> None:
    before = logging.getLogRecordFactory()
    try:
        name_worker_in_logs(3)
        record = logging.getLogger("x").makeRecord("x", 20, "", 0, "event", (), None)
    finally:
        logging.setLogRecordFactory(before)
    assert vars(record)["worker"] == 3
