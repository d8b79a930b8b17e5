"""One plan, carried out: the real server on the virtual clock, and bots around it."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import random
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, cast
from unittest import mock

import attrs
import trio
import trio._core._run as trio_run
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.edge.peers import head
from tests.simulation import rules
from tests.simulation.acts import act
from tests.simulation.agents import Run
from tests.simulation.bots import Bot
from tests.simulation.line import Line, PlainEnd, RawEnd
from tests.simulation.sockets import BotSocket, Record
from tests.simulation.steps import SETTLE, Pass, Plan
from trio_bridge import pulse
from trio_bridge.address import Address
from trio_bridge.attendance import Kind
from trio_bridge.config import Settings
from trio_bridge.edge.limits import DEFAULT_LIMITS
from trio_bridge.meeting import Meeting
from trio_bridge.server import GOODBYE_SLACK_S, Server
from trio_bridge.session import Session

if TYPE_CHECKING:
    from tests.simulation.faults import Fault

LONG_S = DEFAULT_LIMITS.ping_s + DEFAULT_LIMITS.pong_s + 30.0
"""Everybody has left: by then the last ping has gone unanswered, and a grace is over."""
BEAT_S = 20.0
"""Between two looks at the loop's lateness, which a virtual clock does not have."""
STUCK_S = 3_600.0
"""A server that takes this long to stop never does."""


class Violation(AssertionError):
    """An invariant does not hold."""


@attrs.frozen
class Outcome:
    """What a plan came to."""

    meetings: int
    steps: int
    digest: int
    """Of everything that happened, in order: the same for the same plan."""


