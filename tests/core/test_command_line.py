"""``python -m trio_bridge`` as an operator meets it: real processes, ports and signals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
import trio

from tests.edge.peers import CLOSE, TEXT, Peer, close_payload, frame
from trio_bridge import AudioClock, cli
from trio_bridge.address import Address
from trio_bridge.config import Settings
from trio_bridge.fleet.post import LIFELINE_VARIABLE
from trio_bridge.meeting import Meeting
from trio_bridge.server import Server

DEADLINE_S = 20.0
"""A hung process fails the test; a healthy one takes less than a second."""
FIRST_LINE = re.compile(r"trio_bridge listening on (http://127\.0\.0\.1:(\d+))")
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""The sample nonce of RFC 6455 §1.3."""


def clean_environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TRIO_BRIDGE_")}
    return {**kept, "PYTHONWARNINGS": "error", **more}


async def run_to_the_end(
    *arguments: str, cwd: Path | None = None, **environ: str
) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(DEADLINE_S):
        return await trio.run_process(
            [sys.executable, "-m", "trio_bridge", *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=clean_environment(**environ),
            cwd=cwd,
        )


def only_line(ended: subprocess.CompletedProcess[bytes]) -> str:
    """The one line on stderr of a command that could not be done."""
    text = ended.stderr.decode()
    assert "Traceback" not in text
    assert ended.returncode == 2, text
    assert ended.stdout == b""
    assert len(text.splitlines()) == 1, text
    return text


@attrs.define
class Running:
    """A bridge in a process of its own."""

    process: trio.Process
    port: int = 0
    output: bytes = b""

    async def read_first_line(self) -> str:
        assert self.process.stdout is not None
        while b"\n" not in self.output:
            data = await self.process.stdout.receive_some()
            assert data, "it ended without a word"
            self.output += data
        return self.output.split(b"\n", 1)[0].decode()

    async def reads_errors_until(self, text: str) -> str:
        """Read stderr until ``text`` was in it; what was read."""
        assert self.process.stderr is not None
        seen = b""
        while text.encode() not in seen:
            data = await self.process.stderr.receive_some()
            assert data, seen
            seen += data
        return seen.decode()

    async def ends(self) -> tuple[int, str]:
        """Wait for the end; the exit status and all of stderr."""
        assert self.process.stderr is not None
        errors = b"".join([data async for data in self.process.stderr])
        return await self.process.wait(), errors.decode()


@asynccontextmanager
async def running(*arguments: str, **environ: str) -> AsyncIterator[Running]:
    with trio.fail_after(DEADLINE_S):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "trio_bridge", "--port", "0", "--agent", "echo", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(**environ),
        )
        bridge = Running(process)
        try:
            match = FIRST_LINE.fullmatch(await bridge.read_first_line())
            assert match is not None, bridge.output
            bridge.port = int(match[2])
            yield bridge
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                for pipe in (process.stdout, process.stderr):
                    assert pipe is not None
                    await pipe.aclose()


@attrs.frozen
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes


async def ask(port: int, target: str, *lines: str, method: str = "GET") -> Answer:
    """One request on a connection of its own."""
    head = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *lines]
    with trio.fail_after(5):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all("\r\n".join([*head, "", ""]).encode())
            return parse_answer(b"".join([data async for data in stream]))


async def ask_upgrade(port: int, target: str, *lines: str) -> Answer:
    """A WebSocket handshake; the connection is dropped once it is answered."""
    head = [
        f"GET {target} HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}", *lines, "", "",
    ]  # fmt: skip
    data = b""
    with trio.fail_after(5):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all("\r\n".join(head).encode())
            while b"\r\n\r\n" not in data:
                more = await stream.receive_some()
                assert more, data
                data += more
    return parse_answer(data)


def parse_answer(data: bytes) -> Answer:
    top, _, body = data.partition(b"\r\n\r\n")
    status, *lines = top.decode().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return Answer(int(status.split()[1]), headers, body)


# -- a server that runs ----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_where_it_listens_answers_health_and_ends_cleanly(
    number: signal.Signals,
) -> None:
    async with running() as bridge:
        answer = await ask(bridge.port, "/health")
        assert (answer.status, json.loads(answer.body)["status"]) == (200, "ok")
        bridge.process.send_signal(number)
        status, errors = await bridge.ends()
    assert status == 0, errors
    assert "Traceback" not in errors
    assert {json.loads(line)["event"] for line in errors.splitlines()} >= {
        "listening",
        "stopped",
    }


