"""A certificate that is renewed while bots are connected, and a signal that ends nothing."""

from __future__ import annotations

import json
import logging
import os
import signal
import ssl
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trustme
from trio.testing import MockClock

from tests.core.rooms import listener
from tests.core.test_command_line import Running, ask, clean_environment, running
from tests.edge.peers import TEXT, Peer, frame
from tests.fleet.processes import fleet_of
from trio_bridge import tls
from trio_bridge.address import Address
from trio_bridge.agents import find_agent
from trio_bridge.config import Settings
from trio_bridge.server import Server
from trio_bridge.wire.hello import encode_hello

DEADLINE_S = 20.0
KEPT = "certificate not renewed: the old one stays"
CHAT = b'{"command": "usermsg", "message": "still here?"}'


@attrs.frozen
class Files:
    """Where the server looks for its pair; each pair is signed by an authority of its own."""

    directory: Path

    @property
    def cert(self) -> Path:
        return self.directory / "cert.pem"

    @property
    def key(self) -> Path:
        return self.directory / "key.pem"

    def put(self) -> ssl.SSLContext:
        """Put a new pair there; returns a client that trusts nothing else."""
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA)
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(client)
        return client


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@asynccontextmanager
async def serving(files: Files) -> AsyncIterator[tuple[Server, int]]:
    settings = Settings(  # no watchdog: what it logs depends on the machine
        port=0, tls_cert=str(files.cert), tls_key=str(files.key), watchdog_ms=0
    )
    server = Server(find_agent("echo").agent, settings)
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            address: Address = await nursery.start(server.run)
            yield server, address.port
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(port: int, client: ssl.SSLContext) -> AsyncIterator[Peer]:
    """A peer over TLS, whose handshake is done."""
    stream = await trio.open_ssl_over_tcp_stream(
        "127.0.0.1", port, ssl_context=client, https_compatible=True
    )
    try:
        await stream.do_handshake()
        yield Peer(stream)
    finally:
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def in_a_meeting(port: int, client: ssl.SSLContext) -> AsyncIterator[Peer]:
    async with connected(port, client) as control:
        await control.upgrade()
        await control.send(frame(TEXT, encode_hello("bot-1").encode()))
        assert (await control.read())[0] == TEXT
        yield control


async def chat(control: Peer) -> None:
    """Ask the echo, and be answered: reading, meeting, agent and writing all work."""
    await control.send(frame(TEXT, CHAT))
    while b"still here?" not in (await control.read())[1]:
        pass


async def trusts(port: int, client: ssl.SSLContext) -> bool:
    try:
        async with connected(port, client):
            return True
    except trio.BrokenResourceError:
        return False


async def test_a_renewed_pair_is_for_new_connections_and_the_old_ones_go_on(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    old = files.put()
    async with (
        serving(files) as (server, port),
        in_a_meeting(port, old) as control,
        connected(port, old) as idle,
    ):
        new = files.put()
        assert (await trusts(port, old), await trusts(port, new)) == (True, False)
        await server.reload()
        assert (await trusts(port, old), await trusts(port, new)) == (False, True)
        await chat(control)
        await idle.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await idle.answer())[0] == 200
        async with in_a_meeting(port, new) as again:
            await chat(again)
        assert server.served == 1
    assert [r.getMessage() for r in caplog.records].count("certificate renewed") == 1


def cut_short(files: Files) -> None:
    """A copy that is under way."""
    files.put()
    files.cert.write_bytes(files.cert.read_bytes()[:300])


def half_of_it(files: Files) -> None:
    """A certificate that is there before its key."""
    key = files.key.read_bytes()
    files.put()
    files.key.write_bytes(key)