class Door(trio.abc.Listener[trio.SocketStream]):
    """A listener for lines."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[PlainEnd | RawEnd](math.inf)

    async def accept(self) -> trio.SocketStream:
        return cast(trio.SocketStream, await self._receive.receive())

    async def aclose(self) -> None:
        with contextlib.suppress(trio.WouldBlock):
            while True:  # who was never accepted goes with the listener
                self._receive.receive_nowait().line.refuse()
        self._receive.close()
        await trio.lowlevel.checkpoint()

    def knock(self, stream: PlainEnd | RawEnd) -> None:
        try:
            self._send.send_nowait(stream)
        except trio.BrokenResourceError:  # it listens no more
            stream.line.refuse()


class Ordered(set[Any]):
    """A set that is walked in the order of arrival: by address it would not be replayable."""

    def __init__(self) -> None:
        super().__init__()
        self._items: dict[Any, None] = {}

    def add(self, item: Any) -> None:
        super().add(item)
        self._items[item] = None

    def discard(self, item: Any) -> None:
        super().discard(item)
        self._items.pop(item, None)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._items))


class WatchedServer(Server):
    """The real one; it is told on when it makes a session."""

    world: World

    def _make_session(self, bot_id: str) -> Session:
        session = super()._make_session(bot_id)
        self.world.session_made(session)
        return session


RECOVERED_S = 25.0
"""So long after a fault, its bot is served like any other."""


class World:
    """Everything there is while a plan is carried out."""

    telling: ClassVar[bool] = False
    """Write all that happens to stdout: for a person who replays one plan."""

    def __init__(self, plan: Plan, fault: Fault | None = None) -> None:
        self.plan = plan
        self.fault = fault
        self.was_struck = False
        # No watchdog: it is a thread that looks at the real time.
        self.settings = Settings(**plan.settings, watchdog_ms=0)
        self.server = WatchedServer(self._agent, self.settings)
        self.server.world = self
        self.server.edge.sockets = Ordered()
        self.server.edge._idle = Ordered()
        self.door = Door()
        self.bots = [Bot(self, number) for number in range(plan.bots)]
        self.records: dict[Session, Record] = {}
        self.cleared: dict[Session, int] = {}
        self.strangers: list[Line] = []
        self.draining = False
        self.faults: list[str] = []
        self.done: list[str] = []
        """The steps so far."""
        self.stop_by_s = math.inf
        """When the server must have stopped."""
        self.stopped_s = math.inf
        self._serving = trio.CancelScope()
        self._digest = 0
        self._baseline = 0

    @property
    def now_s(self) -> float:
        return trio.current_time()

    # -- what rules and bots say -----------------------------------------------------------

    def blame(self, fault: str) -> None:
        """An invariant is broken; raised at the next look, because a task of the server's may
        be the one who notices."""
        self.faults.append(f"at {self.now_s:.3f} s: {fault}")

    def trace(self, *what: object) -> None:
        """Something happened that a replay must show too."""
        if self.telling:
            sys.stdout.write(f"{self.now_s:10.3f} {' '.join(map(str, what))}\n")
        self._digest = zlib.crc32(repr((round(self.now_s, 9), *what)).encode(), self._digest)

    def check(self) -> None:
        """Raise the first fault there is.

        Raises:
            Violation: an invariant is broken.
        """
        if self.faults:
            raise Violation(self.faults[0])

    # -- what the server says --------------------------------------------------------------

    def session_made(self, session: Session) -> None:
        bot = self.bots[int(session.bot_id.removeprefix("bot-"))]
        if bot.live is not None:
            self.blame(f"a second session of {bot.id}")
        if self.server.draining:
            self.blame(f"a meeting of {bot.id} began while the server drains")
        record = Record(session, self.now_s)
        bot.records.append(record)
        self.records[session] = record
        self.cleared[session] = 0
        self.trace("session", bot.id)

    async def _agent(self, meeting: Meeting) -> None:
        bot = self.bots[int(meeting.bot_id.removeprefix("bot-"))]
        record = next(r for r in bot.records if r.session.meeting is meeting)
        if record.run is not None:
            self.blame(f"a second agent in one meeting of {bot.id}")
        for other in bot.runs:
            if not other.ended and not other.record.session.over:
                self.blame(f"a second agent of {bot.id} at the same time")
        run = Run(self, bot, record, meeting)
        bot.runs.append(run)
        record.run = run
        self.trace("agent", bot.id)
        await run.live()

    def logged(self, line: logging.LogRecord) -> None:
        """One line of the log."""
        event = line.getMessage()
        self.trace("log", event)
        if event == "stopped":
            self.stopped_s = self.now_s
        elif event == "meeting ended":
            rules.judge_end(self, line.__dict__)
        elif line.levelno >= logging.ERROR:
            rules.judge_error(self, event, line)

    # -- the plan --------------------------------------------------------------------------

    def connect(self, bot: Bot, kind: Kind, *, raw: bool, segment_bytes: int) -> BotSocket:
        """A new connection of ``bot``, on which nothing has been said."""
        socket = BotSocket(bot, kind, len(bot.sockets), segment_bytes, self.now_s)
        bot.sockets.append(socket)
        struck_s = bot.faulty_since_s
        if struck_s is not None:
            if self.now_s > struck_s + RECOVERED_S and self.fault and not self.fault.blocks:
                bot.faulty_since_s = None
            else:
                socket.meet("cut", self.now_s)
        if self.draining:
            socket.meet("drain", self.now_s)
        self.door.knock((RawEnd if raw else PlainEnd)(socket.line))
        return socket

    def stranger(self, what: int) -> None:
        """Somebody who is no bot."""
        answer = bytearray()
        line = Line(answer.extend, 65_536)
        self.strangers.append(line)
        self.door.knock(PlainEnd(line))
        if what == 0:
            line.write(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        else:
            line.write(head()[:40])
        if what == 2:
            line.reset()

    def stop(self, drain_s: float) -> None:
        """SIGTERM."""
        self.draining = True
        for bot in self.bots:
            bot.doom("drain")
        self.stop_by_s = min(self.stop_by_s, self.now_s + drain_s)
        self.server.stop(drain_s)

    def cancel_server(self) -> None:
        """Ctrl-C, or the end of the program that the server is a part of."""
        self.draining = True
        for bot in self.bots:
            bot.doom("drain")
        self.stop_by_s = min(self.stop_by_s, self.now_s)
        self._serving.cancel()

    def struck(self, bot: Bot) -> None:
        """A fault has been injected into ``bot``'s connections or meeting."""
        self.was_struck = True
        bot.faulty_since_s = self.now_s
        bot.doom("cut")

    async def settle(self) -> None:
        """Let everything come to rest at this moment of virtual time; then look at it."""
        await wait_all_tasks_blocked()
        rules.look(self)
        if not self.server.stopped.is_set():
            rules.look_at_rest(self)
        self.check()

    async def run(self) -> None:
        """Carry the plan out.

        Raises:
            Violation: an invariant does not hold; `done` says after which steps.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._serve)
            await wait_all_tasks_blocked()
            self._baseline = trio.lowlevel.current_statistics().tasks_living
            for step in self.plan.steps:
                self.done.append(str(step))
                self.trace(step)
                if isinstance(step, Pass):
                    await trio.sleep(step.time_s)
                    await self.settle()
                    continue
                await act(self, step)
                if step.pause == SETTLE:
                    await self.settle()
                    continue
                for _ in range(step.pause):
                    await trio.lowlevel.checkpoint()
                rules.look(self)
                self.check()
            await self.settle()
            self.done.append(self.plan.ending)
            await self._end()
        rules.look_at_the_end(self)
        self.check()

    async def _serve(self, task_status: trio.TaskStatus[Address]) -> None:
        with self._serving:
            await self.server.run([self.door], task_status=task_status)

    async def _end(self) -> None:
        ending = self.plan.ending
        if ending == "leave" and not self.draining:
            await self._all_leave()
            self.stop(0.0)
        elif ending == "cancel":
            self.cancel_server()
        elif not self.draining:
            self.stop(3.0 if ending == "stop later" else 0.0)
        with trio.move_on_after(STUCK_S / 2) as scope:
            await self.server.stopped.wait()
        if scope.cancelled_caught:
            self.blame("the server would not stop")
            self.check()

    async def _all_leave(self) -> None:
        for bot in self.bots:
            for socket in bot.sockets:
                if socket.line.open and not socket.silent:
                    socket.thaw()
                    socket.meet("left", self.now_s)
                    socket.close(1_000)
                    socket.line.finish()
        for line in self.strangers:
            line.finish()
        await self.settle()
        await trio.sleep(LONG_S + self.settings.grace_s)
        await self.settle()
        rules.look_at_nobody(self, self._baseline)
        self.check()

    def outcome(self) -> Outcome:
        return Outcome(self.server.served, len(self.done), self._digest)

    @property
    def stopped_late(self) -> bool:
        """The server took longer to stop than it has."""
        stubborn_s = max((run.stubborn_s for bot in self.bots for run in bot.runs), default=0)
        teardown_s = self.settings.wrap_up_s + stubborn_s
        write_s = DEFAULT_LIMITS.write_s if self.was_struck else 0.0
        goodbye_s = self.settings.close_s + GOODBYE_SLACK_S
        return self.stopped_s > self.stop_by_s + goodbye_s + teardown_s + write_s + 0.5


class _Ear(logging.Handler):
    def __init__(self, told: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        self._told(record)


@contextlib.contextmanager
def _logs_to(told: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    logger = logging.getLogger("trio_bridge")
    before = logger.level, logger.propagate, logger.handlers[:]
    ear = _Ear(told)
    logger.handlers[:] = [ear]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.level, logger.propagate = before[0], before[1]
        logger.setLevel(before[0])
        logger.handlers[:] = before[2]


async def _watch(nursery: trio.Nursery, world: World) -> None:
    """Notice when nothing goes on, and end it: a test must fail rather than hang."""
    while True:
        await trio.sleep(STUCK_S)
        world.blame(f"nothing goes on; these tasks wait: {', '.join(_free(nursery))}")


class Freed(Exception):
    """What a task gets that would wait for ever."""


def _free(nursery: trio.Nursery) -> list[str]:
    """Make everything below ``nursery`` raise, but the caller; their names."""

    def error() -> NoReturn:
        raise Freed

    freed = []
    tasks = [*nursery.child_tasks, nursery.parent_task]
    while tasks:
        task = tasks.pop()
        for inner in task.child_nurseries:
            if inner is not nursery:
                tasks += inner.child_tasks
        if task._abort_func is not None:
            freed.append(task.name)
            task._attempt_abort(error)
    return sorted(freed)


def run_plan(plan: Plan, fault: Fault | None = None) -> Outcome:
    """Carry out ``plan`` from its first step to its ending; ``fault`` is an instrument.

    Raises:
        Violation: an invariant does not hold.
    """
    trio_run._r.seed(plan.schedule)
    random.seed(plan.schedule)  # trio-websocket draws the payloads of its pings
    world: World | None = None

    async def main() -> None:
        nonlocal world
        world = World(plan, fault)
        if fault is not None:
            fault.world = world
        with _logs_to(world.logged):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch, nursery, world)
                try:
                    await world.run()
                finally:
                    nursery.cancel_scope.cancel()

    instruments = () if fault is None else (fault,)
    collecting = gc.isenabled()
    gc.disable()  # when it runs is not the plan's to say, and ears are closed by it
    try:
        with (
            mock.patch.object(pulse, "BEAT_S", BEAT_S),
            # Which importing Hypothesis does as well: tasks run in an order of the seed's.
            mock.patch.object(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        ):
            trio.run(main, clock=MockClock(autojump_threshold=0), instruments=instruments)
    except (Exception, BaseExceptionGroup) as failures:
        pressed = isinstance(failures, BaseExceptionGroup) and failures.subgroup(
            KeyboardInterrupt
        )
        if world is None or pressed:
            raise
        # The first thing that was wrong, not what came of it.
        if world.faults:
            raise Violation(world.faults[0]) from None
        raise Violation(f"out of the server came {failures!r}") from failures
    finally:
        if collecting:
            gc.enable()
    assert world is not None
    return world.outcome()