async def test_a_meeting_that_runs_is_given_its_time_and_a_second_signal_ends_it() -> None:
    async with running("--drain-s", "600", "--hello-s", "100") as bridge:
        stream = await trio.open_tcp_stream("127.0.0.1", bridge.port)
        async with stream:
            control = Peer(stream)
            await control.upgrade()
            await control.send(frame(TEXT, b'{"type": "ready", "bot_id": "b"}'))
            assert (await control.read())[0] == TEXT  # the ack: the meeting has begun
            bridge.process.send_signal(signal.SIGTERM)
            seen = await bridge.reads_errors_until('"draining"')
            assert (await ask(bridge.port, "/ready")).status == 503
            assert (await ask(bridge.port, "/health")).status == 200
            assert (await ask_upgrade(bridge.port, "/bridge")).status == 503
            bridge.process.send_signal(signal.SIGTERM)
            assert await control.close_code() == 1001
            await control.send(frame(CLOSE, close_payload(1001)))
            status, errors = await bridge.ends()
            errors = seen + errors
    assert status == 0, errors
    assert "Traceback" not in errors


def test_a_server_and_a_worker_run_in_a_loop_that_can_wait_for_audio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[object] = []
    monkeypatch.setattr(trio, "run", lambda *_, clock: runs.append(type(clock)))
    monkeypatch.setattr(cli, "_own_the_process", lambda: None)
    monkeypatch.setattr(cli, "set_up_logging", lambda *_: None)
    assert cli.main(["--port", "0"]) == 0
    post = SimpleNamespace(settings=Settings(), slot=0)
    monkeypatch.setattr("trio_bridge.fleet.worker.open_lifeline", lambda _: (None, post))
    monkeypatch.setattr("trio_bridge.fleet.worker.name_worker_in_logs", lambda _: None)
    monkeypatch.setenv(LIFELINE_VARIABLE, "7")
    assert cli.main([]) == 0
    assert runs == [AudioClock, AudioClock]


async def test_settings_come_from_flag_variable_and_file(tmp_path: Path) -> None:
    config = tmp_path / "bridge.toml"
    config.write_text('log_level = "error"\ntoken = ["from-file"]\n')
    async with running("--config", str(config), TRIO_BRIDGE_LOG_FORMAT="text") as bridge:
        assert (await ask_upgrade(bridge.port, "/bridge")).status == 401
        assert (await ask_upgrade(bridge.port, "/t/from-file/bridge")).status == 101
        bridge.process.send_signal(signal.SIGTERM)
        assert await bridge.ends() == (0, "")


async def test_a_token_given_to_a_process_is_never_written() -> None:
    async with running("--token", "s3cret-token", "--log-level", "debug") as bridge:
        await ask(bridge.port, "/health?token=s3cret-token")
        await ask_upgrade(bridge.port, "/t/s3cret-token/no-such-path")
        await ask_upgrade(bridge.port, "/t/s3cret-tokem/bridge")
        bridge.process.send_signal(signal.SIGTERM)
        _, errors = await bridge.ends()
    assert "s3cret" not in errors
    assert b"s3cret" not in bridge.output


# -- what cannot be done ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--port", "x"], ["--port", "whole number"]),
        (["--port", "70000"], ["port", "65535"]),
        (["--lead-ms", "50"], ["lead_ms", "chunk_ms"]),
        (["--agent", "parrot"], ["parrot", "echo, local"]),
        (["--agent", "no_such_module:f"], ["no_such_module", "install it"]),
        (["--host", "a..b", "--port", "0"], ["a..b"]),
        (["--host", "192.0.2.1", "--port", "0"], ["192.0.2.1", "choose another --host"]),
        (["--no-such-flag", "1"], ["--no-such-flag"]),
        (["--config", "no-such-file.toml"], ["no-such-file.toml", "No such file"]),
        (["--config", "broken.toml"], ["broken.toml", "not TOML"]),
        (["--config", "unknown.toml"], ["unknown.toml", "prot", "did you mean port?"]),
        (["--config", "letters.toml"], ["token"]),
    ],
    ids=lambda value: "".join(value) if value[0].startswith("--") else "",
)
async def test_what_cannot_be_done_is_one_line_and_exit_2(
    arguments: list[str], parts: list[str], tmp_path: Path
) -> None:
    (tmp_path / "broken.toml").write_text("port = \n")
    (tmp_path / "unknown.toml").write_text("prot = 8080\n")
    (tmp_path / "letters.toml").write_text("token = 5\n")
    line = only_line(await run_to_the_end(*arguments, cwd=tmp_path))
    for part in parts:
        assert part in line


async def test_a_bad_variable_is_one_line_and_exit_2() -> None:
    line = only_line(await run_to_the_end(TRIO_BRIDGE_CHUNK_MS="soon"))
    assert "TRIO_BRIDGE_CHUNK_MS" in line


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


async def test_a_port_in_use_is_one_line_that_names_it_and_the_mend() -> None:
    with taken_port() as port:
        ended = await run_to_the_end("--port", str(port), "--agent", "echo")
    line = only_line(ended)
    assert f"127.0.0.1:{port} is in use" in line
    assert "--port" in line


async def test_ctrl_c_while_it_starts_is_not_a_usage_error(tmp_path: Path) -> None:
    """An agent's module can take long to import; Ctrl-C then is a clean end too."""
    (tmp_path / "early.py").write_text(
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a job may have none\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "async def agent(meeting): pass\n"
    )
    ended = await run_to_the_end("--port", "0", "--agent", "early:agent", cwd=tmp_path)
    assert b"Traceback" not in ended.stderr
    assert ended.returncode in (0, 130, -signal.SIGINT)