def gone(files: Files) -> None:
    files.key.unlink()


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (cut_short, "is damaged; copy it again"),
        (half_of_it, "give the two made for each other"),
        (gone, "No such file or directory; give a PEM file"),
    ],
)
async def test_a_bad_pair_keeps_the_old_one_and_is_one_line_that_names_the_mend(
    files: Files,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Files], None],
    part: str,
) -> None:
    old = files.put()
    async with serving(files) as (server, port):
        async with in_a_meeting(port, old) as control:
            spoil(files)
            await server.reload()
            (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
            assert (record.levelname, record.getMessage()) == ("ERROR", KEPT)
            (line,) = vars(record)["reason"].splitlines()
            assert str(files.directory) in line
            assert part in line
            assert record.exc_info is None
            await chat(control)
            async with in_a_meeting(port, old) as again:
                await chat(again)
        mended = files.put()
        await server.reload()
        assert (await trusts(port, old), await trusts(port, mended)) == (False, True)


async def test_files_that_cannot_be_read_in_time_keep_the_old_pair(
    files: Files, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """As a pipe that nobody writes, or a file on a server that is gone."""
    files.put()
    settings = Settings(port=0, tls_cert=str(files.cert), tls_key=str(files.key))
    server = Server(listener, settings)
    context = server.edge.tls
    files.cert.unlink()
    os.mkfifo(files.cert)
    await server.reload()
    assert trio.current_time() == tls.RELOAD_S
    assert server.edge.tls is context
    (record,) = caplog.records
    assert record.getMessage() == KEPT
    assert "within 10 s; give files, no pipes" in vars(record)["reason"]
    os.close(os.open(files.cert, os.O_WRONLY))  # let the thread go


# -- versions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "spoken"),
    [("TLSv1", False), ("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)],
)
async def test_versions_below_1_2_are_refused_though_both_sides_could(
    files: Files, version: str, spoken: bool
) -> None:
    """The first time as it is; the second time with our minimum taken away, to see that the
    client and this build of OpenSSL would have spoken it."""
    client = files.put()
    async with serving(files) as (server, port):
        assert server.edge.tls is not None
        for context in (client, server.edge.tls):
            context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            client.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            client.maximum_version = ssl.TLSVersion[version]
            assert await trusts(port, client) is spoken
            server.edge.tls.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            assert await trusts(port, client)


# -- the signal ------------------------------------------------------------------------------


@asynccontextmanager
async def running_with(files: Files) -> AsyncIterator[Running]:
    arguments = ["--port", "0", "--agent", "echo", "--tls-cert", str(files.cert)]
    with trio.fail_after(DEADLINE_S):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "trio_bridge", *arguments, "--tls-key", str(files.key)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(),
        )
        bridge = Running(process)
        try:
            bridge.port = int((await bridge.read_first_line()).rpartition(":")[2])
            yield bridge
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                for pipe in (process.stdout, process.stderr):
                    assert pipe is not None
                    await pipe.aclose()


async def test_sighup_renews_the_certificate_of_a_process_and_loses_nobody(
    files: Files,
) -> None:
    old = files.put()
    async with running_with(files) as bridge:
        async with in_a_meeting(bridge.port, old) as control:
            new = files.put()
            bridge.process.send_signal(signal.SIGHUP)
            await bridge.reads_errors_until('"certificate renewed"')
            assert await trusts(bridge.port, new)
            assert not await trusts(bridge.port, old)
            gone(files)
            bridge.process.send_signal(signal.SIGHUP)
            seen = await bridge.reads_errors_until(f'"{KEPT}"')
            await chat(control)
            async with in_a_meeting(bridge.port, new) as again:
                await chat(again)
        bridge.process.send_signal(signal.SIGTERM)
        status, errors = await bridge.ends()
    assert status == 0
    lines = [json.loads(line) for line in (seen + errors).splitlines() if KEPT in line]
    assert [line["level"] for line in lines] == ["ERROR"]
    assert "Traceback" not in seen + errors


async def test_sighup_without_tls_ends_nothing() -> None:
    async with running() as bridge:
        bridge.process.send_signal(signal.SIGHUP)
        await bridge.reads_errors_until('"nothing to reload"')
        assert (await ask(bridge.port, "/health")).status == 200
        bridge.process.send_signal(signal.SIGTERM)
        assert (await bridge.ends())[0] == 0


async def test_sighup_to_every_process_of_a_fleet_ends_none_of_them() -> None:
    async with fleet_of(2) as fleet:
        for pid in (fleet.running.process.pid, *fleet.pids):
            os.kill(pid, signal.SIGHUP)
        await fleet.logs("nothing to reload")
        health = await fleet.health()
        fleet.running.process.send_signal(signal.SIGTERM)
        assert await fleet.ends() == 0, fleet.log
    assert health["status"] == "ok"
    assert not fleet.events("worker ended")
