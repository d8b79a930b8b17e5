"""TLS at our own port: certificates made here, real sockets, and peers that do not speak it."""

from __future__ import annotations

import base64
import json
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import pytest
import trio
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from trio.testing import MockClock
from trio_websocket import open_websocket_url

from tests.core.rooms import RATE_HZ, bridge, listener, tone
from tests.core.test_command_line import Running, clean_environment, only_line, run_to_the_end
from trio_bridge.address import Address
from trio_bridge.audio.pcm import Samples, to_pcm16
from trio_bridge.config import Settings
from trio_bridge.errors import SettingsError
from trio_bridge.meeting import Meeting
from trio_bridge.server import Server
from trio_bridge.tls import server_context
from trio_bridge.wire.frames import AudioFrame, encode_frame
from trio_bridge.wire.hello import encode_hello

DEADLINE_S = 10.0
"""A hang fails the test; all of it takes milliseconds."""
HEAD_S = 10.0
"""The edge's deadline for TLS handshake and request head together."""
HEARD_S = 0.2


@attrs.frozen
class Pair:
    """A certificate and its key in files, and a client's view of who signed it."""

    cert: str
    key: str
    client: ssl.SSLContext

    def settings(self) -> Settings:
        return Settings(port=0, layout="mixed", tls_cert=self.cert, tls_key=self.key)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    cert, key = directory / "cert.pem", directory / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return Pair(str(cert), str(key), client)


async def parrot(meeting: Meeting) -> None:
    """Say the first `HEARD_S` of the meeting back to it, and then listen."""
    heard = 0
    async with meeting.turn() as turn:
        async for chunk in meeting.audio(rate_hz=RATE_HZ, chunk_ms=20):
            await turn.say(chunk.samples, rate_hz=RATE_HZ)
            heard += len(chunk.samples)
            if heard >= HEARD_S * RATE_HZ:
                break
        await turn.finish()
    await listener(meeting)


@asynccontextmanager
async def serving(pair: Pair) -> AsyncIterator[Address]:
    server = Server(parrot, pair.settings())
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            address: Address = await nursery.start(server.run)
            yield address
            nursery.cancel_scope.cancel()


