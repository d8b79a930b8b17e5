"""``python -m trio_bridge token``: what it prints opens the door where the key is the same."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import trio

from tests.core.test_command_line import ask_upgrade, run_to_the_end, running
from tests.edge.peers import TEXT, Peer, frame, head
from trio_bridge.cli import main
from trio_bridge.tokens import read_token
from trio_bridge.wire.hello import encode_hello

KEY = "canary-key-of-thirty-two-letters"
SOURCES = ["flag", "variable", "file", "file that a variable names"]


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("TRIO_BRIDGE_"):
            monkeypatch.delenv(name)


def sources(source: str, directory: Path) -> tuple[list[str], dict[str, str]]:
    """Flags and variables that give a process the key."""
    config = directory / "bridge.toml"
    config.write_text(f'token_key = "{KEY}"\nlead_ms = 400\n')
    match source:
        case "flag":
            return ["--token-key", KEY], {}
        case "variable":
            return [], {"TRIO_BRIDGE_TOKEN_KEY": KEY}
        case "file":
            return ["--config", str(config)], {}
    return [], {"TRIO_BRIDGE_CONFIG": str(config)}


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that could not be done."""
    assert main(arguments) == 2
    printed, errors = capsys.readouterr()
    assert printed == ""
    (line,) = errors.splitlines()
    return line


@pytest.mark.parametrize("source", SOURCES)
def test_it_prints_a_token_and_nothing_else(
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags, environ = sources(source, tmp_path)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    before_s = time.time()
    assert main(["token", "bot-1", "--ttl", "2h", *flags]) == 0
    printed, errors = capsys.readouterr()
    token = read_token(KEY, printed.removesuffix("\n"))
    assert errors == ""
    assert token.bot_id == "bot-1"
    assert before_s - 1 <= token.until_s - 7_200 <= time.time()


async def test_what_it_prints_opens_the_door_of_a_server_for_that_bot_alone() -> None:
    ended = await run_to_the_end("token", "bot 1/ü", "--ttl", "1m", TRIO_BRIDGE_TOKEN_KEY=KEY)
    assert (ended.returncode, ended.stderr) == (0, b"")
    token = ended.stdout.decode().removesuffix("\n")
    async with running(TRIO_BRIDGE_TOKEN_KEY=KEY) as bridge:
        assert (await ask_upgrade(bridge.port, "/bridge")).status == 401
        assert (await ask_upgrade(bridge.port, f"/bot-2/t/{token}/bridge")).status == 401
        async with await trio.open_tcp_stream("127.0.0.1", bridge.port) as stream:
            control = Peer(stream)
            await control.upgrade(head(target=f"/t/{token}/bridge".encode()))
            await control.send(frame(TEXT, encode_hello("bot 1/ü").encode()))
            opcode, payload = await control.read()
            assert (opcode, b"ack" in payload) == (TEXT, True)
        bridge.process.send_signal(signal.SIGTERM)
        status, errors = await bridge.ends()
    assert status == 0
    assert token not in errors
    assert KEY not in errors


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["bot-1", "--ttl", "2h"], ["token_key", "$TRIO_BRIDGE_TOKEN_KEY", "--config"]),
        (["bot-1", "--token-key", KEY], ["--ttl"]),
        (["bot-1", "--ttl", "2", "--token-key", KEY], ["--ttl", "2h", "'2'"]),
        (["--ttl", "2h", "--token-key", KEY], ["BOT_ID"]),
        (["", "--ttl", "2h", "--token-key", KEY], ["BOT_ID", "empty"]),
        (["a\nb", "--ttl", "2h", "--token-key", KEY], ["BOT_ID", "printed"]),
        (["x" * 129, "--ttl", "2h", "--token-key", KEY], ["BOT_ID", "128"]),
        (["bot-1", "--ttl", "2h", "--token-key", KEY[:-1]], ["--token-key", "32 characters"]),
        (["bot-1", "--ttl", "2h", "--tokn-key", KEY], ["--tokn-key", "--help"]),
        (["bot-1", "--ttl", "2h", f"--tokn-key={KEY}"], ["--tokn-key", "--help"]),
        (["bot-1", "--ttl", "2h", KEY], ["without a flag"]),
        (["bot-1", "--ttl", "2h", "--config", "none.toml"], ["none.toml", "No such file"]),
    ],
)
def test_what_cannot_be_done_is_one_line_without_the_key(
    arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(["token", *arguments], capsys)
    for part in parts:
        assert part in line
    assert KEY[:10] not in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tokn", KEY],
        [f"--tokn={KEY}"],
        [f"--tok={KEY}"],  # --token or --token-key?
        ["--token", "x", KEY],
        ["--token-key", KEY, "--token-key"],
        ["--token", KEY, "--port", "x"],
        ["--token-key", KEY[:-1]],
        [KEY],
    ],
)
def test_a_secret_behind_a_wrong_flag_is_not_quoted(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert KEY[:10] not in refusal(arguments, capsys)


async def test_its_help_says_what_a_token_is_good_for() -> None:
    ended = await run_to_the_end("token", "--help", COLUMNS="200", TRIO_BRIDGE_TOKEN_KEY=KEY)
    text = ended.stdout.decode()
    assert (ended.returncode, ended.stderr) == (0, b"")
    for part in ("BOT_ID", "--ttl", "--token-key", "--config", "/t/TOKEN/bridge"):
        assert part in text
    assert "--lead-ms" not in text
    assert KEY not in text
