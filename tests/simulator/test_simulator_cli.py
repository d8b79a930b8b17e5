"""The command line: arguments to a scenario, one line for what is wrong, exit codes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.simulator.small_server import SmallServer, tone
from trio_bridge.simulator import Reconnect, UserMessage, events
from trio_bridge.simulator.arguments import (
    parse_header,
    parse_message,
    parse_pattern,
    parse_reconnect,
    parse_speaker,
)
from trio_bridge.simulator.cli import describe, main
from trio_bridge.simulator.wavs import writing_wav


@contextmanager
def server_in_a_thread() -> Iterator[str]:
    """The small server, since `main` runs a Trio of its own."""
    ready, address = threading.Event(), []
    stop: list[object] = []

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            server = SmallServer(nursery, answer=tone(0.3))
            address.append(await server.listen())
            token, scope = trio.lowlevel.current_trio_token(), nursery.cancel_scope
            stop.append(lambda: token.run_sync_soon(scope.cancel))
            ready.set()
            await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert ready.wait(10)
    try:
        yield address[0]
    finally:
        for cancel in stop:
            cancel()  # type: ignore[operator]
        thread.join(10)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "ann.wav"
    with writing_wav(path) as append:
        append(tone(0.2))
    return path


def test_a_run_prints_its_events_and_report_and_keeps_its_promises(
    wav: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, report = tmp_path / "heard.wav", tmp_path / "report.json"
    with server_in_a_thread() as url:
        code = main(
            [
                url,
                f"--speaker=Ann={wav}@0.1",
                "--usermsg=hello@0.2",
                "--duration=1",
                "--bot-id=b7",
                f"--save={saved}",
                f"--report={report}",
                "--expect-heard=0.29",
                "--expect-chat=wrote hello",
                "--expect-max-lead-ms=400",
                "--expect-close=1000",
            ]
        )
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert "Ann speaks for 0.2 s" in out
    assert "chat: you wrote hello" in out
    assert "the bot speaks" in out
    assert "bot b7 at ws://127.0.0.1" in out
    assert out.endswith("\nexpectations: 4 of 4 met\n")
    values = json.loads(report.read_text())
    assert values["bot_id"] == "b7"
    assert values["heard_s"] == pytest.approx(0.3)
    assert saved.stat().st_size == 44 + 96_000


def test_many_bots_are_one_run_and_a_failed_expectation_is_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    with server_in_a_thread() as url:
        code = main(
            [
                url,
                "--bots=3",
                "--bot-id=b",
                "--duration=0.2",
                "--quiet",
                f"--report={report}",
                "--expect-heard=1",
                "--order=together",
                f"--save={tmp_path / 'x.wav'}",
            ]
        )
    out, err = capsys.readouterr()
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        f"expectation failed: b-{n}: heard 0.00 s of the bot, expected 1 s or more"
        for n in (1, 2, 3)
    ]
    assert [bot["bot_id"] for bot in json.loads(report.read_text())] == ["b-1", "b-2", "b-3"]
    assert sorted(path.name for path in tmp_path.glob("*.wav")) == [
        "x-1.wav",
        "x-2.wav",
        "x-3.wav",
    ]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["ws://127.0.0.1:9", "--speaker=Ann=none.wav"], "cannot read none.wav"),
        (["ftp://x"], "is not an address"),
        (["ws://127.0.0.1:1", "--bots=2"], "cannot reach ws://127.0.0.1:1"),
        (["ws://127.0.0.1:9", "--control-path=x"], "does not begin with /"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("simulate: ")
    assert line in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("flag", ["--report", "--save"])
def test_a_file_that_cannot_be_written_is_one_line_before_connecting(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ws://127.0.0.1:1", f"{flag}={tmp_path}/none/file"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("simulate: cannot write ")
    assert err.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("flag", ["--report", "--save"])
def test_the_report_is_printed_even_if_a_file_cannot_be_written_after_all(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with server_in_a_thread() as url:
        assert main([url, "--duration=0.1", "--bot-id=b7", f"{flag}=/dev/full"]) == 2
    out, err = capsys.readouterr()
    assert "bot b7 at ws://127.0.0.1" in out
    assert "saved" not in out
    assert err.startswith("simulate: cannot write /dev/full: No space left")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["ws://h", "--speed=fast"],
        ["ws://h", "--speed=-1"],
        ["ws://h", "--interrupt=nan"],
        ["ws://h", "--frame-ms=0"],
        ["ws://h", "--bots=0"],
        ["ws://h", "--form=morse"],
        ["ws://h", "--speaker=Ann"],
        ["ws://h", "--header=secret"],
        ["ws://h", "--reconnect=video:clean@1"],
        ["ws://h", "--expect-chat=("],
        ["ws://h", "--expect-close=soon"],
    ],
)
def test_a_bad_argument_is_one_line_and_exit_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    err = capsys.readouterr().err
    assert left.value.code == 2
    assert err.startswith("simulate: ")
    assert err.count("\n") == 1
    assert "secret" not in err


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--expect-max-gap-ms=x", "'x' is not a number of milliseconds"),
        ("--expect-heard=x", "'x' is not a number of seconds"),
        ("--speed=x", "'x' is not a number"),
        ("--bots=x", "'x' is not a whole number"),
        ("--expect-close=x", "'x' is not a whole number"),
        ("--expect-close=7", "7 is not from 1000 to 4999"),
        ("--reconnect=audio:clean@1.1.1", "'1.1.1' is not a number of seconds"),
        ("--speaker=A=f.wav@x", "'x' is not a number of seconds"),
        ("--speaker=A=f.WAV@-1", "-1 is not 0 or more"),
    ],
)
def test_a_bad_number_is_told_in_words_of_the_user(
    argument: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["ws://h", argument])
    err = capsys.readouterr().err
    assert words in err
    assert "_" not in err


def test_help_tells_units_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    out = capsys.readouterr().out
    assert left.value.code == 0
    for piece in ("SECONDS", "(default: 20)", "--expect-max-tail-ms MS", "exit code"):
        assert piece in out
    words = " ".join(out.split())
    assert "must be one of the server's --bot-name" in words
    assert "http:// and https:// mean the same" in words


def test_speakers_messages_and_the_rest_are_read_from_text() -> None:
    part = parse_speaker("Ann Lee#u=1=a@b.wav@2.5")
    assert (part.name, part.id, part.sound, part.at_s) == ("Ann Lee", "u", "1=a@b.wav", 2.5)
    assert parse_speaker("Ann=x@home.wav").sound == "x@home.wav"
    assert parse_message("mail a@b@1") == UserMessage("mail a@b", 1.0)
    assert parse_message("mail a@b") == UserMessage("mail a@b", 0.0)
    assert parse_message("at@-1") == UserMessage("at@-1", 0.0)
    assert parse_reconnect("audio:overlap@3") == Reconnect("audio", 3.0, "overlap")
    assert parse_header("A: b: c") == ("A", "b: c")
    assert parse_pattern("a+").search("caat")
    for read, text in ((parse_speaker, "=a"), (parse_header, ": x"), (parse_pattern, "[")):
        with pytest.raises(argparse.ArgumentTypeError):
            read(text)


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for one child there")
def test_ctrl_c_leaves_with_a_report() -> None:
    program = "import sys; from trio_bridge.simulator.cli import main; sys.exit(main())"
    with (
        server_in_a_thread() as url,
        subprocess.Popen(
            [sys.executable, "-c", program, url, "--duration=60", "--token=t"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child,
    ):
        assert child.stdout is not None
        while "audio channel is open" not in child.stdout.readline():
            pass
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
    assert (child.returncode, err) == (0, "")
    assert "control closed by the bot: 1000" in out
    assert "sent" in out


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (events.InterruptSent(1.0), "we interrupt"),
        (events.Cleared(1.0, 0.5, 0.0), "interrupt: 0.50 s cleared, 0.00 s will be heard"),
        (events.AudioStopped(1.0, 2.0, True), "the bot was cut off after 2.00 s"),
        (events.CaptionPosted(1.0, "user", "a", True), "caption of the user: a"),
        (events.CaptionPosted(1.0, "user", "a", False), ""),
        (events.ImageShown(1.0, 3, ""), "image: 3 bytes"),
        (events.ImageShown(1.0, 0, "https://x"), "image: https://x"),
        (events.FaultSeen(1.0, "not\x1b JSON"), "fault: not  JSON"),
        (events.Spoke(1.0, "Ann", 2.0, "hello"), "Ann speaks for 2.0 s: hello"),
    ],
)
def test_every_event_has_one_printable_line(event: events.SimEvent, line: str) -> None:
    assert describe(event) == line
