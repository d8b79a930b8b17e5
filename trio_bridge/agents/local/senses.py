"""The agent's ears and mouth: child processes behind two small protocols."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from typing import Protocol

import attrs
import trio

from trio_bridge.agents.local.child import Child, open_child, worker_command
from trio_bridge.agents.local.errors import AgentError
from trio_bridge.agents.local.skills import Heard
from trio_bridge.agents.local.speech import (
    RATE_WORDS_PER_MIN,
    VOICE,
    Speech,
    decode_speech,
    read_wav,
)
from trio_bridge.audio.pcm import Samples, to_pcm16

RATE_HZ = 16_000
"""What the recogniser's models were trained on."""

HEAR_S, HEAR_PER_SECOND_S = 5.0, 2.0
"""Deadline of a recognition: twenty times what it takes on an idle core."""
SPEAK_S = 5.0
"""Deadline of one sentence, which takes some 20 ms."""
SENTENCE_LENGTH = 1_000
"""Characters of one request to the voice: more is a runaway, and would delay an interrupt."""

EXECUTABLE = "espeak-ng"


class Ears(Protocol):
    """Speech to text."""

    async def hear(self, samples: Samples) -> Heard:
        """What was said in ``samples``: float32 ``(n,)`` at `RATE_HZ`. Raises `AgentError`."""


class Voice(Protocol):
    """Text to speech."""

    async def speak(self, sentence: str) -> Speech:
        """One sentence, spoken. Raises `AgentError`."""


@attrs.frozen
class ChildEars:
    """Ears in a child process: 150 MB, half a second to load, started by the first words."""

    _child: Child

    async def hear(self, samples: Samples) -> Heard:
        """As `Ears.hear`."""
        deadline_s = HEAR_S + HEAR_PER_SECOND_S * len(samples) / RATE_HZ
        reply = await self._child.request(to_pcm16(samples), deadline_s)
        try:
            fields = json.loads(reply)
            return Heard(str(fields["free"]), str(fields["command"]), float(fields["gain"]))
        except (ValueError, TypeError, KeyError) as error:
            raise AgentError("the recogniser's answer makes no sense") from error


@attrs.frozen
class ChildVoice:
    """The voice of the ``espeakng-loader`` wheel, in a child process."""

    _child: Child

    async def speak(self, sentence: str) -> Speech:
        """As `Voice.speak`."""
        return decode_speech(
            await self._child.request(
                sentence[:SENTENCE_LENGTH].encode("utf-8", "replace"), SPEAK_S
            )
        )


@attrs.frozen
class ExecutableVoice:
    """An installed ``espeak-ng``: a process a sentence, ended with its sentence."""

    path: str

    async def speak(self, sentence: str) -> Speech:
        """As `Voice.speak`."""
        command = [self.path, "--stdout", "-b", "1", "-v", VOICE]
        command += ["-s", str(RATE_WORDS_PER_MIN), "--stdin"]
        text = sentence[:SENTENCE_LENGTH].encode("utf-8", "replace")
        try:
            with trio.fail_after(SPEAK_S):
                done = await trio.run_process(
                    command, stdin=text, capture_stdout=True, stderr=subprocess.DEVNULL
                )
        except trio.TooSlowError:
            raise AgentError(f"{self.path} took longer than {SPEAK_S:g} s") from None
        except (OSError, subprocess.CalledProcessError) as error:
            raise AgentError(f"{self.path} failed: {error}") from error
        return read_wav(done.stdout)


@attrs.define(eq=False)
class FirstThatSpeaks:
    """Several voices in order of preference: one that fails is not asked again."""

    _voices: list[Voice]
    _report: Callable[..., None]

    async def speak(self, sentence: str) -> Speech:
        """As `Voice.speak`; raises what the last voice raised."""
        while True:
            voice = self._voices[0]
            try:
                return await voice.speak(sentence)
            except AgentError as error:
                if len(self._voices) == 1:
                    raise
                self._report("voice given up", reason=str(error))
                if self._voices[0] is voice:
                    del self._voices[0]


@asynccontextmanager
async def open_ears(report: Callable[..., None]) -> AsyncIterator[Ears]:
    """Ears for one meeting; their process, if one was started, ends with the block."""
    async with open_child("the recogniser", worker_command("hear"), report) as child:
        yield ChildEars(child)


@asynccontextmanager
async def open_voice(report: Callable[..., None]) -> AsyncIterator[Voice]:
    """A voice for one meeting: an installed espeak-ng where there is one, else the wheel's."""
    async with AsyncExitStack() as stack:
        voices: list[Voice] = []
        if (path := shutil.which(EXECUTABLE)) is not None:
            voices.append(ExecutableVoice(path))
        if path is None or find_spec("espeakng_loader") is not None:
            child = await stack.enter_async_context(
                open_child("the voice", worker_command("speak"), report)
            )
            voices.append(ChildVoice(child))
        yield FirstThatSpeaks(voices, report)
