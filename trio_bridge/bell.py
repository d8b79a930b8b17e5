"""What wakes a task: for something to look at, or never again for what has been."""

from __future__ import annotations

import trio


class Woken:
    """How many tasks were woken so far, by bells and whoever else counts here; not those that
    a cancellation or an event wakes."""

    __slots__ = ("tasks",)

    def __init__(self) -> None:
        self.tasks = 0


WOKEN = Woken()
"""Of the process. Not a class's attribute: to change one costs as much as a ring."""


class Bell:
    """Wakes the tasks that wait for it. It remembers nothing: look first, then wait."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        # A list: it has one task or none, and a ParkingLot costs twice as much a frame.
        self._waiting: list[trio.lowlevel.Task] = []

    def ring(self) -> None:
        """Wake every waiter; from any task, never waits."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            WOKEN.tasks += len(waiting)
            for task in waiting:
                trio.lowlevel.reschedule(task)

    async def wait(self) -> None:
        """Sleep until the next ring. On `trio.Cancelled` nothing has happened."""
        task = trio.lowlevel.current_task()
        self._waiting.append(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._waiting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)


SET = trio.Event()
"""Stands for every event that has been and of which an owner lives on: each costs 270 bytes."""
SET.set()
