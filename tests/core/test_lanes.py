"""Lanes: the balance under any sequence of operations, and what waiting means."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_bridge.bell import Bell
from trio_bridge.lanes import Lane, Overflow

Item = tuple[int, int]
"""A serial number and a cost."""

OPERATIONS = st.lists(
    st.tuples(st.just("put"), st.integers(0, 7))
    | st.tuples(st.sampled_from(["take", "take and put back", "flush"]), st.just(0)),
    max_size=60,
)


def cost_of(item: Item) -> int:
    return item[1]


def lane_of(capacity: int, overflow: Overflow = Overflow.DROP_OLDEST) -> Lane[Item]:
    return Lane("test", capacity, overflow, cost=cost_of)


def assert_balanced(lane: Lane[Item]) -> None:
    assert lane.offered == lane.taken + lane.dropped + lane.flushed + lane.queued
    assert min(lane.taken, lane.dropped, lane.flushed, lane.queued) >= 0
    assert lane.queued <= lane.peak


def drain(lane: Lane[Item]) -> list[Item]:
    taken = []
    while (item := lane.take_nowait()) is not None:
        taken.append(item)
    return taken


# -- a lane that drops -----------------------------------------------------------------------


@given(st.integers(1, 12), OPERATIONS)
def test_a_live_lane_balances_and_keeps_the_newest(
    capacity: int, operations: list[tuple[str, int]]
) -> None:
    lane, model, dropped = lane_of(capacity), list[Item](), 0
    for serial, (operation, cost) in enumerate(operations):
        if operation == "put":
            model.append((serial, cost))
            while len(model) > 1 and sum(map(cost_of, model)) > capacity:
                dropped += model.pop(0)[1]
            lane.put_nowait((serial, cost))
        elif operation == "flush":
            assert lane.flush() == sum(map(cost_of, model))
            model.clear()
        else:
            item = lane.take_nowait()
            assert item == (model[0] if model else None)
            if item is not None and operation == "take":
                model.pop(0)
            elif item is not None:
                lane.put_back(item)
        assert_balanced(lane)
        assert (lane.queued, len(lane)) == (sum(map(cost_of, model)), len(model))
        assert lane.dropped == dropped
        assert lane.queued <= capacity or len(lane) == 1
    assert drain(lane) == model
    assert_balanced(lane)


def test_the_peak_counts_what_was_put_back() -> None:
    """A writer whose socket broke puts its message back after others came in."""
    lane = lane_of(10)
    lane.put_nowait((0, 6))
    taken = lane.take_nowait()
    lane.put_nowait((1, 6))
    assert taken is not None
    lane.put_back(taken)
    assert lane.queued == 12
    assert lane.peak == 12
    assert drain(lane) == [(0, 6), (1, 6)]


def test_an_item_beyond_the_capacity_is_let_in_alone() -> None:
    lane = lane_of(10)
    lane.put_nowait((0, 3))
    lane.put_nowait((1, 50))
    assert (lane.dropped, lane.queued, lane.peak) == (3, 50, 50)
    lane.put_nowait((2, 1))
    assert (lane.dropped, lane.queued) == (53, 1)


def test_a_closed_lane_gives_what_it_has_and_takes_no_more() -> None:
    lane = lane_of(10)
    lane.put_nowait((0, 3))
    lane.close()
    lane.put_nowait((1, 3))
    assert lane.closed
    assert drain(lane) == [(0, 3)]
    assert (lane.offered, lane.taken) == (3, 3)


def test_without_a_cost_items_are_counted() -> None:
    lane = Lane[str]("test", 2, Overflow.DROP_OLDEST)
    for text in ("a", "b", "c"):
        lane.put_nowait(text)
    assert (lane.queued, lane.dropped, lane.take_nowait()) == (2, 1, "b")


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_lane_without_room_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        lane_of(capacity)


async def test_each_policy_has_its_own_way_in() -> None:
    with pytest.raises(AssertionError):
        lane_of(1, Overflow.WAIT).put_nowait((0, 1))
    with pytest.raises(AssertionError):
        await lane_of(1, Overflow.DROP_OLDEST).put((0, 1))


# -- a lane that waits -----------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 8),
    st.lists(
        st.tuples(st.just("put"), st.integers(0, 6))
        | st.tuples(st.sampled_from(["take", "flush", "cancel"]), st.integers(0, 3)),
        max_size=25,
    ),
)
def test_a_waiting_lane_loses_nothing_and_a_cancelled_put_queued_nothing(
    capacity: int, operations: list[tuple[str, int]]
) -> None:
    lane = lane_of(capacity, Overflow.WAIT)
    waiting: dict[int, trio.CancelScope] = {}
    done: list[Item] = []
    out: list[Item] = []

    async def put(item: Item, scope: trio.CancelScope) -> None:
        with scope:
            await lane.put(item)
            done.append(item)
        del waiting[item[0]]

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            flushed = 0
            for serial, (operation, value) in enumerate(operations):
                if operation == "put":
                    waiting[serial] = trio.CancelScope()
                    nursery.start_soon(put, (serial, value), waiting[serial])
                elif operation == "take" and (item := lane.take_nowait()) is not None:
                    out.append(item)
                elif operation == "flush":
                    flushed += lane.flush()
                elif operation == "cancel" and waiting:
                    list(waiting.values())[value % len(waiting)].cancel()
                await wait_all_tasks_blocked()
                assert_balanced(lane)
                assert lane.dropped == 0
                assert lane.offered == sum(map(cost_of, done))
                assert lane.queued <= capacity or len(lane) == 1
                assert len(lane) or not waiting
            while waiting or len(lane):
                out.extend(drain(lane))
                await wait_all_tasks_blocked()
            assert lane.taken == sum(map(cost_of, out))
            assert lane.flushed == flushed

    trio.run(run, clock=MockClock(autojump_threshold=1))
    # What was not flushed came out in the order in which its producer was told it is in.
    assert [item for item in done if item in out] == out


async def test_a_producer_waits_for_room_and_goes_on_when_there_is(
    autojump_clock: MockClock,
) -> None:
    lane = lane_of(4, Overflow.WAIT)
    order = []

    async def produce() -> None:
        for serial in range(4):
            await lane.put((serial, 2))
            order.append(("in", serial, trio.current_time()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        for _ in range(4):
            await trio.sleep(1)
            item = lane.take_nowait()
            assert item is not None
            order.append(("out", item[0], trio.current_time()))
    assert order == [
        ("in", 0, 0), ("in", 1, 0),
        ("out", 0, 1), ("in", 2, 1),
        ("out", 1, 2), ("in", 3, 2),
        ("out", 2, 3), ("out", 3, 4),
    ]  # fmt: skip


@pytest.mark.parametrize("make_room", [Lane[Item].take_nowait, Lane[Item].flush])
async def test_taking_and_flushing_let_a_producer_go_on(
    make_room: Callable[[Lane[Item]], object], autojump_clock: MockClock
) -> None:
    lane = lane_of(1, Overflow.WAIT)
    await lane.put((0, 1))
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lane.put, (1, 1))
            await wait_all_tasks_blocked()
            assert lane.offered == 1
            make_room(lane)
    assert drain(lane) == [(1, 1)]


async def test_a_producer_of_a_lane_that_is_closed_meanwhile_goes_on_with_nothing_queued(
    autojump_clock: MockClock,
) -> None:
    lane = lane_of(1, Overflow.WAIT)
    await lane.put((0, 1))
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lane.put, (1, 1))
            await wait_all_tasks_blocked()
            lane.close()
        await lane.put((2, 1))
    assert drain(lane) == [(0, 1)]
    assert lane.offered == 1


async def test_a_put_is_a_checkpoint_even_when_there_is_room() -> None:
    lane = lane_of(9, Overflow.WAIT)
    with trio.CancelScope() as scope:
        scope.cancel()
        await lane.put((0, 1))
    assert scope.cancelled_caught
    assert (len(lane), lane.offered) == (0, 0)


# -- the bell --------------------------------------------------------------------------------


async def test_a_bell_wakes_everybody_who_waits_and_remembers_nothing(
    autojump_clock: MockClock,
) -> None:
    bell, woken = Bell(), list[int]()

    async def wait(serial: int) -> None:
        await bell.wait()
        woken.append(serial)

    bell.ring()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, 0)
        nursery.start_soon(wait, 1)
        await wait_all_tasks_blocked()
        assert woken == []
        bell.ring()
    assert sorted(woken) == [0, 1]


async def test_a_consumer_that_looks_and_then_waits_misses_nothing(
    autojump_clock: MockClock,
) -> None:
    lane, got = lane_of(100), list[Item]()

    async def consume() -> None:
        while True:
            got.extend(drain(lane))
            if lane.closed:
                return
            await lane.bell.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        for serial in range(20):
            lane.put_nowait((serial, 1))
            if serial % 3 == 0:
                await trio.sleep(0.01)
        lane.close()
    assert [serial for serial, _ in got] == list(range(20))


async def test_lanes_may_share_a_bell(autojump_clock: MockClock) -> None:
    bell = Bell()
    one = Lane[str]("one", 1, Overflow.DROP_OLDEST, bell=bell)
    two = Lane[str]("two", 1, Overflow.DROP_OLDEST, bell=bell)
    with trio.fail_after(1):
        for ring in (one.close, lambda: two.put_nowait("x"), lambda: two.put_back("y")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bell.wait)
                await wait_all_tasks_blocked()
                ring()


def test_a_lane_makes_its_queue_once() -> None:
    """And none before the first item: an empty one takes 0.6 KiB, and most lanes stay empty."""
    lane = Lane[int]("numbers", 10, Overflow.DROP_OLDEST)
    assert not isinstance(lane._items, deque)
    lane.put_nowait(1)
    made = lane._items
    assert lane.take_nowait() == 1
    lane.put_nowait(2)
    assert lane._items is made
