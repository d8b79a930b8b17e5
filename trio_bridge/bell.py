"""What wakes a task: for something to look at, or never again for what has been."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Generator
from typing import TypeVar, final

import outcome
import trio

Result = TypeVar("Result")


@final
class Nothing(outcome.Outcome[None]):
    """What a woken task gets: None, as often as is liked.

    An `outcome.Value` is good for one task only, and a new one for each frame is 3 % of it.
    """

    __slots__ = ()

    def unwrap(self) -> None:
        """There is nothing to return or to raise."""

    def send(self, gen: Generator[Result, None, object]) -> Result:
        return gen.send(None)

    async def asend(self, agen: AsyncGenerator[Result, None]) -> Result:
        return await agen.asend(None)


_NOTHING = Nothing()


class Woken:
    """How many tasks were woken so far, by bells and whoever else counts here; not those that
    a cancellation or an event wakes."""

    __slots__ = ("tasks",)

    def __init__(self) -> None:
        self.tasks = 0


WOKEN = Woken()
"""Of the process. Not a class's attribute: to change one costs as much as a ring."""


class Bell:
    """Wakes the tasks that wait for it: look first, then wait."""

    __slots__ = ("_first", "_others", "rung")

    def __init__(self) -> None:
        self.rung = False
        """It has rung since this was last set to False, whether anybody waited or not."""
        # Nearly always one task waits or none: a ParkingLot costs twice as much a frame, and a
        # list is one more thing to fetch from memory.
        self._first: trio.lowlevel.Task | None = None
        self._others: list[trio.lowlevel.Task] | tuple[()] = ()

    @property
    def needs(self) -> tuple[object, ...]:
        """What waking who waits now will look at."""
        task = self._first
        return () if task is None else (task, task.coro, task.context)

    def ring(self) -> None:
        """Wake every waiter; from any task, never waits."""
        self.rung = True
        self.wake()

    def wake(self) -> None:
        """The same, but `rung` is not told: what there is lies elsewhere."""
        task = self._first
        if task is None:
            return
        self._first = None
        WOKEN.tasks += 1
        trio.lowlevel.reschedule(task, _NOTHING)
        if self._others:
            others, self._others = self._others, ()
            WOKEN.tasks += len(others)
            for task in others:
                trio.lowlevel.reschedule(task, _NOTHING)

    async def wait(self) -> None:
        """Sleep until the next ring. On `trio.Cancelled` nothing has happened."""
        await self.waiting()

    def waiting(self) -> Awaitable[None]:
        """The same without a coroutine of its own, one thing less to fetch from memory each
        time. The task that calls this must await it at once."""
        task = trio.lowlevel.current_task()
        if self._first is None:
            self._first = task
            abort = self._forget_first  # no function of its own: four things less to fetch
        else:
            self._others = [*self._others, task]

            def abort(_: object) -> trio.lowlevel.Abort:
                if self._first is task:
                    return self._forget_first(_)
                self._others = [one for one in self._others if one is not task]
                return trio.lowlevel.Abort.SUCCEEDED

        return trio.lowlevel.wait_task_rescheduled(abort)  # noqa: ASYNC105 - by who calls

    def _forget_first(self, _: object) -> trio.lowlevel.Abort:
        others = self._others
        self._first, self._others = (others[0], others[1:]) if others else (None, ())
        return trio.lowlevel.Abort.SUCCEEDED


SET = trio.Event()
"""Stands for every event that has been and of which an owner lives on: each costs 270 bytes."""
SET.set()
