"""A bell wakes who waits for it, and remembers that it has rung."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncGenerator, Generator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_bridge.bell import WOKEN, Bell, Nothing


@pytest.mark.parametrize("leaves", [(), (0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
async def test_all_who_wait_are_woken_once_but_those_who_left(
    autojump_clock: MockClock, leaves: tuple[int, ...]
) -> None:
    bell, woken = Bell(), list[int]()
    scopes = [trio.CancelScope() for _ in range(3)]

    async def wait(n: int) -> None:
        with scopes[n]:
            await bell.wait()
            woken.append(n)

    async with trio.open_nursery() as nursery:
        for n in range(3):
            nursery.start_soon(wait, n)
            await wait_all_tasks_blocked()
        for n in leaves:
            scopes[n].cancel()
        await wait_all_tasks_blocked()
        before = WOKEN.tasks
        bell.ring()
        bell.ring()
        assert WOKEN.tasks - before == 3 - len(leaves)
    assert sorted(woken) == [n for n in range(3) if n not in leaves]


async def test_a_ring_is_remembered_until_somebody_has_looked_and_a_wake_is_not(
    autojump_clock: MockClock,
) -> None:
    bell, woken = Bell(), list[int]()

    async def wait() -> None:
        await bell.waiting()
        woken.append(1)

    bell.wake()
    assert not bell.rung
    bell.ring()
    assert bell.rung
    bell.rung = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not woken
        bell.wake()
    assert woken == [1]
    assert not bell.rung


async def test_what_a_wake_needs_is_the_task_that_waits(autojump_clock: MockClock) -> None:
    bell = Bell()
    assert bell.needs == ()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.wait)
        await wait_all_tasks_blocked()
        (task,) = nursery.child_tasks
        assert task in bell.needs
        bell.ring()
    assert bell.needs == ()
    gone = weakref.ref(task)
    del task, nursery
    gc.collect()
    assert gone() is None


async def test_what_the_woken_get_is_nothing_however_often_it_is_unwrapped_or_sent() -> None:
    nothing, got = Nothing(), list[object]()

    def generator() -> Generator[int, None, None]:
        while True:
            got.append((yield len(got)))

    async def asynchronous() -> AsyncGenerator[int, None]:
        while True:
            got.append((yield len(got)))

    steps, later = generator(), asynchronous()
    assert next(steps) == 0
    assert await anext(later) == 0
    for n in (1, 3):
        nothing.unwrap()
        assert nothing.send(steps) == n
        assert await nothing.asend(later) == n + 1
    await later.aclose()
    assert got == [None] * 4
