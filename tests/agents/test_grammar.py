"""The commands: what the recogniser is given and what the parser takes."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.agents.local.grammar import (
    AFTER,
    BEFORE,
    PHRASES,
    TYPED,
    Skill,
    jsgf,
    parse,
    sentences,
)

commands = st.sampled_from(
    [(skill, s) for skill, phrases in PHRASES.items() for p in phrases for s in sentences(p)]
)


def test_brackets_are_spoken_or_left_out() -> None:
    assert sorted(sentences("stop [it] now [please]")) == [
        "stop it now",
        "stop it now please",
        "stop now",
        "stop now please",
    ]


@given(commands, st.sampled_from(("", *BEFORE)), st.sampled_from(("", *AFTER)))
def test_every_sentence_of_the_grammar_parses_to_its_skill(
    command: tuple[Skill, str], before: str, after: str
) -> None:
    skill, sentence = command
    assert parse(f"{before} {sentence} {after}") is skill


@given(commands)
def test_case_and_punctuation_do_not_matter(command: tuple[Skill, str]) -> None:
    skill, sentence = command
    assert parse(f"  {sentence.upper()}?! ") is skill
    assert parse(sentence.replace("'", "\N{RIGHT SINGLE QUOTATION MARK}")) is skill


@pytest.mark.parametrize(("text", "skill"), TYPED.items())
def test_short_forms_can_be_typed(text: str, skill: Skill) -> None:
    assert parse(text.title()) is skill


@pytest.mark.parametrize(
    "text",
    [
        "",
        "please",
        "can you please",
        "we have plenty of time",
        "I cannot help you with that today",
        "the bus stop",
        "stop worrying",
        "who has spoken to the customer",
        "2 + 2",
        "\x00\ud800",
    ],
)
def test_a_command_inside_a_sentence_is_not_one(text: str) -> None:
    assert parse(text) is None


@given(st.text())
def test_any_text_parses_or_does_not(text: str) -> None:
    assert parse(text) is None or isinstance(parse(text), Skill)


def test_the_grammar_names_every_skill_once() -> None:
    text = jsgf()
    assert text.startswith("#JSGF V1.0;\n")
    for skill in Skill:
        assert len(re.findall(rf"^<{skill.value}> = .*;$", text, re.MULTILINE)) == 1
        assert f"<{skill.value}>" in text.splitlines()[-1]


@pytest.mark.skipif(find_spec("pocketsphinx") is None, reason="needs the extra `local`")
def test_the_recogniser_knows_every_word() -> None:
    spec = find_spec("pocketsphinx")
    assert spec is not None
    assert spec.origin is not None
    dictionary = Path(spec.origin).parent / "model" / "en-us" / "cmudict-en-us.dict"
    known = {line.split(" ", 1)[0] for line in dictionary.read_text("utf-8").splitlines()}
    rules = re.sub(r"<\w+>|[][();|=]|public", " ", jsgf().partition("grammar commands;")[2])
    assert set(rules.split()) <= known
