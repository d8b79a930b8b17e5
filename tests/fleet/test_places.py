"""Who has which meeting: the choice of a worker, and what all of them know of it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.fleet.places import NOT_TAKING, SLACK, TRIES, Places, place, slot_of


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    with contextlib.closing(Places(str(tmp_path), 3)) as places:
        yield places


@given(st.lists(st.integers(NOT_TAKING, 10), min_size=1, max_size=5), st.text())
def test_a_meeting_is_its_own_workers_or_the_emptiest_ones(
    meetings: list[int], bot_id: str
) -> None:
    slot, own = place(bot_id, meetings), slot_of(bot_id, len(meetings))
    taking = [number for number in meetings if number != NOT_TAKING]
    if not taking:
        assert slot == own  # which says no
    elif slot == own:
        assert NOT_TAKING < meetings[own] <= min(taking) + SLACK
    else:
        assert meetings[slot] == min(taking)


@given(st.integers(1, 5), st.lists(st.text(), max_size=100))
def test_however_the_ids_fall_workers_have_nearly_as_many_meetings(
    workers: int, bot_ids: list[str]
) -> None:
    meetings = [0] * workers
    for bot_id in bot_ids:
        meetings[place(bot_id, meetings)] += 1
        assert max(meetings) - min(meetings) <= SLACK + 1


def test_whoever_claims_first_has_it_until_he_lets_go(places: Places) -> None:
    for bot_id in ("", "bot/../\0", "\udcff", "\u00fc" * 5000):
        assert places.owner(bot_id) is None
        assert [places.claim(bot_id, slot) for slot in (2, 0, 2)] == [2, 2, 2]
        assert places.owner(bot_id) == 2
        for _ in range(2):  # once more does no harm
            places.release(bot_id)
            assert places.owner(bot_id) is None
        assert places.claim(bot_id, 0) == 0


def test_of_several_who_claim_at_once_one_gets_it(tmp_path: Path) -> None:
    bots, workers = [f"bot-{n}" for n in range(300)], 4
    said: list[list[int]] = [[] for _ in range(workers)]
    start = threading.Barrier(workers)

    def claim(slot: int) -> None:
        with contextlib.closing(Places(str(tmp_path), workers)) as places:
            start.wait()
            said[slot] += [places.claim(bot_id, slot) for bot_id in bots]

    threads = [threading.Thread(target=claim, args=(slot,)) for slot in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(set(answers)) == 1 for answers in zip(*said, strict=True))
    assert len(os.listdir(tmp_path / "meetings")) == len(bots)


def test_who_dies_has_nothing_and_the_others_keep_theirs(places: Places) -> None:
    for n in range(30):
        places.claim(f"bot-{n}", n % 3)
    places.clear(1)
    assert [places.owner(f"bot-{n}") for n in range(6)] == [0, None, 2, 0, None, 2]
    assert places.meetings == [0, NOT_TAKING, 0]


def test_all_see_what_one_says(places: Places, tmp_path: Path) -> None:
    with contextlib.closing(Places(str(tmp_path), 3)) as others:
        others.tell(2, 7)
        places.tell(0, NOT_TAKING)
        assert places.meetings == others.meetings == [NOT_TAKING, 0, 7]


def test_a_claim_beside_one_who_comes_and_goes_all_the_time_gives_up(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    places.claim("bot", 1)
    monkeypatch.setattr(places, "owner", looks.append)
    with pytest.raises(FileExistsError):
        places.claim("bot", 0)
    assert len(looks) == TRIES


def test_where_the_directory_is_gone_it_is_an_error_of_the_system(
    places: Places, tmp_path: Path
) -> None:
    (tmp_path / "meetings").rmdir()
    with pytest.raises(OSError, match="meetings"):
        places.claim("bot", 0)
    with pytest.raises(OSError, match="meetings"):
        places.clear(0)
    places.release("bot")
