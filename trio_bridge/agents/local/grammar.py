"""The commands people can say: one table that makes the recogniser's grammar and the parser.

Pure text, no audio. A phrase is words, with ``[optional ones]`` in brackets; every word must
be in the recogniser's dictionary (CMUdict), which has no digits and spells the American way.
"""

from __future__ import annotations

import enum
import itertools
import re
from collections.abc import Iterator


class Skill(enum.Enum):
    """What the agent can be asked to do."""

    TIME = "time"
    REPEAT = "repeat"
    SPEAKERS = "speakers"
    NOTES = "notes"
    HELP = "help"
    STOP = "stop"


PHRASES: dict[Skill, tuple[str, ...]] = {
    Skill.TIME: (
        "what time is it [now]",
        "what is the time",
        "what's the time",
        "tell me [what] the time",
        "tell me what time it is",
    ),
    Skill.REPEAT: (
        "repeat that",
        "repeat it",
        "say that again",
        "say it again",
        "repeat the last answer",
        "repeat your [last] answer",
    ),
    Skill.SPEAKERS: (
        "who has spoken [so far]",
        "who has spoken and for how long",
        "who has been speaking [so far]",
        "who has been speaking and for how long",
        "who spoke [so far]",
        "who has talked [so far]",
        "who [has] talked the most",
        "how long has everyone spoken",
    ),
    Skill.NOTES: (
        "what was said [so far]",
        "what has been said [so far]",
        "what have we said [so far]",
        "what did we say [so far]",
        "summarize the meeting [so far]",
    ),
    Skill.HELP: ("help [me]", "what can you do", "what are your commands", "what can i say"),
    Skill.STOP: ("stop [stop] [stop]", "stop it", "stop talking", "be quiet"),
}

BEFORE = ("please", "can you", "could you")
AFTER = ("please",)
"""More of these cost more than they give: "no" was heard as "now help"."""

TYPED: dict[str, Skill] = {
    "time": Skill.TIME,
    "repeat": Skill.REPEAT,
    "again": Skill.REPEAT,
    "speakers": Skill.SPEAKERS,
    "who": Skill.SPEAKERS,
    "notes": Skill.NOTES,
    "summary": Skill.NOTES,
    "summarise the meeting": Skill.NOTES,
    "summarize": Skill.NOTES,
    "commands": Skill.HELP,
    "?": Skill.HELP,
    "quiet": Skill.STOP,
}
"""Short forms for the keyboard. Not for the microphone: single words are what ordinary talk is
mistaken for most."""


def sentences(phrase: str) -> Iterator[str]:
    """Every way to say ``phrase``: each bracket left out or spoken."""
    choices = [
        ("", part[1:-1]) if part.startswith("[") else (part,)
        for part in re.findall(r"\[[^]]*\]|[^ \[]+", phrase)
    ]
    for words in itertools.product(*choices):
        yield " ".join(filter(None, words))


def jsgf() -> str:
    """The grammar in the Java Speech Grammar Format, for the recogniser."""
    rules = [f"<{skill.value}> = {' | '.join(phrases)};" for skill, phrases in PHRASES.items()]
    skills = " | ".join(f"<{skill.value}>" for skill in PHRASES)
    return "\n".join(
        [
            "#JSGF V1.0;",
            "grammar commands;",
            f"<before> = {' | '.join(BEFORE)};",
            f"<after> = {' | '.join(AFTER)};",
            *rules,
            f"public <command> = [<before>] ({skills}) [<after>];",
            "",
        ]
    )


def parse(text: str) -> Skill | None:
    """The command that ``text`` is, as a whole; None when it is not one.

    The whole text must be the command: finding one inside a sentence would answer "I have no
    time to help", and would answer our own answers when the platform sends them back.
    """
    said = _plain(text)
    found = TYPED.get(text.strip().casefold()) or _SPOKEN.get(said) or TYPED.get(said)
    if found is not None:
        return found
    for before, after in itertools.product(("", *BEFORE), ("", *AFTER)):
        core = said
        if before and core.startswith(before + " "):
            core = core[len(before) + 1 :]
        if after and core.endswith(" " + after):
            core = core[: -len(after) - 1]
        if core != said and (found := _SPOKEN.get(core)) is not None:
            return found
    return None


def _plain(text: str) -> str:
    return " ".join(
        re.findall(r"[a-z']+", text.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    )


_SPOKEN = {
    sentence: skill
    for skill, phrases in PHRASES.items()
    for phrase in phrases
    for sentence in sentences(phrase)
}
