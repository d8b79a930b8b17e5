"""Who blocks the event loop: a thread that looks when nothing in the loop can.

The loop says when a turn of it begins (see `loop_turns`). The thread sleeps as long as no turn
could be too long, five times a second by default; what it then sees running is what blocks. One
watchdog a loop, however many servers run in it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import FrameType

import attrs
import trio

from trio_bridge.log import Throttle
from trio_bridge.loop_turns import LoopTurns

log = logging.getLogger(__name__)

meeting_of_task: ContextVar[str] = ContextVar("meeting_of_task")
"""The bot_id of the meeting that a task works for; its child tasks inherit it."""

FRAMES = 16
"""Innermost calls that a report shows: one line still, and deep enough to reach the agent."""
FAREWELL_S = 1.0
"""How long the end of the last server waits for the thread, if a log line holds it up."""
_NEVER = -1.0
_LOOP = os.path.join("trio", "_core", "_run.py")


@contextmanager
def watching(limit_ms: float) -> Iterator[None]:
    """Report what blocks this loop for longer than ``limit_ms`` at a time; 0: nothing.

    Of several at once in one loop the strictest counts. Each blockage is reported when it is
    noticed and when it is over, once a second at most; the others are counted.
    """
    if not limit_ms:
        yield
        return
    dog = _dog.get(None)
    if dog is None:
        dog = Watchdog()
        _dog.set(dog)
    dog.join(limit_ms / 1000)
    try:
        yield
    finally:
        dog.leave(limit_ms / 1000)


@attrs.frozen
class Sight:
    """What was seen running in the loop."""

    stack: str
    """``file:line function``, innermost first."""
    task: str | None = None
    bot_id: str | None = None

    @property
    def fields(self) -> dict[str, object]:
        found = {"bot_id": self.bot_id, "task": self.task, "stack": self.stack}
        return {name: value for name, value in found.items() if value is not None}


class Watchdog:
    """The thread and what it looks at. Made, joined and left in the loop's own thread."""

    def __init__(self) -> None:
        self._turns = LoopTurns(_say_end)
        self._limits_s: list[float] = []
        self._seen_s = _NEVER
        """The turn that was looked at last, by when it began."""
        self._throttle = Throttle()
        self._stop = threading.Event()
        self._loop_thread = threading.get_ident()
        self._thread: threading.Thread | None = None

    def join(self, limit_s: float) -> None:
        self._limits_s.append(limit_s)
        self._turns.limit_s = min(self._limits_s)
        self._turns.open()
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._watch, name="trio_bridge watchdog", daemon=True
            )
            self._thread.start()

    def leave(self, limit_s: float) -> None:
        self._limits_s.remove(limit_s)
        self._turns.limit_s = min(self._limits_s, default=0.0)
        if self._limits_s or self._thread is None:
            return
        self._stop.set()
        self._turns.close()
        with suppress(RuntimeError):  # the run has crashed, and we are its rubbish
            _dog.set(None)
        self._thread.join(FAREWELL_S)

    def _watch(self) -> None:
        pause_s = 0.0
        while not self._stop.wait(pause_s):
            limit_s = min(self._limits_s, default=1.0)
            began_s = self._turns.began_s
            ran_s = time.perf_counter() - began_s
            pause_s = limit_s
            if began_s in (0.0, self._seen_s):
                continue
            if ran_s < limit_s:
                pause_s = limit_s - ran_s
            else:
                self._seen_s = began_s
                with suppress(Exception):  # of a program's log handler: it ends no watch
                    self._report(began_s, ran_s)

    def _report(self, began_s: float, ran_s: float) -> None:
        turns = self._turns
        if not self._throttle.admits(began_s + ran_s):
            return
        sight = look_at(self._loop_thread)
        if sight is None or turns.began_s != began_s:
            return  # it has just gone on
        turns.awaited_s = began_s
        more = {"more_before": self._throttle.take_suppressed()}
        fields = {"blocked_ms": round(1000 * ran_s), **sight.fields, **more}
        log.warning("event loop is blocked", extra=fields)
        if turns.began_s != began_s and turns.awaited_s == began_s:
            turns.end_awaited(began_s)  # it went on before it could know


def _say_end(began_s: float) -> None:
    lasted_ms = round(1000 * (time.perf_counter() - began_s))
    with suppress(Exception):  # of a program's log handler: it harms neither loop nor thread
        log.warning("event loop runs again", extra={"blocked_ms": lasted_ms})


_dog: trio.lowlevel.RunVar[Watchdog | None] = trio.lowlevel.RunVar("watchdog")


def look_at(thread: int) -> Sight | None:
    """What runs in ``thread``; None if it is gone. From any thread."""
    innermost = sys._current_frames().get(thread)
    if innermost is None:
        return None
    calls: list[str] = []
    task: object = None
    for frame in _outwards(innermost):
        code = frame.f_code
        if code.co_filename.endswith(_LOOP):
            # What Trio calls the task that it runs; should it be called otherwise one day, the
            # stack is all there is.
            task = frame.f_locals.get("task")
            if isinstance(task, trio.lowlevel.Task):
                break
        if len(calls) < FRAMES:
            calls.append(f"{code.co_filename}:{frame.f_lineno} {code.co_name}")
    stack = " < ".join(calls)
    if not isinstance(task, trio.lowlevel.Task):
        return Sight(stack)
    return Sight(stack, task.name, task.context.get(meeting_of_task))


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
