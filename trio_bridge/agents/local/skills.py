"""What the agent can do: from what was heard to a skill, and from a skill to its answer.

Plain functions on values: no audio, no clock of its own.
"""

from __future__ import annotations

import difflib
import re
from datetime import datetime

import attrs

from trio_bridge.agents.local.grammar import Skill, parse
from trio_bridge.agents.local.notes import MeetingNotes

GAIN_ALONE = 20.0
GAIN_WITH_LIKENESS = 10.0
LIKENESS = 0.7
"""When a command is believed. Chosen on 608 clips of four flite voices at three speeds, where
327 of 332 commands are understood and 2 of 276 other sentences (about a third of them close to
a command) are taken for one. The same clips served to choose and to measure; none is human."""

LINES_TOLD = 5
"""Lines of the meeting that are read out: about half a minute."""
NAMES_TOLD = 6
LINE_LENGTH = 200
"""Characters of one line that are read out."""

HELP = (
    "You can ask me: what time is it. Who has spoken, and for how long. "
    "What was said so far. Repeat that. Stop. I answer aloud and in the chat."
)


@attrs.frozen
class Heard:
    """One utterance, recognised twice."""

    free: str
    """As ordinary English; empty when nothing was recognised."""
    command: str
    """As the best command of the grammar, however bad a match; empty when none fits at all."""
    gain: float
    """How much likelier the command is than the free text: the log of the ratio, to the
    recogniser's base, for each 10 ms frame of speech."""


def understand(heard: Heard) -> Skill | None:
    """The command that was spoken, or None for ordinary talk.

    A grammar hears a command in everything, so its answer needs a second opinion. Talk is
    likelier as free text; a command is much likelier as a command, and reads much alike.
    """
    if (skill := parse(heard.free)) is not None:
        return skill
    if not heard.command:
        return None
    alike = difflib.SequenceMatcher(None, heard.free, heard.command, autojunk=False).ratio()
    if heard.gain >= GAIN_ALONE or (heard.gain >= GAIN_WITH_LIKENESS and alike >= LIKENESS):
        return parse(heard.command)
    return None


def answer(skill: Skill, notes: MeetingNotes, now: datetime) -> str:
    """What to say and write for ``skill``; empty for `Skill.STOP`, which is done, not said."""
    match skill:
        case Skill.TIME:
            half = "AM" if now.hour < 12 else "PM"
            return f"It is {now.hour % 12 or 12}:{now.minute:02} {half}."
        case Skill.REPEAT:
            return notes.last_answer or "I have not said anything yet."
        case Skill.SPEAKERS:
            return _talkers(notes)
        case Skill.NOTES:
            return _lines(notes)
        case Skill.HELP:
            return HELP
        case Skill.STOP:
            return ""


def split_sentences(text: str) -> list[str]:
    """``text`` in pieces to be spoken one by one, so that the first is heard soon."""
    return [piece for piece in re.split(r"(?<=[.!?])\s+", text.strip()) if piece]


def duration(seconds: float) -> str:
    """``seconds`` as people say it."""
    minutes, rest = divmod(max(1, round(seconds)), 60)
    parts = [f"{minutes} minute{'s'[: minutes != 1]}"] if minutes else []
    if rest or not minutes:
        parts.append(f"{rest} second{'s'[: rest != 1]}")
    return " and ".join(parts)


def _talkers(notes: MeetingNotes) -> str:
    talkers = notes.talkers()
    if not talkers:
        return "Nobody has spoken yet."
    told = [
        f"{name} has spoken for {duration(spoken)}." for name, spoken in talkers[:NAMES_TOLD]
    ]
    if (others := len(talkers) - NAMES_TOLD) > 0:
        told.append(f"So {'has one other' if others == 1 else f'have {others} others'}.")
    return " ".join(told)


def _lines(notes: MeetingNotes) -> str:
    lines = notes.last_lines(LINES_TOLD)
    if not lines:
        return "Nothing was said so far."
    return " ".join(f"{line.speaker} said: {_clipped(line.text)}." for line in lines)


def _clipped(text: str) -> str:
    text = " ".join(text.split()).rstrip(".!?")
    return (
        text
        if len(text) <= LINE_LENGTH
        else text[:LINE_LENGTH].rsplit(" ", 1)[0] + " and so on"
    )
