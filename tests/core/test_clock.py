"""One task keeps the time of all meetings."""

from __future__ import annotations

import math
from contextvars import ContextVar

import pytest
import trio
from trio.testing import MockClock

from trio_bridge.clock import GRID_S, LATE_S, LOOKS_A_STRIKE, STRIKES_A_TURN, Clock

pytestmark = pytest.mark.usefixtures("autojump_clock")


async def test_what_falls_due_together_is_struck_together_and_in_order() -> None:
    clock, struck = Clock(), list[tuple[str, float]]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        start_s = trio.current_time()
        for name, after_s in (("c", 1.009), ("b", 1.006), ("a", 1.005), ("later", 1.5)):
            clock.at(start_s + after_s, lambda now_s, name=name: struck.append((name, now_s)))  # type: ignore[misc]
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert [name for name, _ in struck] == ["a", "b", "c", "later"]
    assert len({now_s for _, now_s in struck[:3]}) == 1
    for (_, now_s), after_s in zip(struck, (1.005, 1.006, 1.009, 1.5), strict=True):
        assert 0 <= now_s - start_s - after_s <= GRID_S + 1e-9


@pytest.mark.parametrize("later_s", [100, math.inf])
async def test_an_earlier_time_wakes_a_clock_that_waits_for_a_later_one_or_for_none(
    later_s: float,
) -> None:
    clock, struck = Clock(), list[float]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        await trio.sleep(0.5)
        clock.at(trio.current_time() + later_s, struck.append)
        await trio.sleep(0.5)
        asked_s = trio.current_time() + 0.1
        clock.at(asked_s, struck.append)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(struck) == 1
    assert asked_s <= struck[0] <= asked_s + GRID_S + 1e-9


async def test_who_asks_again_while_struck_is_struck_again(autojump_clock: MockClock) -> None:
    clock, struck = Clock(), list[float]()

    def strike(now_s: float) -> None:
        struck.append(now_s)
        clock.at(now_s + 0.1, strike)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        clock.at(trio.current_time(), strike)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert 80 <= len(struck) <= 101


async def test_many_that_fall_due_together_let_others_have_their_turn_in_between() -> None:
    clock, struck, seen = Clock(), list[float](), set[int]()
    many = 10 * STRIKES_A_TURN

    async def bystander() -> None:
        while len(struck) < many:
            await trio.lowlevel.checkpoint()
            seen.add(len(struck))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        for _ in range(many):
            clock.at(trio.current_time() + 0.1, struck.append)
        await trio.sleep(0.1)
        nursery.start_soon(bystander)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(struck) == many
    assert len(seen) >= 10 / 2
    assert len(set(struck)) == 1, "all at the one time"


@pytest.mark.parametrize(("times", "looked"), [(0, 1), (3, 4), (10**6, LOOKS_A_STRIKE)])
async def test_what_is_more_urgent_comes_first_after_each_strike_but_not_for_ever(
    times: int, looked: int
) -> None:
    """``times``: how often in a row a look wakes somebody."""
    clock, done = Clock(), list[str]()

    def look() -> bool:
        done.append("look")
        return done[-times - 1 :] != ["look"] * (times + 1)

    clock.look = look
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            clock.at(trio.current_time(), lambda _: done.append("strike"))
        nursery.start_soon(clock.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert done == (["strike"] + ["look"] * looked) * 5


async def test_strikes_that_are_late_come_before_what_is_more_urgent(
    autojump_clock: MockClock,
) -> None:
    clock, looks, struck = Clock(), list[float](), list[float]()

    def look() -> bool:
        looks.append(trio.current_time())
        autojump_clock.jump(GRID_S / LOOKS_A_STRIKE)  # and it takes its time
        return True

    clock.look = look
    async with trio.open_nursery() as nursery:
        began_s = trio.current_time()
        for _ in range(1_000):
            clock.at(began_s, struck.append)
        nursery.start_soon(clock.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(struck) == 1_000
    assert len(looks) <= (LATE_S / GRID_S + 1) * LOOKS_A_STRIKE
    assert struck[-1] > looks[-1], "not the time when the first of them was due"


async def test_what_another_strikes_in_time_does_not_wake_the_clock() -> None:
    clock, struck, steps = Clock(), list[float](), 0

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal steps
            steps += task.name.endswith("Clock.run")

    def strike(now_s: float) -> None:
        struck.append(now_s)
        clock.at(now_s + 0.1, strike)

    async with trio.open_nursery() as nursery:
        clock.at(trio.current_time(), strike)
        nursery.start_soon(clock.run)
        await trio.sleep(0.05)
        counter = Steps()
        trio.lowlevel.add_instrument(counter)
        with clock.left_to_another(slack_s=0.01):
            for _ in range(50):
                await trio.sleep(0.005)
                if clock.next_s <= trio.current_time():
                    clock.strike_one(trio.current_time())
        before = len(struck)
        assert before == 3
        assert steps == 0
        await trio.sleep(1)
        trio.lowlevel.remove_instrument(counter)
        nursery.cancel_scope.cancel()
    assert len(struck) - before >= 8, "when he is gone it strikes again"


async def test_when_the_other_is_gone_what_was_left_to_him_is_struck_in_time() -> None:
    clock, struck = Clock(), list[float]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        due_s = trio.current_time() + 1.0
        with clock.left_to_another(slack_s=100.0):
            clock.at(due_s, struck.append)
            await trio.sleep(0.5)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(struck) == 1
    assert due_s <= struck[0] <= due_s + GRID_S + 1e-9


async def test_what_another_strikes_between_two_turns_of_the_clock_is_struck_once() -> None:
    clock, struck = Clock(), list[float]()

    async def other() -> None:
        while len(struck) < STRIKES_A_TURN:
            await trio.lowlevel.checkpoint()
        while clock.next_s <= trio.current_time():
            clock.strike_one(trio.current_time())

    async with trio.open_nursery() as nursery:
        for _ in range(STRIKES_A_TURN + 5):
            clock.at(trio.current_time(), struck.append)
        nursery.start_soon(clock.run)
        nursery.start_soon(other)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(struck) == STRIKES_A_TURN + 5


async def test_a_strike_that_raises_leaves_the_others_for_their_times() -> None:
    clock, struck = Clock(), list[float]()

    def fail(_: float) -> None:
        raise ZeroDivisionError

    now_s = trio.current_time()
    clock.at(now_s, fail)
    clock.at(now_s + 10, struck.append)
    with pytest.raises(ZeroDivisionError):
        await clock.run()
    assert clock.next_s >= now_s + 10
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        await trio.sleep(11)
        nursery.cancel_scope.cancel()
    assert len(struck) == 1
    assert struck[0] >= now_s + 10


async def test_a_strike_sees_what_the_clocks_task_inherited_whoever_strikes() -> None:
    seen, mine = list[str](), ContextVar("mine", default="nobody's")
    clock = Clock()

    def strike(_: float) -> None:
        seen.append(mine.get())

    mine.set("the server's")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        await trio.sleep(1)
        mine.set("another's")
        clock.at(trio.current_time(), strike)
        await trio.sleep(1)
        with clock.left_to_another(slack_s=1.0):
            clock.at(trio.current_time(), strike)
            await trio.sleep(GRID_S)
            clock.strike_one(trio.current_time())
        nursery.cancel_scope.cancel()
    assert seen == ["the server's"] * 2
