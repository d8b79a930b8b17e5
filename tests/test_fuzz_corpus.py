"""The fuzz targets without a fuzzer: past inputs replayed, new ones by Hypothesis."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import h11
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import run
from fuzz.json_text import encoded
from fuzz.seeds import seeds, write
from fuzz.stream import AT_ONCE, write_case, write_frame
from fuzz.target import NAMES, Target, load
from trio_bridge.attendance import Link
from trio_bridge.edge.frames import BINARY, TEXT, Cutter, OnAudio, OnText
from trio_bridge.edge.head import Request, judge_upgrade, read_request
from trio_bridge.edge.http import read_body
from trio_bridge.edge.limits import EdgeLimits
from trio_bridge.errors import HandshakeError
from trio_bridge.registry import Registry
from trio_bridge.session import Session
from trio_bridge.wire.control import (
    ControlError,
    UnknownCommand,
    UserText,
    encode_interrupt,
    parse_control,
)
from trio_bridge.wire.frames import AudioFrame, FrameError, decode_audio, encode_frame
from trio_bridge.wire.hello import Hello, encode_hello, parse_hello

TARGETS = [load(name) for name in NAMES]
PAST = [(target, path) for target in TARGETS for path in (*target.corpus, *target.finds)]

bounded = settings(
    max_examples=200,
    derandomize=True,  # chance belongs to the long runs; here the same inputs every time
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize(
    ("target", "path"), PAST, ids=[f"{target.name}-{path.name}" for target, path in PAST]
)
def test_what_was_once_found_stays_mended(target: Target, path: Path) -> None:
    target.check(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_structured_messages_break_no_promise(target: Target) -> None:
    bounded(given(target.messages)(target.check))()


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_raw_bytes_break_no_promise(target: Target) -> None:
    bounded(given(st.binary(max_size=200))(target.check))()


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_damaged_corpus_files_break_no_promise(target: Target) -> None:
    inputs = [path.read_bytes() for path in target.corpus]

    @bounded
    @given(st.sampled_from(inputs), st.data())
    def damaged(data: bytes, draw: st.DataObject) -> None:
        at = draw.draw(st.integers(0, len(data)))
        gone = draw.draw(st.integers(0, 3))
        target.check(data[:at] + draw.draw(st.binary(max_size=3)) + data[at + gone :])

    damaged()


def test_the_corpus_holds_every_seed_as_it_is_made(tmp_path: Path) -> None:
    made = seeds()
    assert set(made) == set(NAMES)
    assert write(tmp_path) == sum(len(files) for files in made.values())
    for target in TARGETS:
        kept = {path.name: path.read_bytes() for path in target.corpus}
        for name, data in made[target.name].items():
            assert (tmp_path / target.name / name).read_bytes() == data
            assert kept[name] == data, "run python -m fuzz.seeds"


# -- a target that cannot fail proves nothing: each of these faults must be noticed ------------


def lenient_length(message: bytes | str) -> AudioFrame:
    """Slice past the end, as a decoder without length checks does."""
    data = message if isinstance(message, bytes) else message.encode()
    try:
        return decode_audio(data)
    except FrameError as error:
        if "truncated" not in error.reason or data[:1] != b"\1":
            raise
        return AudioFrame(data[3:].decode("utf-8", "replace"), "", b"")


def odd_pcm(message: bytes | str) -> AudioFrame:
    frame = decode_audio(message)
    return attrs.evolve(frame, pcm=frame.pcm + b"\0") if frame.flaws else frame


def key_error(message: bytes | str) -> Any:
    raise KeyError(message)


def peers_words(message: bytes | str) -> Any:
    raise FrameError(f"cannot read {message!r} é", 0)


def silent_control(message: str | bytes) -> Any:
    try:
        return parse_control(message)
    except ControlError:
        return UnknownCommand("")


def unstripped(message: str | bytes) -> Any:
    parsed = parse_control(message)
    return attrs.evolve(parsed, text=" a") if isinstance(parsed, UserText) else parsed


def textual(message: str | bytes) -> Any:
    """Look for the name in the text, so that white space decides."""
    if isinstance(message, str) and '"command":' in message.replace('"command": ', ""):
        raise ControlError("no command")
    if isinstance(message, str) and "\n" in message:
        return UnknownCommand("lines")
    return parse_control(message)


def picky_hello(message: str | bytes) -> Hello:
    hello = parse_hello(message)
    if len(hello.bot_id) > 127:
        raise HandshakeError("bot_id is long", 1008)
    return hello


def trimming_hello(message: str | bytes) -> Hello:
    return Hello(parse_hello(message).bot_id[:127])


def wrong_code(message: str | bytes) -> Hello:
    try:
        return parse_hello(message)
    except HandshakeError as error:
        raise HandshakeError(error.reason, 1006) from error


class Forgetful(Cutter):
    """Loses the beginning of a frame when the network cuts it."""

    def feed(self, data: bytes) -> None:
        self._part = bytearray()
        super().feed(data)


class Impatient(Cutter):
    """Loses what is pending when its turn is over."""

    def cut(self, now_s: float, *, turn: int, closing: bool = False) -> bytes | None:
        frame = super().cut(now_s, turn=turn, closing=closing)
        if frame is None:
            self.clear()
        return frame


class Breaking(Cutter):
    """Raises what the gate does not expect."""

    def cut(self, now_s: float, *, turn: int, closing: bool = False) -> bytes | None:
        raise IndexError


class Lavish(Cutter):
    """Waits for a frame of any size."""

    def arm(
        self,
        max_message_bytes: int,
        on_audio: OnAudio | None,
        on_text: OnText | None = None,
    ) -> None:
        super().arm(1 << 40, on_audio, on_text)


class Trusting(Cutter):
    """Looks at headers only, so that text which is not UTF-8 passes."""

    def _check_frame(self, frame: bytes, start: int, now_s: float) -> None:
        if frame[0] & 0x0F == TEXT:
            return
        super()._check_frame(frame, start, now_s)


async def lenient_head(
    stream: trio.abc.Stream, conn: h11.Connection, limits: EdgeLimits, peer: str
) -> Request | None:
    """Take whatever h11 takes."""
    return await read_request(stream, conn, EdgeLimits(head_bytes=9_999), peer)


async def deaf_head(
    stream: trio.abc.Stream, conn: h11.Connection, limits: EdgeLimits, peer: str
) -> Request | None:
    """Look at what the first read brought, and at nothing else."""
    stream.left = getattr(stream, "left", [])[:1]  # type: ignore[attr-defined]
    return await read_request(stream, conn, limits, peer)


async def breaking_head(
    stream: trio.abc.Stream, conn: h11.Connection, limits: EdgeLimits, peer: str
) -> Request | None:
    raise UnicodeError("label too long")


def copying_upgrade(request: Request, allowed_origins: frozenset[str]) -> bytes:
    """Let trio-websocket see a header of the peer's."""
    host = request.get(b"host") or b""
    return judge_upgrade(request, allowed_origins).replace(b"Host: gate", b"Host: " + host)


