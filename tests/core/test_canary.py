"""No secret in anything that the bridge writes: put one everywhere, then search all there is.

The bridge is a process of its own at its most talkative. Whoever reads its log, or is refused,
or sees a Close or a traceback, must learn nothing that opens the door.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import urllib.parse
from contextlib import suppress
from pathlib import Path

import attrs
import pytest
import trio

from tests.core.rooms import listener
from tests.core.test_command_line import (
    Running,
    clean_environment,
    only_line,
    run_to_the_end,
)
from tests.edge.peers import BINARY, CLOSE, PING, TEXT, close_payload, frame, head
from tests.fleet.bots import bots_of
from trio_bridge.cli import main
from trio_bridge.config import Settings, load_settings
from trio_bridge.door import Door
from trio_bridge.edge.head import Request
from trio_bridge.edge.passing import Passage
from trio_bridge.errors import BridgeError
from trio_bridge.fleet.handover import Prefix, decode_passage
from trio_bridge.fleet.post import Post
from trio_bridge.fleet.supervisor import Supervisor
from trio_bridge.routes import read_route
from trio_bridge.server import Server
from trio_bridge.tokens import BotToken, mint_token, read_token

DEADLINE_S = 60.0
"""For some hundred connections on a slow machine; they take a few seconds."""
STATIC, KEY = "canary-1-static-token", "canary-2-key-of-more-than-32-letters"
WRONG = "canary-3-somebody-elses-secret"
(BOT,), (OTHER,) = bots_of(0, 1), bots_of(1, 1)
"""Of two workers each has one, so that connections are handed over."""


def minted(bot_id: str, *, key: str = KEY, ttl_s: int = 3_600) -> str:
    return mint_token(key, BotToken(bot_id, int(time.time()) + ttl_s))


SHOWN = {
    "static": STATIC,
    "static, almost": STATIC[:-1],
    "key": KEY,
    "wrong": WRONG,
    "minted": minted(BOT),
    "minted for another": minted(OTHER),
    "minted once": minted(BOT, ttl_s=-3_600),
    "minted elsewhere": minted(BOT, key=WRONG * 2),
}
PATHS = [
    "/t/{}/bridge", "/t/{}/bridge/audio", f"/{BOT}/t/{{}}/bridge", f"/t/{{}}/{BOT}/bridge",
    "/bridge?token={}", "/bridge/audio?x=1&token={}", f"/{BOT}/bridge?token={{}}",
    "/{}/bridge", "/t/t/{}/bridge", "/t/{}", "/t/{}/", "/t/{}/no-such-path", "/t/{}/health",
    "/health?token={}", "/{}", "/ready/{}", "/bridge/{}", "/bridge/t/{}", "//t/{}//bridge",
    "/t/{}%00/bridge", "/t/%ff{}/bridge", "/bridge#{}", "/bridge?{}",
    "/bridge?token={}&token=x", "http://{}/bridge",
    "/t/{}/bridge?token=x", "/t/{}\xe9/bridge", "*{}", "{}",
]  # fmt: skip
LINES = [
    "Authorization: Bearer {}", "Authorization: Basic {}", "Authorization: {}",
    "Authorization: Bearer {}\r\nAuthorization: Bearer x", "Authorization: Bearer {}\xe9",
    "Cookie: token={}", "Origin: https://{}.example", "Host: {}\xff", "Host: {}",
    "Sec-WebSocket-Key: {}", "Sec-WebSocket-Protocol: {}", "Sec-WebSocket-Extensions: {}",
    "Upgrade: {}", "Content-Length: {}", "Transfer-Encoding: {}", "{}: x", "{} : x", " {}",
    "{}", "X: {}\0", "Proxy-Authorization: Bearer {}", "Expect: {}", "Connection: {}",
]  # fmt: skip
RAW = [
    "{}", "{}\r\n\r\n", "GET {}\r\n\r\n", "{} / HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /t/{}/bridge HTTP/9.9\r\nHost: x\r\n\r\n", "GET /t/{}/bridge HTTP/1.0\r\n\r\n",
    "GET /t/{} bridge HTTP/1.1\r\nHost: x\r\n\r\n", "GET /t/{}/bridge HTTP/1.1\r\nHo",
    "POST /t/{}/bridge HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{}",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{}\r\n",
    "PUT /health?token={} HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n",
    "\x16\x03\x01\x02{}",
]  # fmt: skip
TALK = {
    "a bot that leaves": [frame(CLOSE, close_payload(1000))],
    "bad frames": [frame(BINARY, b"\x01\xff\xff"), frame(TEXT, b"[" * 900), frame(TEXT, b"{}")],
    "bad bytes": [frame(TEXT, b"\xff")],
    "reserved bits": [frame(TEXT | 0x70, b"x")],
    "too many pings": [frame(PING) * 30],
    "too large": [b"\x82\xff" + (1 << 40).to_bytes(8, "big") + bytes(4)],
    "nothing more": [],
}
"""What is said after the hello; the agent crashes when it is asked to."""
HELLOS = [
    json.dumps({"type": "ready", "bot_id": BOT}),
    json.dumps({"type": "ready", "bot_id": "bot-3"}),
    json.dumps({"type": "ready"}),
    "no hello",
]
HELLO = frame(TEXT, HELLOS[0].encode())
CRASH = frame(TEXT, b'{"command": "usermsg", "message": "crash"}')

CRASHING = """
async def agent(meeting):
    async for event in meeting.events(rate_hz=16_000):
        raise RuntimeError(f"crashed at {event!r} in {meeting!r} of {vars(meeting)!r}")
