"""The queue between the task that listens and the task that speaks."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_bridge.agents.answers import Answers


async def test_answers_come_in_order_and_then_the_end() -> None:
    answers: Answers[int] = Answers(3)
    for n in range(3):
        answers.put(n)
    answers.close()
    assert [(await answers.take()).answer for _ in range(3)] == [0, 1, 2]
    with pytest.raises(trio.EndOfChannel):
        await answers.take()


async def test_a_full_queue_drops_its_oldest_answer_and_counts_it() -> None:
    answers: Answers[int] = Answers(2)
    for n in range(5):
        answers.put(n)
    assert answers.dropped == 3
    assert len(answers) == 2
    assert (await answers.take()).answer == 3


async def test_a_taker_waits_for_the_first_answer(autojump_clock: MockClock) -> None:
    answers: Answers[int] = Answers()
    taken: list[int] = []

    async def take() -> None:
        taken.append((await answers.take()).answer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        answers.put(7)
    assert taken == [7]


async def test_cancelling_a_taker_loses_nothing(autojump_clock: MockClock) -> None:
    answers: Answers[int] = Answers()
    with trio.move_on_after(1):
        await answers.take()
    answers.put(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await answers.take()
    assert (await answers.take()).answer == 1


async def test_an_interrupt_makes_everything_asked_before_it_stale() -> None:
    answers: Answers[str] = Answers()
    answers.put("spoken now")
    speaking = await answers.take()
    answers.put("old")
    answers.interrupted()
    assert answers.is_stale(speaking)
    answers.put("new")
    answers.cut(speaking)  # the speaker learns of the same interrupt later
    fresh = await answers.take()
    assert (fresh.answer, answers.is_stale(fresh), answers.dropped) == ("new", False, 1)


async def test_a_cut_turn_drops_what_waited_before_the_listener_knows() -> None:
    answers: Answers[str] = Answers()
    answers.put("spoken now")
    speaking = await answers.take()
    answers.put("old")
    answers.cut(speaking)
    answers.interrupted()
    answers.put("new")
    assert (await answers.take()).answer == "new"
