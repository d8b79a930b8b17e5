"""The real recogniser and voice, once each; and what happens when they misbehave."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import trio

from trio_bridge.agents import find_agent
from trio_bridge.agents.local import agent as agent_module
from trio_bridge.agents.local import senses
from trio_bridge.agents.local.agent import local
from trio_bridge.agents.local.child import Child
from trio_bridge.agents.local.errors import AgentError
from trio_bridge.agents.local.senses import (
    ChildEars,
    ChildVoice,
    ExecutableVoice,
    FirstThatSpeaks,
    open_ears,
    open_voice,
)
from trio_bridge.agents.local.skills import Heard, understand
from trio_bridge.agents.local.speech import Speech, decode_speech, encode_speech, read_wav
from trio_bridge.agents.local.worker import load
from trio_bridge.audio.pcm import Samples, from_pcm16, to_pcm16
from trio_bridge.audio.vad import EnergyVad, SpeechEnded

DATA = Path(find_agent.__code__.co_filename).parents[1] / "data"
LINES: list[dict[str, Any]] = json.loads((DATA / "conversation.json").read_text())["lines"]

needs_local = pytest.mark.skipif(
    find_spec("pocketsphinx") is None or find_spec("espeakng_loader") is None,
    reason="needs the extra `local`",
)


def report(event: str, **fields: object) -> None:
    """Nobody is listening."""


def as_the_meeting_has_it(path: Path) -> list[Samples]:
    """The utterances of a file after its way through a meeting at 48 kHz."""
    speech = read_wav(path.read_bytes())
    silence = np.zeros(16_000, np.float32)
    there = soxr.resample(np.concatenate((silence, speech.samples, silence)), 16_000, 48_000)
    back = soxr.resample(from_pcm16(to_pcm16(there)), 48_000, 16_000)
    events = EnergyVad(16_000).feed(back)
    return [event.samples for event in events if isinstance(event, SpeechEnded)]


@needs_local
def test_every_line_of_the_bundled_conversation_is_understood() -> None:
    work = load("hear")
    for line in LINES:
        (utterance,) = as_the_meeting_has_it(DATA / line["file"])
        heard = Heard(**json.loads(work(to_pcm16(utterance))))
        skill = understand(heard)
        assert (skill and skill.value) == line["skill"], (line["text"], heard)


@needs_local
def test_silence_and_nothing_are_recognised_as_nothing_to_answer() -> None:
    work = load("hear")
    for pcm in (b"", bytes(2 * 160), bytes(2 * 16_000)):
        assert understand(Heard(**json.loads(work(pcm)))) is None


def test_the_bundled_files_are_what_their_list_says() -> None:
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 900_000
    ends_s = 0.0
    for line in LINES:
        speech = read_wav((DATA / line["file"]).read_bytes())
        assert speech.rate_hz == 16_000
        assert abs(len(speech.samples) / 16_000 - line["duration_s"]) < 0.01
        assert line["at_s"] > ends_s  # nobody talks over anybody
        ends_s = line["at_s"] + line["duration_s"]
    assert 35 < ends_s < 60
    assert sum(line["is_question"] for line in LINES) >= 5


@needs_local
def test_the_voice_of_the_wheel_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path.cwd())  # the synthesiser changes directory; put it back
    work = load("speak")
    speech = decode_speech(work(b"It is twelve o'clock."))
    again = decode_speech(work("Caf\N{LATIN SMALL LETTER E WITH ACUTE}\0!".encode()))
    assert 1.0 < len(speech.samples) / speech.rate_hz < 4.0
    assert np.abs(speech.samples).max() > 0.1
    assert 0.2 < len(again.samples) / again.rate_hz < 2.0
    assert not decode_speech(work(b"")).samples.any()


@needs_local
async def test_ears_and_voice_in_their_processes_understand_each_other_and_leave_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with trio.fail_after(30):
        async with open_ears(report) as ears, open_voice(report) as voice:
            (utterance,) = as_the_meeting_has_it(DATA / LINES[2]["file"])
            assert (await ears.hear(utterance)).free == "what time is it"
            speech = await voice.speak("Hello.")
            assert len(speech.samples) > speech.rate_hz / 5
            assert isinstance(ears, ChildEars)
            pid = ears._child.pid
            assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


class Parrot(Child):
    """A child that always gives the same answer."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("the parrot", [], report)
        self.answer = answer

    async def request(self, body: bytes, deadline_s: float) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.answer


@pytest.mark.parametrize("reply", [b"", b"7", b"[]", b'{"free": ""}', b"\xff", b'{"free": '])
async def test_a_recogniser_that_makes_no_sense_is_an_agent_error(reply: bytes) -> None:
    with pytest.raises(AgentError, match="makes no sense"):
        await ChildEars(Parrot(reply)).hear(np.zeros(10, np.float32))


