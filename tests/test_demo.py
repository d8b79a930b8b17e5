"""The demo as its user meets it: what it promises, what it overwrites, how it is stopped."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import trio

from trio_bridge.agents import find_agent
from trio_bridge.demo import Conversation, Teller, count_answered, hold, summary
from trio_bridge.simulator import Report, events
from trio_bridge.simulator.events import SimEvent
from trio_bridge.simulator.report import AnswerReport, GapReport

DEADLINE_S = 30.0
"""A hung process fails the test; a healthy one takes a few seconds."""

SILENT = Report(
    server="ws://h",
    bot_id="demo",
    platform="meet",
    form="binary",
    layout="mixed",
    duration_s=10.0,
    frames_sent=500,
    frames_lost=0,
    sent_s=10.0,
    late_ms=1.0,
    heard_s=0.0,
    received_s=0.0,
    cleared_s=0.0,
    unplayed_s=0.0,
    first_audio_ms=None,
    gaps=GapReport(0, 0.0, 0.0),
    lead=None,
    answers=(),
    interrupts=(),
    speakers=(),
    chats=(),
    captions=(),
    partial_captions=0,
    images=0,
    acks=0,
    unknown_commands={},
    faults={},
    closes=(),
    saved=None,
)
HEARD = attrs.evolve(
    SILENT,
    heard_s=3.0,
    answers=tuple(AnswerReport(at_s, 1.0, 0, False, None) for at_s in (1.0, 5.0, 9.0)),
)


def open_demo(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trio_bridge", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )


def run_demo(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    with open_demo(*arguments, cwd=cwd) as child:
        try:
            out, err = child.communicate(timeout=DEADLINE_S)
        finally:
            child.kill()
    return child.returncode, out, err


def test_an_agent_that_fails_is_exit_1_and_costs_no_older_recording(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("async def agent(meeting): raise RuntimeError('boom')\n")
    (tmp_path / "kept.wav").write_text("older")
    code, out, err = run_demo("--agent", "mine:agent", "--save", "kept.wav", cwd=tmp_path)
    assert code == 1
    assert "the agent was not heard; kept.wav was not written" in out
    assert "the log above says why" in out
    assert "closed control with 1011 the agent failed" in out
    assert "boom" in err
    assert (tmp_path / "kept.wav").read_text() == "older"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--agent=echo", "--save=none/a.wav"], "cannot write none/a.wav"),
        (["--agent=echo", "--save=."], "cannot write ."),
        (["--agent=parrot"], "expected echo, local"),
        (["--agnt=echo"], "--agnt=echo; see demo --help"),
    ],
)
def test_what_cannot_be_done_is_one_line_before_anything_began(
    arguments: list[str], line: str, tmp_path: Path
) -> None:
    code, out, err = run_demo(*arguments, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert line in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_names_the_default_agent_and_the_exit_codes(tmp_path: Path) -> None:
    code, out, err = run_demo("--help", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "local if its parts are installed, else echo" in " ".join(out.split())
    assert "130 after Ctrl-C" in out


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one child there")
def test_ctrl_c_ends_it_without_a_traceback_and_with_exit_130(tmp_path: Path) -> None:
    with open_demo("--agent", "echo", "--save", "a.wav", cwd=tmp_path) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "agent: echo\n"
            assert "Alice: Welcome" in child.stdout.readline()
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=DEADLINE_S)
        finally:
            child.kill()
    assert (child.returncode, err) == (130, "")
    assert out.splitlines() == [
        "",
        "stopped before the end",
        "the agent was not heard; a.wav was not written",
    ]
    assert not list(tmp_path.iterdir())


async def test_a_demo_that_is_stopped_tells_the_server(tmp_path: Path) -> None:
    stop = trio.Event()

    def stop_when_somebody_speaks(event: SimEvent) -> None:
        if isinstance(event, events.Spoke):
            stop.set()

    with trio.fail_after(DEADLINE_S):
        found = find_agent("echo")
        report = await hold(found, tmp_path / "a.wav", stop_when_somebody_speaks, stop)
    assert report.duration_s < 5
    assert {(close.channel, close.by, close.code) for close in report.closes} == {
        ("control", "bot", 1000),
        ("audio", "bot", 1000),
    }


def test_only_what_begins_between_a_question_and_the_next_line_answers_it() -> None:
    asked = Conversation((), ((0.5, 2.0), (2.0, 4.0), (8.0, float("inf"))))
    assert count_answered(HEARD, asked) == 2


def test_the_summary_claims_no_more_than_is_known() -> None:
    path = Path("a.wav")
    assert summary(HEARD, path, None) == (
        "3 answers of the agent were heard, 3.0 s in all; the meeting is in a.wav"
    )
    one = attrs.evolve(HEARD, answers=HEARD.answers[:1])
    assert summary(one, path, None).startswith("1 answer of the agent was heard")
    assert "2 of 5 questions were answered out loud" in summary(HEARD, path, 2)
    assert summary(SILENT, path, 0) == "the agent was not heard; a.wav was not written"


def test_the_printed_times_never_run_backwards() -> None:
    stream = io.StringIO()
    teller = Teller(stream)
    teller.tell(events.AudioStarted(1.0))
    teller.tell(events.Spoke(3.5, "Ann", 1.0, "hello"))
    teller.tell(events.AudioStopped(3.0, 2.0, False))
    assert stream.getvalue().splitlines() == [
        "   1.0 s        (the agent speaks)",
        "   3.5 s  Ann: hello",
        "   3.5 s        (the agent finished after 2.0 s) (at 3.0 s)",
    ]