"""


def forms_of(secret: str) -> set[bytes]:
    """``secret`` as it could appear: whole, in part, and in the usual encodings."""
    parts = {secret[:12], secret[-12:], secret} if "." not in secret else {secret[-30:], secret}
    texts = {urllib.parse.quote(part, safe="") for part in parts} | parts
    texts |= {repr(part)[1:-1] for part in parts} | {part[::-1] for part in parts}
    encoded = {base64.b64encode(secret.encode()), base64.urlsafe_b64encode(secret.encode())}
    return {text.encode() for text in texts} | {data.rstrip(b"=")[:16] for data in encoded}


def found_in(written: bytes) -> list[str]:
    """The secrets that are anywhere in ``written``, by their names."""
    secrets = {**SHOWN, "the other key": WRONG * 2}
    return [
        name
        for name, secret in secrets.items()
        if any(form.lower() in written.lower() for form in forms_of(secret))
    ]


@attrs.define(eq=False)
class Collected:
    """All that a bridge wrote: to its clients, to stdout and to stderr."""

    port: int
    answers: list[bytes] = attrs.field(factory=list)
    _places: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(150))

    async def ask(self, *said: bytes) -> None:
        """Connect, say it all, and read until the server hangs up."""
        async with self._places, await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            answer = b""
            with suppress(trio.BrokenResourceError):
                for part in said:
                    await stream.send_all(part)
            with suppress(trio.BrokenResourceError), trio.move_on_after(1):
                async for data in stream:
                    answer += data
            self.answers.append(answer)


def requests(secret: str) -> list[list[bytes]]:
    """Connections that show ``secret`` somewhere: most are refused, some get in."""
    said = []
    for path in PATHS:
        target = path.format(secret).encode("latin-1")
        said.append([head(target=target), HELLO, *TALK["bad bytes"]])
        said.append([b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"])
    said += [[head(line.format(secret).encode("latin-1"))] for line in LINES]
    said += [[text.format(secret, secret).encode("latin-1")] for text in RAW]
    said.append([head(b"X: " + b"x" * 20_000, b"Authorization: Bearer " + secret.encode())])
    return said


def meetings(secret: str) -> list[list[bytes]]:
    """Connections that get in with ``secret``, as far as it goes, and misbehave then."""
    said = []
    for kind in ("bridge", "bridge/audio"):
        for talk in TALK.values():
            target = f"/t/{secret}/{kind}".encode()
            said.append([head(target=target), HELLO, *talk])
        for hello in HELLOS[1:]:
            bearer = b"Authorization: Bearer " + secret.encode()
            said.append([head(bearer, target=b"/bridge"), frame(TEXT, hello.encode())])
            said.append([head(target=f"/{kind}?token={secret}".encode()), hello.encode()])
    said.append([head(target=f"/bridge?token={secret}".encode()), HELLO, CRASH])
    return said


def alone() -> list[list[bytes]]:
    """The same by bots whom nobody replaces: each sees how its own doings end."""
    said = []
    for n, talk in enumerate([*TALK.values(), [CRASH]]):
        hello = json.dumps({"type": "ready", "bot_id": f"alone-{n}"})
        said.append([head(target=f"/t/{STATIC}/bridge".encode()), frame(TEXT, hello.encode())])
        said[-1] += talk
    return said


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_secret_is_in_anything_that_a_process_writes(
    workers: int, tmp_path: Path
) -> None:
    (tmp_path / "crashing.py").write_text(CRASHING)
    config = tmp_path / "bridge.toml"
    config.write_text(f'token_key = "{KEY}"\n')
    flags = ["--log-level", "debug", "--agent", "crashing:agent", "--config", str(config)]
    limits = ["--head-s", "0.4", "--hello-s", "0.4", "--close-s", "0.3", "--grace-s", "0.1"]
    limits += ["--pending-per-address", "512"]
    log = tmp_path / "log"
    command = [sys.executable, "-m", "trio_bridge", "--port", "0", "--token", STATIC]
    paths = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    with trio.fail_after(DEADLINE_S), log.open("wb") as stderr:
        process = await trio.lowlevel.open_process(
            [*command, "--workers", str(workers), *flags, *limits],
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=clean_environment(PYTHONPATH=paths, TRIO_BRIDGE_TOKEN_TYPO=STATIC),
        )
        running = Running(process)
        assert process.stdout is not None
        try:
            port = int((await running.read_first_line()).rpartition(":")[2])
            collected = Collected(port)
            async with trio.open_nursery() as nursery:
                for said in alone():
                    nursery.start_soon(collected.ask, *said)
                for secret in SHOWN.values():
                    for said in [*requests(secret), *meetings(secret)]:
                        nursery.start_soon(collected.ask, *said)
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGTERM)
            printed = running.output + b"".join([data async for data in process.stdout])
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            await trio.aclose_forcefully(process.stdout)
    written, answers = log.read_bytes(), b"\n".join(collected.answers)
    # It was as bad as it was meant to be: all of this happened.
    for event in ("meeting began", "agent failed", "channel refused", "token refused"):
        assert f'"{event}"'.encode() in written, event
    assert b"Traceback" in written
    for reason in ("a token is needed", "the token has expired", "the token is another bot"):
        assert reason.encode() in answers
    for status in (b"101", b"400", b"401", b"403", b"404", b"426", b"431", b"413"):
        assert b"HTTP/1.1 " + status in answers, status
    for code in (1002, 1003, 1007, 1008, 1009, 1011):
        assert b"\x88" in answers
        assert code.to_bytes(2, "big") in answers, code
    if workers > 1:
        assert {json.loads(line).get("worker") for line in written.splitlines()} >= {0, 1}
    for where in (printed, written, answers):
        assert found_in(where) == []


@pytest.mark.parametrize("name", SHOWN)
def test_the_search_finds_what_it_is_to_find(name: str) -> None:
    secret = SHOWN[name]
    for text in (secret, f"x{secret}y", secret.upper(), urllib.parse.quote(secret)):
        assert name in found_in(text.encode())
    assert name in found_in(base64.b64encode(secret.encode()))


# -- what never becomes a connection ---------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--token", STATIC, "--token-key", KEY, "--port", "70000"],
        ["--token", STATIC, "--token-key", KEY, "--lead-ms", "20"],
        ["--token", STATIC, "--token-key", KEY, "--no-such-flag", WRONG],
        ["--token", STATIC, "--token-key", KEY[:31]],
        ["--token", " ", "--token-key", KEY],
        ["--token", STATIC, "--token-key"],
        [f"--tokens={STATIC}", f"--token-keys={KEY}"],
        ["token", BOT, "--token-key", KEY, "--ttl", "x"],
        ["token", BOT, "--token-key", KEY[:31], "--ttl", "1h"],
    ],
)
def test_settings_that_are_refused_show_no_secret(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments]) == 2  # before it sets up logs for a process of its own
    written = "".join(capsys.readouterr())
    assert written
    assert found_in(written.encode()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--agent", "no_such_module:agent"],
        ["--host", "a..b", "--workers", "2"],
        ["--tls-cert", "none.pem", "--tls-key", "none.pem"],
    ],
)
async def test_a_start_that_fails_shows_no_secret(arguments: list[str]) -> None:
    secrets = ["--log-level", "debug", "--token", STATIC, "--token-key", KEY]
    ended = await run_to_the_end(*secrets, *arguments)
    assert only_line(ended)
    assert found_in(ended.stderr) == []


@pytest.mark.parametrize(
    "content",
    [
        'token = ["{0}", 5]', 'token = ["{0}"', 'token = {0}', 'token = "{0}',
        'token_key = {1}', 'token_key = ["{1}"]', 'token_key = "{1}"\nport = 70000',
        'tokens = "{0}"',
        'token-key = "{1}"', '[token]\n"{0}" = 1', 'token."{0}" = 1', 'token_key = "{1}" x',
        'token_key = "{1}"\ntoken_key = "{1}"', 'token_key = """{1}', "token_key = '{1}\n'",
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_shows_no_secret(content: str, tmp_path: Path) -> None:
    config = tmp_path / "bridge.toml"
    config.write_text(content.format(STATIC, KEY))
    with pytest.raises(BridgeError) as caught:
        load_settings({"config": str(config)}, {})
    assert found_in(str(caught.value).encode()) == []
    assert found_in("".join(traceback.format_exception(caught.value)).encode()) == []


