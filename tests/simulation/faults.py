"""The n-th await of a meeting's life fails: it raises, is cancelled, or never ends.

Every await that really waits hands its task back to Trio's scheduler, so that is where all of
them can be found, in the product, in trio-websocket and in the agent alike: an `Instrument`
sees each task of the meeting after each of its steps. What it then does is what Trio itself
does to a task, through the task's own abort function, so no lock, queue or nursery is left in
a state that could not be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NoReturn, get_args

import attrs
import outcome
import trio

from tests.simulation.line import PlainEnd, RawEnd
from tests.simulation.sockets import BotSocket
from tests.simulation.steps import (
    SETTLE,
    Audio,
    End,
    Freeze,
    Interrupt,
    Join,
    Order,
    Pass,
    Plan,
    Say,
    Step,
)
from tests.simulation.world import Violation, World, run_plan

How = Literal["raises", "is cancelled", "hangs"]
HOWS: tuple[How, ...] = get_args(How)

VICTIM, NEIGHBOUR, NEXT = 0, 1, 2


class Injected(OSError):
    """What the n-th await raises."""


@attrs.frozen
class Await:
    """One time that a task of the meeting waited."""

    where: str
    ways: frozenset[How]
    """How it can fail."""


class Fault(trio.abc.Instrument):
    """Counts the awaits of one bot's connections and meetings, and spoils one of them."""

    def __init__(self, how: How, at: int) -> None:
        self.how, self.at = how, at
        self.world: World
        self.awaits = 0
        self.where: str | None = None
        """The await that was spoilt; None: there are fewer."""
        self.seen: list[Await] | None = None
        """Set it to a list to be told of each await."""
        self.blocks = False
        """What hangs is within the bridge, where nothing hangs: only a cancellation ends it."""
        self._tasks: set[trio.lowlevel.Task] = set()

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        nursery = task.parent_nursery
        if nursery is None:
            return
        if nursery.parent_task in self._tasks or self._is_root(task):
            self._tasks.add(task)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self._tasks.discard(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task in self._tasks:
            self.awaits += 1
            if self.seen is not None:
                self.seen.append(Await(_place(task), frozenset(_ways(task))))
            if self.awaits == self.at:
                self._spoil(task)

    def _is_root(self, task: trio.lowlevel.Task) -> bool:
        if task.name == f"meeting bot-{VICTIM}":
            return True
        frame = getattr(task.coro, "cr_frame", None)
        stream = None if frame is None else frame.f_locals.get("stream")
        if task.name.endswith("Edge.connection") and isinstance(stream, PlainEnd | RawEnd):
            owner = stream.line.owner
            return isinstance(owner, BotSocket) and owner.bot is self.world.bots[VICTIM]
        return False

    def _spoil(self, task: trio.lowlevel.Task) -> None:
        frames = list(task.iter_await_frames())
        self.where = _place(task)
        self.world.struck(self.world.bots[VICTIM])
        inner = {frame.f_code.co_qualname for frame, _ in frames}
        abort = task._abort_func
        if self.how == "is cancelled":
            self._cancel(task)
        elif self.how == "raises":
            if abort is None:  # it gave others their turn
                task._next_send = outcome.Error(Injected("injected"))
            else:
                task._attempt_abort(_raise)
        elif "Line._wait" in inner:
            frames[-3][0].f_locals["self"].hang()  # as in reality, closing it ends the wait
        else:
            assert abort is not None
            abort(_raise)
            task._abort_func = lambda _: trio.lowlevel.Abort.SUCCEEDED
            agents = {"Run.live", "Run._obey", "Run._speak", "Run._hear_all"}
            self.blocks = not inner & agents

    def _cancel(self, task: trio.lowlevel.Task) -> None:
        """Cancel the innermost scope; where that is the server's, the server is cancelled."""
        status: Any = task._cancel_status
        owned = _scopes_of(self._tasks)
        if status._scope in owned:
            status._scope.cancel()
        else:
            self.world.cancel_server()


def _place(task: trio.lowlevel.Task) -> str:
    names = [f"{f.f_code.co_qualname}:{line}" for f, line in task.iter_await_frames()]
    return f"{task.name}: {' > '.join(names)}"


def _ways(task: trio.lowlevel.Task) -> set[How]:
    """How the await that ``task`` has just begun can fail."""
    if any(
        frame.f_code.co_qualname == "Nursery._nested_child_finished"
        for frame, _ in task.iter_await_frames()
    ):
        return set()  # it waits for its tasks, which have awaits of their own
    if task._abort_func is None:
        return {"raises", "is cancelled"}  # giving others their turn ends by itself
    return {"raises", "is cancelled", "hangs"}


def _scopes_of(tasks: set[trio.lowlevel.Task]) -> set[trio.CancelScope]:
    """Scopes that were opened by ``tasks``."""
    scopes = set()
    for task in tasks:
        status: Any = task._cancel_status
        outside: Any = task._parent_nursery._cancel_status if task._parent_nursery else None
        while status is not None and status is not outside:
            scopes.add(status._scope)
            status = status._parent
    return scopes


def _raise() -> NoReturn:
    raise Injected("injected")


def _meeting(bot: int, *, long: bool) -> Iterator[Step]:
    """A bot's day, with some of everything that has an await of its own."""
    yield Join(bot, "control", "good", True, 65_536, SETTLE)
    yield Join(bot, "audio", "good", True, 65_536, SETTLE)
    yield Audio(bot, "binary", 1, False, True, 2, 20, False, SETTLE)
    yield Say(bot, "plain", SETTLE)
    yield Order(bot, "chat", 0, SETTLE)
    if long:
        yield Freeze(bot, "control", False, 60, SETTLE)  # so that a write has to wait
        yield Order(bot, "chat", 0, SETTLE)
        yield Order(bot, "caption", 0, SETTLE)
        yield Order(bot, "image", 0, SETTLE)
        yield Pass(0.1)
        yield Freeze(bot, "control", True, 0, SETTLE)
        yield Order(bot, "speak", 1, 3)
        yield Pass(0.15)
        yield Order(bot, "speak", 2, SETTLE)
        yield Interrupt(bot, 1, 2)
        yield Pass(0.3)
        yield Order(bot, "speak", 0, SETTLE)
        yield Join(bot, "control", "good", False, 65_536, SETTLE)
        yield Order(bot, "chat", 0, SETTLE)
        yield End(bot, "audio", "rst", False, SETTLE)
        yield Join(bot, "audio", "good", False, 65_536, SETTLE)
        yield Audio(bot, "legacy", 2, False, True, 2, 20, True, SETTLE)
    yield End(bot, "audio", "close", False, 1)
    yield End(bot, "control", "close", False, SETTLE)


def scenario() -> Plan:
    """The victim's meeting with its neighbour's around it, then the next one's, then the same
    bot once more."""
    neighbour = list(_meeting(NEIGHBOUR, long=True))
    steps: list[Step] = neighbour[:4]
    beside = iter(neighbour[4:-2])
    for step in _meeting(VICTIM, long=True):
        steps.append(step)
        steps += [other for other in [next(beside, None)] if other is not None]
    steps += [*beside, *neighbour[-2:], Pass(45.0), Pass(5.0)]  # the last deadline is over
    after = list(_meeting(NEXT, long=False))
    steps += [*after[:-2], *_meeting(VICTIM, long=False), *after[-2:]]
    return Plan(
        bots=3,
        schedule=4,
        settings={"grace_s": 2.0, "wrap_up_s": 1.0},
        listens=True,
        rate_hz=48_000,
        chunk_ms=20,
        by="mix",
        steps=tuple(steps),
        ending="leave",
    )


def survey() -> list[Await]:
    """Each await of the scenario, in their order."""
    fault = Fault("raises", at=0)
    fault.seen = []
    run_plan(scenario(), fault)
    return fault.seen


def sweep(how: How) -> Iterator[Fault]:
    """Spoil every await there is that can fail so, one a run.

    Raises:
        Violation: an invariant does not hold in spite of it; a note says which await it was.
    """
    for at, found in enumerate(survey(), start=1):
        if how not in found.ways:
            continue
        fault = Fault(how, at)
        try:
            run_plan(scenario(), fault)
        except Violation as violation:
            violation.add_note(f"await {at} {how}: {fault.where}")
            raise
        yield fault
