"""Who has which meeting: the choice of a worker, and what all of them know of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.fleet.places import (
    NOT_TAKING,
    SLACK,
    STALE_S,
    TRIES,
    Places,
    home_of,
    new_memory,
    place,
)


@contextmanager
def opened(path: Path, workers: int) -> Iterator[Callable[[], Places]]:
    """A fleet's, and what gives each worker its own view of it."""
    memory = new_memory(workers)
    with ExitStack() as stack:
        stack.callback(os.close, memory)

        def view() -> Places:
            return stack.enter_context(closing(Places(str(path), workers, memory)))

        view().make()
        yield view


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    with opened(tmp_path, 3) as view:
        yield view()


@given(st.lists(st.integers(NOT_TAKING, 10), min_size=1, max_size=5), st.text())
def test_a_meeting_begins_at_home_or_at_the_emptiest(bots: list[int], bot_id: str) -> None:
    slot, home = place(bot_id, bots), home_of(bot_id, len(bots))
    taking = [number for number in bots if number != NOT_TAKING]
    if slot is None:
        assert not taking
    elif slot == home:
        assert NOT_TAKING < bots[home] <= min(taking) + SLACK
    else:
        assert bots[slot] == min(taking)


@given(st.integers(1, 5), st.lists(st.text(), max_size=100))
def test_however_the_ids_fall_workers_have_nearly_as_many_bots(
    workers: int, bot_ids: list[str]
) -> None:
    bots = [0] * workers
    for bot_id in bot_ids:
        slot = place(bot_id, bots)
        assert slot is not None
        bots[slot] += 1
        assert max(bots) - min(bots) <= SLACK + 1


def test_whoever_claims_first_has_it_until_he_lets_go(places: Places) -> None:
    for bot_id in ("", "bot/../\0", "\udcff", "\u00fc" * 5000):
        assert places.owner(bot_id) is None
        assert [places.claim(bot_id, slot) for slot in (2, 0, 2)] == [2, 2, 2]
        assert places.owner(bot_id) == 2
        places.release(bot_id)
        assert places.owner(bot_id) is None
        assert places.claim(bot_id, 0) == 0


def test_of_several_who_claim_at_once_one_gets_it(tmp_path: Path) -> None:
    bots, workers = [f"bot-{n}" for n in range(300)], 4
    said: list[list[int]] = [[] for _ in range(workers)]
    start = threading.Barrier(workers)

    def claim(slot: int, places: Places) -> None:
        start.wait()
        said[slot] += [places.claim(bot_id, slot) for bot_id in bots]

    with opened(tmp_path, workers) as view:
        threads = [threading.Thread(target=claim, args=(n, view())) for n in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(len(set(answers)) == 1 for answers in zip(*said, strict=True))
    assert len(os.listdir(tmp_path / "meetings")) == len(bots)


def test_who_dies_has_nothing_and_the_others_keep_theirs(places: Places) -> None:
    for n in range(30):
        places.claim(f"bot-{n}", n % 3)
        places.tell(n % 3, n // 3)
    places.clear(1)
    assert [places.owner(f"bot-{n}") for n in range(6)] == [0, None, 2, 0, None, 2]
    assert places.bots == [9, NOT_TAKING, 9]


def test_all_see_what_one_says_and_who_says_nothing_takes_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    time = SimpleNamespace(monotonic_ns=lambda: round(now_s * 1e9))
    monkeypatch.setattr("trio_bridge.fleet.places.time", time)
    with opened(tmp_path, 3) as view:
        places, others = view(), view()
        assert places.bots == [NOT_TAKING] * 3, "nobody is there yet"
        others.tell(2, 7)
        places.tell(0, 1)
        assert places.bots == others.bots == [1, NOT_TAKING, 7]
        now_s += STALE_S / 2
        places.tell(0, NOT_TAKING)
        places.tell(1, 0)
        assert others.bots == [NOT_TAKING, 0, 7]
        now_s += STALE_S / 2
        assert others.bots == [NOT_TAKING, 0, NOT_TAKING]
        places.close()
        places.tell(0, 5)  # nothing
        places.close()
        assert others.bots == [NOT_TAKING, 0, NOT_TAKING]


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
