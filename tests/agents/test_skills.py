"""From what was heard to a skill, from a skill to its answer."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agents.room import tone
from trio_bridge.agents.local.grammar import Skill, parse
from trio_bridge.agents.local.notes import LINES_KEPT, SPEAKERS_KEPT, MeetingNotes, spoken_s
from trio_bridge.agents.local.skills import (
    GAIN_ALONE,
    GAIN_WITH_LIKENESS,
    HELP,
    LINE_LENGTH,
    Heard,
    answer,
    duration,
    split_sentences,
    understand,
)

NOON = datetime(2026, 1, 2, 12, 5)


@pytest.mark.parametrize(
    ("heard", "skill"),
    [
        (Heard("what time is it", "", 0.0), Skill.TIME),
        (Heard("why was said so flyer", "what was said so far", 31.7), Skill.NOTES),
        (Heard("here has spoken", "who has spoken", GAIN_WITH_LIKENESS), Skill.SPEAKERS),
        (Heard("here has spoken", "who has spoken", GAIN_WITH_LIKENESS - 1), None),
        (Heard("shut the", "stop", GAIN_ALONE), Skill.STOP),
        (Heard("okay him", "help", GAIN_ALONE - 1), None),
        (Heard("we have plenty of time", "please what time is it now", -16.6), None),
        (Heard("", "", 0.0), None),
    ],
)
def test_a_command_needs_a_second_opinion(heard: Heard, skill: Skill | None) -> None:
    assert understand(heard) is skill


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (NOON, "It is 12:05 PM."),
        (datetime(2026, 1, 2, 0, 0), "It is 12:00 AM."),
        (datetime(2026, 1, 2, 9, 41), "It is 9:41 AM."),
        (datetime(2026, 1, 2, 23, 59), "It is 11:59 PM."),
    ],
)
def test_the_time_is_told_as_people_tell_it(now: datetime, text: str) -> None:
    assert answer(Skill.TIME, MeetingNotes(), now) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1 second"),
        (1.4, "1 second"),
        (12.6, "13 seconds"),
        (59.7, "1 minute"),
        (61.0, "1 minute and 1 second"),
        (125.0, "2 minutes and 5 seconds"),
    ],
)
def test_durations_are_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_who_has_spoken_begins_with_the_most_talkative() -> None:
    notes = MeetingNotes()
    notes.add_speech("p1", "Alice", 3.0)
    notes.add_speech("p2", "Bruno", 70.0)
    notes.add_speech("p1", "Alice", 4.0)
    assert answer(Skill.SPEAKERS, notes, NOON) == (
        "Bruno has spoken for 1 minute and 10 seconds. Alice has spoken for 7 seconds."
    )


def test_two_people_of_one_name_are_told_apart() -> None:
    notes = MeetingNotes()
    notes.add_speech("p1", "Ann", 3.0)
    notes.add_speech("p2", "Ann", 5.0)
    assert notes.talkers() == [("Ann", 5.0), ("Ann", 3.0)]


@pytest.mark.parametrize(
    ("people", "end"),
    [(6, "for 1 second."), (7, "So has one other."), (9, "So have 3 others.")],
)
def test_a_crowd_is_counted(people: int, end: str) -> None:
    notes = MeetingNotes()
    for n in range(people):
        notes.add_speech(str(n), f"P{n}", 1.0)
    assert answer(Skill.SPEAKERS, notes, NOON).endswith(end)


def test_what_was_said_is_the_last_lines_in_order() -> None:
    notes = MeetingNotes()
    for n in range(7):
        notes.add_line("Alice", f"line {n}.")
    text = answer(Skill.NOTES, notes, NOON)
    assert text.startswith("Alice said: line 2. Alice said: line 3.")
    assert text.endswith("Alice said: line 6.")


def test_a_long_line_is_cut_at_a_word() -> None:
    notes = MeetingNotes()
    notes.add_line("Alice", "word " * 1000)
    text = answer(Skill.NOTES, notes, NOON)
    assert len(text) < LINE_LENGTH + 30
    assert text.endswith("word and so on.")


def test_answers_before_anything_happened() -> None:
    notes = MeetingNotes()
    assert answer(Skill.SPEAKERS, notes, NOON) == "Nobody has spoken yet."
    assert answer(Skill.NOTES, notes, NOON) == "Nothing was said so far."
    assert answer(Skill.REPEAT, notes, NOON) == "I have not said anything yet."
    assert answer(Skill.HELP, notes, NOON) == HELP
    assert answer(Skill.STOP, notes, NOON) == ""


def test_the_last_answer_is_repeated() -> None:
    notes = MeetingNotes()
    notes.last_answer = "It is late."
    assert answer(Skill.REPEAT, notes, NOON) == "It is late."


@given(
    st.sampled_from(Skill),
    st.lists(st.tuples(st.text(max_size=8), st.floats(0, 1e5), st.text(max_size=40))),
)
def test_no_answer_is_a_command_so_a_chat_that_sends_it_back_starts_no_loop(
    skill: Skill, said: list[tuple[str, float, str]]
) -> None:
    notes = MeetingNotes()
    for name, seconds, text in said:
        notes.add_speech(name, name, seconds)
        notes.add_line(name, text)
    text = answer(skill, notes, NOON)
    assert parse(text) is None
    assert " ".join(split_sentences(text)).split() == text.split()


def test_memory_is_bounded() -> None:
    notes = MeetingNotes()
    for n in range(2 * SPEAKERS_KEPT):
        notes.add_speech(f"{n}", "x", 1.0)
        notes.add_line("x", f"{n}")
    assert len(notes.talkers()) == SPEAKERS_KEPT
    assert len(notes.last_lines(10**6)) == LINES_KEPT


def test_silence_around_speech_is_not_speech() -> None:
    quiet = np.zeros(16_000, np.float32)
    samples = np.concatenate((quiet, tone(2.0), quiet, tone(1.0), quiet))
    assert abs(spoken_s(samples, 16_000) - 4.0) <= 0.04
    assert spoken_s(quiet, 16_000) == 0.0
    assert spoken_s(quiet[:0], 16_000) == 0.0