async def speak_and_be_answered(address: Address, pair: Pair, samples: Samples) -> bytes:
    """A bot with both channels; the PCM that the bridge says."""
    url = address.url.replace("http", "ws")
    said = b""
    async with (
        open_websocket_url(f"{url}/bridge", pair.client) as control,
        open_websocket_url(f"{url}/bridge/audio", pair.client) as audio,
    ):
        for channel in (control, audio):
            await channel.send_message(encode_hello("b"))
            assert "bound to b" in json.loads(await channel.get_message())["message"]
        for at in range(0, len(samples), RATE_HZ // 50):
            pcm = to_pcm16(samples[at : at + RATE_HZ // 50])
            await audio.send_message(encode_frame(AudioFrame("s", "Ada", pcm)))
        while len(said) < 2 * len(samples):
            command = json.loads(await control.get_message())
            assert command["command"] == "sendaudio"
            said += base64.b64decode(command["audiochunk"])
    return said


# -- a bot, and those who are none -----------------------------------------------------------


async def test_a_bot_speaks_and_is_answered_over_tls(pair: Pair) -> None:
    samples = tone(HEARD_S)
    async with serving(pair) as address:
        assert address.url == f"https://127.0.0.1:{address.port}"
        assert await speak_and_be_answered(address, pair, samples) == to_pcm16(samples)


async def test_plain_text_on_the_tls_port_harms_nobody(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(pair) as address:
        for said in (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 100, b"\x16\x03\x01"):
            stream = await trio.open_tcp_stream("127.0.0.1", address.port)
            async with stream:
                await stream.send_all(said)
                await stream.send_eof()
                answer = b""
                with suppress(trio.BrokenResourceError):  # its rest is not read: a reset
                    answer = b"".join([data async for data in stream])
            assert b"HTTP" not in answer
        samples = tone(HEARD_S)
        assert await speak_and_be_answered(address, pair, samples) == to_pcm16(samples)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_client_that_trusts_somebody_else_harms_nobody(pair: Pair) -> None:
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trustme.CA().configure_trust(stranger)
    async with serving(pair) as address:
        stream = await trio.open_ssl_over_tcp_stream(
            "127.0.0.1", address.port, ssl_context=stranger, https_compatible=True
        )
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        await trio.aclose_forcefully(stream)
        assert await ask_health(address, pair) == 200


async def ask_health(address: Address, pair: Pair) -> int:
    async with await trio.open_ssl_over_tcp_stream(
        "127.0.0.1", address.port, ssl_context=pair.client, https_compatible=True
    ) as stream:
        await stream.send_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}\n"):
            data = await stream.receive_some()
            assert data, answer
            answer += data
    return int(answer.split(b" ")[1])


async def test_health_is_answered_over_tls_and_http2_is_not_offered(pair: Pair) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=pem_of_authority(pair))
    client.set_alpn_protocols(["h2", "http/1.1"])
    async with serving(pair) as address:
        async with await trio.open_ssl_over_tcp_stream(
            "127.0.0.1", address.port, ssl_context=client, https_compatible=True
        ) as stream:
            await stream.do_handshake()
            assert stream.selected_alpn_protocol() == "http/1.1"
        assert await ask_health(address, pair) == 200


def pem_of_authority(pair: Pair) -> str:
    (der,) = pair.client.get_ca_certs(binary_form=True)
    return ssl.DER_cert_to_PEM_cert(der)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
async def test_a_handshake_that_stalls_ends_at_the_deadline_of_the_head(
    pair: Pair, autojump_clock: MockClock, share: float
) -> None:
    """Also one that was never begun, and one of which the client never reads the answer."""
    outgoing = ssl.MemoryBIO()
    half_way = pair.client.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        half_way.do_handshake()
    hello = outgoing.read()
    async with bridge(listener, tls_cert=pair.cert, tls_key=pair.key) as room:
        stream = await room.door.open_stream()
        if share:
            await stream.send_all(hello[: round(len(hello) * share)])
        begun_s = trio.current_time()
        while await stream.receive_some():
            pass
        assert trio.current_time() - begun_s == HEAD_S
        assert room.server.edge.counts["head timeout"] == 1
        assert room.server.edge.pending == 0


# -- a process -------------------------------------------------------------------------------


async def test_the_first_line_of_a_process_with_tls_says_https(pair: Pair) -> None:
    command = [sys.executable, "-m", "trio_bridge", "--port", "0", "--agent", "echo"]
    with trio.fail_after(2 * DEADLINE_S):
        process = await trio.lowlevel.open_process(
            [*command, "--tls-cert", pair.cert],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(TRIO_BRIDGE_TLS_KEY=pair.key),
        )
        running = Running(process)
        try:
            line = await running.read_first_line()
            start, _, port = line.rpartition(":")
            assert start == "trio_bridge listening on https://127.0.0.1"
            assert await ask_health(Address("127.0.0.1", int(port), tls=True), pair) == 200
            process.send_signal(signal.SIGTERM)
            status, errors = await running.ends()
        finally:
            if process.returncode is None:
                process.kill()
            for pipe in (process.stdout, process.stderr):
                assert pipe is not None
                await trio.aclose_forcefully(pipe)
    assert status == 0, errors
    assert "Traceback" not in errors


async def test_a_process_with_a_key_that_is_not_there_says_so_in_one_line(pair: Pair) -> None:
    arguments = ["--port", "0", "--agent", "echo", "--tls-cert", pair.cert]
    line = only_line(await run_to_the_end(*arguments, "--tls-key", "no-such-key.pem"))
    assert "--tls-key no-such-key.pem: No such file or directory; give" in line


# -- the two files ---------------------------------------------------------------------------


def refusal(cert: str, key: str) -> str:
    """The text of the `SettingsError`, which is always one line."""
    with pytest.raises(SettingsError) as caught:
        server_context(cert, key)
    (line,) = str(caught.value).splitlines()
    return line


def test_no_files_are_no_tls() -> None:
    assert server_context(None, None) is None


def test_old_versions_of_tls_are_not_spoken(pair: Pair) -> None:
    context = server_context(pair.cert, pair.key)
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_one_file_may_hold_both(pair: Pair, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(Path(pair.key).read_bytes() + Path(pair.cert).read_bytes())
    assert server_context(str(both), str(both)) is not None


def test_a_file_that_cannot_be_read_is_named(pair: Pair, tmp_path: Path) -> None:
    gone, directory = str(tmp_path / "gone.pem"), str(tmp_path)
    for cert, key, flag, bad, why in (
        (gone, pair.key, "--tls-cert", gone, "No such file or directory"),
        (pair.cert, gone, "--tls-key", gone, "No such file or directory"),
        (directory, pair.key, "--tls-cert", directory, "Is a directory"),
        (pair.cert, "a\0b", "--tls-key", "a\0b", "embedded null byte"),
    ):
        expected = f"{flag} {bad}: {why}; give a PEM file that this user may read"
        assert refusal(cert, key) == expected


def test_the_two_files_swapped_are_told_apart(pair: Pair) -> None:
    assert refusal(pair.key, pair.cert).startswith(
        f"--tls-cert {pair.key}: holds no certificate in PEM form"
    )
    assert refusal(pair.cert, pair.cert).startswith(
        f"--tls-key {pair.cert}: holds no private key in PEM form"
    )


@pytest.mark.parametrize("kind", list(trustme.KeyType))
def test_the_key_of_another_certificate_is_refused(
    pair: Pair, tmp_path: Path, kind: trustme.KeyType
) -> None:
    other = tmp_path / "other.pem"
    issued = trustme.CA().issue_cert("127.0.0.1", key_type=kind)
    other.write_bytes(issued.private_key_pem.bytes())
    assert f"--tls-key {other}: is not the key of {pair.cert}" in refusal(pair.cert, str(other))


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(
    pair: Pair, tmp_path: Path, form: PrivateFormat
) -> None:
    key = load_pem_private_key(Path(pair.key).read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"x")))
    line = refusal(pair.cert, str(locked))
    assert line.startswith(f"--tls-key {locked}: is locked with a passphrase")
    assert f"openssl pkey -in {locked}" in line


def test_a_damaged_file_is_named(pair: Pair, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pem"
    damaged.write_bytes(Path(pair.cert).read_bytes()[:200])
    assert refusal(str(damaged), pair.key) == f"--tls-cert {damaged}: is damaged; copy it again"
    damaged.write_bytes(Path(pair.key).read_bytes()[:100])
    assert refusal(pair.cert, str(damaged)) == f"--tls-key {damaged}: is damaged; copy it again"


def test_a_certificate_that_openssl_finds_too_weak_is_named(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_weak(*_: object) -> None:  # what is too weak differs between builds of OpenSSL
        error = ssl.SSLError(1, "[SSL: EE_KEY_TOO_SMALL] ee key too small")
        error.reason = "EE_KEY_TOO_SMALL"
        raise error

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", too_weak)
    assert f"--tls-cert {pair.cert}: OpenSSL refuses it (EE_KEY_TOO_SMALL)" in refusal(
        pair.cert, pair.key
    )
