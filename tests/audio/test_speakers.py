from __future__ import annotations

import pytest

from trio_bridge.audio.speakers import LONGEST_TEXT, NO_SPEAKER, OwnVoice, Speaker


@pytest.mark.parametrize("name", ["Aisha", "Craig", "Claire", "Abbott", "Bot Jones", "Agent"])
def test_a_person_is_never_taken_for_the_bot_by_a_part_of_the_name(name: str) -> None:
    assert Speaker("u1", name) not in OwnVoice(("AI", "Bot", "MeetStream Agent"))


@pytest.mark.parametrize("name", ["My Agent", "my agent", " MY AGENT ", "My agent\n"])
def test_our_own_name_is_known_however_it_is_written(name: str) -> None:
    assert Speaker("u1", name) in OwnVoice(("My Agent",))


def test_an_id_is_exact() -> None:
    own = OwnVoice((), ("spaces/x/devices/7",))
    assert Speaker("spaces/x/devices/7", "Anything") in own
    assert Speaker("spaces/x/devices/77", "Anything") not in own


def test_a_speaker_is_told_apart_by_id_and_shown_by_name() -> None:
    assert Speaker("7", "Zoë").key == "7"
    assert Speaker("", "Zoë").key == "Zoë"
    assert [str(s) for s in (Speaker("7", "Zoë"), Speaker("7", ""), Speaker("", ""))] == [
        "Zoë",
        "7",
        "somebody",
    ]


def test_audio_of_nobody_in_particular_may_not_start_a_turn() -> None:
    assert not Speaker("", NO_SPEAKER).may_start_turn
    assert not Speaker(NO_SPEAKER, NO_SPEAKER).may_start_turn
    assert Speaker("", "").may_start_turn


def test_a_name_is_cut_where_no_platform_goes() -> None:
    assert Speaker.called("7", "Zoë") == Speaker("7", "Zoë")
    assert Speaker.called("x" * 999, "y" * 999) == Speaker(
        "x" * LONGEST_TEXT, "y" * LONGEST_TEXT
    )