async def test_no_repr_and_no_error_of_ours_shows_a_secret() -> None:
    settings = Settings(token=(STATIC,), token_key=KEY, workers=1)
    target = f"/t/{SHOWN['minted']}/bridge?token={STATIC}"
    request = Request("GET", target, ((b"authorization", f"Bearer {WRONG}".encode()),), "?")
    post = Post(slot=0, directory="", listeners=(), hatch=0, memory=0, settings=settings)
    shown: list[object] = [
        settings,
        attrs.evolve(settings, workers=2),
        Server(listener, settings),
        Supervisor(settings, ["python", "--token", STATIC], {"TRIO_BRIDGE_TOKEN_KEY": KEY}),
        Door((STATIC,), KEY),
        post,
        request,
        Passage(request, False, STATIC.encode()),
        read_route(request.path),
    ]
    for failing in (
        lambda: Settings(token=(STATIC, ""), token_key=KEY),
        lambda: Settings(token_key=KEY[:31]),
        lambda: read_token(KEY, SHOWN["minted elsewhere"]),
        lambda: read_token(KEY, SHOWN["minted once"]).check_time(time.time()),
        lambda: read_token(KEY, SHOWN["minted for another"]).check_bot(BOT),
        lambda: decode_passage(Prefix(b"tbH1", len(STATIC), 0), STATIC.encode()),
    ):
        with pytest.raises(BridgeError) as caught:
            failing()
        shown += [caught.value, *traceback.format_exception(caught.value)]
    for thing in shown:
        assert found_in(f"{thing!r} {thing}".encode()) == [], type(thing)