@pytest.mark.parametrize("reply", [b"", b"abc", b"\0\0\0\0", encode_speech(b"ab", 99)])
async def test_a_voice_that_makes_no_sense_is_an_agent_error(reply: bytes) -> None:
    with pytest.raises(AgentError):
        await ChildVoice(Parrot(reply)).speak("hello")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\0\0\0\0WAVEdata\0\0\0\0",
        b"RIFF\0\0\0\0WAVEfmt \x04\0\0\0\1\0\1\0",
        b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\1\0\2\0" + bytes(12) + b"data\0\0\0\0",
        b"not a WAV file at all",
    ],
)
def test_what_is_no_wav_file_is_an_agent_error(data: bytes) -> None:
    with pytest.raises(AgentError, match="espeak-ng wrote"):
        read_wav(data)


WAV = (
    b"RIFF\xff\xff\xff\x7fWAVEfmt \x10\0\0\0\1\0\1\0\x22\x56\0\0\x44\xac\0\0\2\0\x10\0"
    b"LIST\1\0\0\0xxdata\xff\xff\xff\x7f\0\0\0\x40\0\xc0\1"
)
"""As written to a pipe: lengths of two gigabytes, an odd chunk before, half a sample behind."""


def test_a_wav_file_written_to_a_pipe_is_read_to_its_real_end() -> None:
    speech = read_wav(WAV)
    assert speech.rate_hz == 22_050
    assert speech.samples.tolist() == [0.0, 0.5, -0.5]


def program(path: Path, body: str) -> ExecutableVoice:
    """An espeak-ng of our own making."""
    path.write_text(f"#!{sys.executable}\nimport sys, time\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return ExecutableVoice(str(path))


async def test_an_installed_voice_gets_the_text_on_its_input(tmp_path: Path) -> None:
    voice = program(
        tmp_path / "espeak-ng",
        "assert sys.stdin.read() == '--help; $(reboot)' and sys.argv[-1] == '--stdin'\n"
        f"sys.stdout.buffer.write({WAV!r})",
    )
    with trio.fail_after(10):
        assert (await voice.speak("--help; $(reboot)")).rate_hz == 22_050


async def test_an_installed_voice_that_fails_or_hangs_is_an_agent_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(20):
        with pytest.raises(AgentError, match=r"failed: .* exit status 3"):
            await program(tmp_path / "failing", "sys.exit(3)").speak("hello")
        with pytest.raises(AgentError, match="failed"):
            await ExecutableVoice(str(tmp_path / "absent")).speak("hello")
        monkeypatch.setattr(senses, "SPEAK_S", 0.3)
        with pytest.raises(AgentError, match=r"took longer than 0\.3 s"):
            await program(tmp_path / "hanging", "time.sleep(60)").speak("hello")


class Singer:
    """A voice that can be broken."""

    def __init__(self, *, broken: bool) -> None:
        self.broken, self.asked = broken, 0

    async def speak(self, sentence: str) -> Speech:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise AgentError("broken")
        return Speech(np.zeros(1, np.float32), 22_050)


async def test_a_voice_that_fails_gives_way_to_the_next_for_good() -> None:
    first, second = Singer(broken=True), Singer(broken=False)
    voice = FirstThatSpeaks([first, second], report)
    for _ in range(3):
        await voice.speak("hello")
    assert (first.asked, second.asked) == (1, 3)
    second.broken = True
    with pytest.raises(AgentError):  # the last one is asked again and again
        await voice.speak("hello")
    second.broken = False
    await voice.speak("hello")


async def test_an_installed_espeak_is_preferred_and_the_wheel_stands_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for path, wheel, kinds in (
        ("/usr/bin/espeak-ng", True, [ExecutableVoice, ChildVoice]),
        ("/usr/bin/espeak-ng", False, [ExecutableVoice]),
        (None, True, [ChildVoice]),
        (None, False, [ChildVoice]),  # whose first request then says what is missing
    ):
        found = object() if wheel else None
        monkeypatch.setattr(shutil, "which", lambda name, path=path: path)
        monkeypatch.setattr(senses, "find_spec", lambda name, found=found: found)
        async with open_voice(report) as voice:
            assert isinstance(voice, FirstThatSpeaks)
            assert [type(v) for v in voice._voices] == kinds


async def test_the_agent_opens_its_senses_and_closes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trail: list[str] = []

    def opener(name: str) -> Any:
        @asynccontextmanager
        async def open_sense(report: object) -> AsyncIterator[str]:
            trail.append(f"open {name}")
            yield name
            trail.append(f"close {name}")

        return open_sense

    async def converse(meeting: Any, ears: Any, voice: Any, *, now: Any) -> None:
        await trio.lowlevel.checkpoint()
        trail.append(f"{meeting.name} with {ears} and {voice} at {now().year > 2000}")

    class SomeMeeting:
        name = "meeting"

        def log(self, event: str, **fields: object) -> None: ...

    monkeypatch.setattr(agent_module, "open_ears", opener("ears"))
    monkeypatch.setattr(agent_module, "open_voice", opener("voice"))
    monkeypatch.setattr(agent_module, "converse", converse)
    meeting: Any = SomeMeeting()
    await local(meeting)
    assert trail == [
        "open ears",
        "open voice",
        "meeting with ears and voice at True",
        "close voice",
        "close ears",
    ]