async def test_help_shows_units_defaults_and_the_other_commands() -> None:
    ended = await run_to_the_end("--help", COLUMNS="200")
    text = ended.stdout.decode()
    assert (ended.returncode, ended.stderr) == (0, b"")
    for field in attrs.fields(Settings):
        assert "--" + field.name.replace("_", "-") in text
    assert "ms of speech in one message to the bot [100]" in text
    assert "seconds a new connection has for its ready message [10.0]" in text
    assert "TRIO_BRIDGE_LEAD_MS" in text
    assert "simulate" in text
    assert "demo" in text


# -- the answers of the server ---------------------------------------------------------------


async def nobody(meeting: Meeting) -> None:
    await trio.sleep_forever()


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[Server, Address]]:
    """A server in this process, on a real socket."""
    server = Server(nobody, settings)
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            address: Address = await nursery.start(server.run)
            yield server, address
            nursery.cancel_scope.cancel()


async def test_health_and_readiness_are_json_and_say_how_many_meetings_there_are() -> None:
    async with serving(Settings(port=0)) as (_, address):
        for target in ("/health", "/ready", "/health?x=1"):
            answer = await ask(address.port, target)
            assert answer.status == 200
            assert answer.headers["content-type"] == "application/json"
            assert json.loads(answer.body) == {
                "status": "ok",
                "meetings": 0,
                "meetings_begun": 0,
                "refused": 0,
                "lag_ms": 0,
            }


async def test_other_requests_are_told_what_there_is() -> None:
    async with serving(Settings(port=0)) as (_, address):
        for target in ("/", "/health/", "/HEALTH", "/t/x/health"):
            answer = await ask(address.port, target)
            assert (answer.status, b"/health" in answer.body) == (404, True)
        for target in ("/bridge", "/bridge/audio", "/t/x/bridge"):
            answer = await ask(address.port, target)
            assert (answer.status, answer.headers["upgrade"]) == (426, "websocket")
        for method in ("POST", "PUT", "DELETE"):
            answer = await ask(address.port, "/health", "Content-Length: 0", method=method)
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
        answer = await ask(address.port, "/health", method="HEAD")
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.headers["content-length"]) > 0


async def test_an_upgrade_elsewhere_is_404() -> None:
    async with serving(Settings(port=0)) as (_, address):
        for target in ("/", "/health", "/bridge/video", "/a/b/bridge"):
            assert (await ask_upgrade(address.port, target)).status == 404


@pytest.mark.parametrize(
    "target",
    [
        "/t/s3cret/bridge",
        "/t/s3cret/bridge/audio/",
        "/bot/t/s3cret/bridge/audio",
        "/t/s3cret/bot/bridge",
        "/bridge?token=s3cret",
        "/t/s%33cret/bridge",
    ],
)
async def test_a_token_opens_the_door_and_makes_no_meeting_by_itself(target: str) -> None:
    async with serving(Settings(port=0, token=("other", "s3cret"))) as (server, address):
        assert (await ask_upgrade(address.port, target)).status == 101
        bearer = await ask_upgrade(address.port, "/bridge", "Authorization: Bearer s3cret")
        assert bearer.status == 101
        assert server.served == 0


@pytest.mark.parametrize(
    ("target", "lines"),
    [
        ("/bridge", []),
        ("/bridge?token=wrong", []),
        ("/bridge?token=", []),
        ("/bridge?TOKEN=s3cret", []),
        ("/t/wrong/bridge?token=s3cret", []),
        ("/t//bridge", []),
        ("/bot/bridge/audio", ["Authorization: Basic s3cret"]),
        ("/bridge", ["Authorization: Bearer s3cre"]),
    ],
)
async def test_without_a_good_token_the_upgrade_is_401(target: str, lines: list[str]) -> None:
    async with serving(Settings(port=0, token=("s3cret",))) as (server, address):
        answer = await ask_upgrade(address.port, target, *lines)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert b"s3cre" not in answer.body
        assert server.served == 0


async def test_a_token_the_environment_made_of_odd_bytes_is_a_refusal_and_no_failure() -> None:
    async with serving(Settings(port=0, token=("\udcff",))) as (_, address):
        assert (await ask_upgrade(address.port, "/bridge?token=x")).status == 401


async def test_an_address_beyond_loopback_without_a_token_is_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for host, token, warned in (
        ("127.0.0.1", (), False),
        ("0.0.0.0", (), True),
        ("0.0.0.0", ("x",), False),
    ):
        caplog.clear()
        async with serving(Settings(host=host, port=0, token=token)):
            warnings = [r for r in caplog.records if "set --token" in r.getMessage()]
        assert bool(warnings) is warned


def test_an_address_is_a_url_with_brackets_where_it_needs_them() -> None:
    assert Address("127.0.0.1", 80).url == "http://127.0.0.1:80"
    assert Address("::1", 80).url == "http://[::1]:80"