async def endless_body(
    stream: trio.abc.Stream, conn: h11.Connection, request: Request, limits: EdgeLimits
) -> Request:
    return await read_body(stream, conn, request, EdgeLimits())


class Doubling(Registry):
    """Makes a meeting for each channel."""

    def join(self, bot_id: str) -> Session:
        self._sessions.pop(bot_id, None)
        return super().join(bot_id)


class Waiting(Session):
    """Forgets the grace of a bot that left."""

    def _time_has_passed(self, now_s: float) -> float:
        self._attendance.grace_ends_s = None
        return super()._time_has_passed(now_s)


class Unbooked(Session):
    """Loses a sample of each frame from the books."""

    def _on_audio(self, link: Link, message: bytes | str) -> None:
        super()._on_audio(link, message)
        self.inflow.intake.received -= 1


class Talkative(Session):
    """Goes on speaking when it is interrupted."""

    def _obey(self, message: bytes | str) -> None:
        if message == encode_interrupt():
            self.pump.interrupts += 1
            return
        super()._obey(message)


def case(stream: bytes, sizes: bytes = b"") -> bytes:
    return write_case(stream, sizes, arming=AT_ONCE, closing=False)


def corpus(target: str, name: str) -> bytes:
    return seeds()[target][name]


AUDIO = encode_frame(AudioFrame("i", "n", b"\1\2"))
TWO = write_frame(BINARY, b"one", mask=bytes(4)) + write_frame(BINARY, b"two", mask=bytes(4))
HELLO = encoded(encode_hello("x" * 128))
FAULTS: list[tuple[str, str, Callable[..., Any], bytes]] = [
    ("frame", "decode_audio", lenient_length, b"\1\xff\xffabc"),
    ("frame", "decode_audio", odd_pcm, AUDIO + b"\3"),
    ("frame", "decode_audio", key_error, AUDIO),
    ("frame", "decode_audio", peers_words, b"\2"),
    ("control", "parse_control", silent_control, b"\xff"),
    ("control", "parse_control", unstripped, b'{"command": "usermsg", "message": "a"}'),
    ("control", "parse_control", textual, b'{"command": "dance"}'),
    ("control", "parse_control", key_error, b"{}"),
    ("hello", "parse_hello", picky_hello, HELLO),
    ("hello", "parse_hello", trimming_hello, HELLO),
    ("hello", "parse_hello", wrong_code, b"{}"),
    ("hello", "parse_hello", key_error, b"{}"),
    ("stream", "Cutter", Forgetful, case(TWO, b"\2\3")),
    ("stream", "Cutter", Impatient, case(TWO)),
    ("stream", "Cutter", Breaking, case(TWO)),
    ("stream", "Cutter", Lavish, case(b"\x82\xff" + (70_001).to_bytes(8, "big"))),
    ("stream", "Cutter", Trusting, case(write_frame(TEXT, b"\xff", fin=False, mask=bytes(4)))),
    ("head", "read_request", lenient_head, corpus("head", "too-long")),
    ("head", "read_request", deaf_head, corpus("head", "handshake")),
    ("head", "read_request", breaking_head, b""),
    ("head", "judge_upgrade", copying_upgrade, corpus("head", "handshake")),
    ("head", "read_body", endless_body, corpus("head", "body-chunked-too-long")),
    ("session", "Registry", Doubling, corpus("session", "talk")),
    ("session", "Session", Waiting, corpus("session", "lost-for-good")),
    ("session", "Session", Unbooked, corpus("session", "talk")),
    ("session", "Session", Talkative, corpus("session", "interrupt")),
]


