"""``python -m trio_bridge demo``: bridge, bot and agent in one process, and what they say.

A bundled conversation of two synthetic voices is played into a bridge on loopback, as a bot in
a meeting would; the transcript appears as it happens, and the meeting is saved as a WAV.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, TextIO

import attrs
import trio

from trio_bridge.agents import FoundAgent, find_agent
from trio_bridge.config import Settings
from trio_bridge.log import printable, set_up_logging
from trio_bridge.server import Address, serve
from trio_bridge.simulator import Report, Scenario, SpeakerPart, simulate
from trio_bridge.simulator.events import (
    AudioStarted,
    AudioStopped,
    CaptionPosted,
    ChatPosted,
    SimEvent,
    Spoke,
)

BOT_NAME = "Demo Bot"
NOT_HEARD = 1
"""Exit status when the agent was not heard."""


@attrs.frozen
class Conversation:
    """The bundled conversation: what is said when, and which of it are questions."""

    parts: tuple[SpeakerPart, ...]
    questions: tuple[tuple[float, float], ...]
    """When each question has been said, and when the next line begins; seconds."""


def main(argv: list[str]) -> int:
    """Run the demo; 0 only if the agent was heard in the meeting."""
    parser = argparse.ArgumentParser(
        prog="python -m trio_bridge demo",
        description="Play a bundled conversation to an agent on this machine (about a minute).",
    )
    parser.add_argument(
        "--agent", help="echo, local or package.module:function [best there is]"
    )
    parser.add_argument(
        "--save",
        metavar="FILE",
        type=Path,
        default=Path("trio_bridge_demo.wav"),
        help="WAV of what the meeting heard [%(default)s]",
    )
    options = parser.parse_args(argv)
    set_up_logging(sys.stderr, "warning")
    found = find_agent(options.agent)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    teller = Teller(sys.stdout, colour)
    teller.say(f"agent: {found.name}" + (f" ({found.note})" if found.note else ""))
    report = trio.run(hold, found, options.save, teller.tell)
    conversation = load_conversation()
    answered = count_answered(report, conversation)
    teller.say(
        f"\n{answered} of {len(conversation.questions)} questions were answered out loud; the "
        f"agent was heard for {report.heard_s:.1f} s; the meeting is in {options.save}"
    )
    if report.heard_s == 0:
        teller.say("the agent was not heard: the log above says why")
        return NOT_HEARD
    return 0


async def hold(found: FoundAgent, save: Path, on_event: Callable[[SimEvent], None]) -> Report:
    """One meeting on loopback, from the server's start to its end."""
    settings = Settings(port=0, bot_name=(BOT_NAME,))
    async with trio.open_nursery() as nursery:
        address: Address = await nursery.start(serve, found.agent, settings)
        scenario = Scenario(
            url=address.url.replace("http", "ws", 1),
            bot_id="demo",
            bot_name=BOT_NAME,
            speakers=load_conversation().parts,
            save=save,
        )
        report = await simulate(scenario, on_event=on_event)
        nursery.cancel_scope.cancel()
    return report


def load_conversation() -> Conversation:
    """The conversation from the package's data."""
    data = resources.files("trio_bridge") / "data"
    script: dict[str, Any] = json.loads((data / "conversation.json").read_text())
    lines = script["lines"]
    parts = tuple(
        SpeakerPart(
            line["who"],
            script["speakers"][line["who"]],
            Path(str(data / line["file"])),
            line["at_s"],
            line["text"],
        )
        for line in lines
    )
    nexts = [*(line["at_s"] for line in lines[1:]), float("inf")]
    questions = tuple(
        (line["at_s"] + line["duration_s"], next_s)
        for line, next_s in zip(lines, nexts, strict=True)
        if line["is_question"]
    )
    return Conversation(parts, questions)


def count_answered(report: Report, conversation: Conversation) -> int:
    """Questions after which the agent began to speak before the next line was said."""
    starts = [answer.start_s for answer in report.answers]
    return sum(
        any(end_s <= start_s < next_s for start_s in starts)
        for end_s, next_s in conversation.questions
    )


@attrs.define(eq=False)
class Teller:
    """Prints a meeting as it happens: people to the left, the agent indented."""

    stream: TextIO
    colour: bool = False

    def tell(self, event: SimEvent) -> None:
        """Print ``event``, if it is worth a line."""
        match event:
            case Spoke(speaker_name=name, text=text):
                self._line(event.at_s, "1", f"{name}: {text}")
            case CaptionPosted(role="user", text=text, is_final=True):
                self._line(event.at_s, "2", f"      understood  {text}")
            case ChatPosted(text=text):
                self._line(event.at_s, "36", f"      agent       {text}")
            case AudioStarted():
                self._line(event.at_s, "36", "      (the agent speaks)")
            case AudioStopped(played_s=played_s, cut=cut):
                how = "was interrupted" if cut else "finished"
                self._line(event.at_s, "36", f"      (the agent {how} after {played_s:.1f} s)")

    def say(self, text: str) -> None:
        """Print ``text`` as it is."""
        self.stream.write(text + "\n")
        self.stream.flush()

    def _line(self, at_s: float, style: str, text: str) -> None:
        text = f"{at_s:6.1f} s  {printable(text)}"
        self.say(f"\x1b[{style}m{text}\x1b[0m" if self.colour else text)
