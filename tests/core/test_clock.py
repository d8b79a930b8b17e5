"""One task keeps the time of all meetings."""

from __future__ import annotations

import math

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