@pytest.mark.parametrize(
    ("name", "parser", "faulty", "data"),
    FAULTS,
    ids=[f"{name}-{faulty.__name__}" for name, _, faulty, _ in FAULTS],
)
def test_a_target_notices_a_faulty_parser(
    name: str,
    parser: str,
    faulty: Callable[..., Any],
    data: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = load(name)
    target.check(data)
    monkeypatch.setattr(importlib.import_module(f"fuzz.{name}"), parser, faulty)
    with pytest.raises(AssertionError):
        target.check(data)


# -- the command ------------------------------------------------------------------------------


def test_a_replay_says_which_files_break_a_promise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tmp_path / "good"
    good.write_bytes(AUDIO)
    assert run.main(["frame", "--replay", str(good)]) == 0
    assert capsys.readouterr().out == "frame: 1 replayed, 0 broken\n"
    assert run.main(["frame", "--replay", str(tmp_path / "absent")]) == 2
    assert "No such file" in capsys.readouterr().err
    monkeypatch.setattr("fuzz.frame.decode_audio", key_error)
    assert run.main(["frame", "--replay", str(good)]) == 1
    assert "KeyError escaped" in capsys.readouterr().err


def test_a_find_is_kept_under_the_name_of_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuzz.target.HERE", tmp_path)
    first = run.keep_find("hello", b"{}")
    assert run.keep_find("hello", b"{}") == first
    assert load("hello").finds == [first]
    assert first.read_bytes() == b"{}"


def test_without_atheris_a_long_run_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run.main(["frame"]) == 2
    assert capsys.readouterr().err == 'fuzz: atheris is missing: pip install -e ".[fuzz]"\n'


def test_a_target_is_found_before_anything_that_atheris_must_watch_is_imported() -> None:
    code = (
        "import sys, json, fuzz.run;"
        "print(json.dumps([name for name in sys.modules if name.startswith('trio_bridge')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == []
