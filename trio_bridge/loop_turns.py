"""When the event loop's turn under way began, for a thread that sees whether it lasts too long.

Trio's hooks around its wait for I/O say so, which wakes nobody and costs some 1.5 us a turn.
Where the loop turns for every frame that is a twentieth of what a frame costs; there whoever
reads the audio says it himself, for a tenth of that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import trio

Begin = Callable[[float], None]
"""Is told the time: a turn of the loop begins, and the one before it is over."""
COARSE = 10
"""Who tells of turns leaves them out for a tenth of the strictest limit at most."""


class LoopTurns(trio.abc.Instrument):
    """Of one loop. Opened and closed, like all its methods called, in the loop's thread."""

    def __init__(self, on_end: Begin) -> None:
        """``on_end`` is called with the time when `awaited_s` began, once that turn is over."""
        self.began_s = time.perf_counter()
        """0 while the loop waits for something to happen."""
        self.awaited_s = math.nan
        """The turn whose end is to be told, by when it began; nan: none."""
        self.limit_s = 0.0
        """How long a turn may last."""
        self._on_end = on_end

    def open(self) -> None:
        """Notice turns from now on, by Trio's hooks, also if they are told of just now.

        Raises:
            RuntimeError: there is no loop.
        """
        trio.lowlevel.add_instrument(self)
        _open.set(self)

    def close(self) -> None:
        """Notice no more of them; the loop may be gone, too."""
        with suppress(RuntimeError):
            _open.set(None)
        self.unhook()

    def unhook(self) -> bool:
        """Take Trio's hooks out; whether they were in. Trio drops what a hook raises from, and
        the loop may be gone."""
        try:
            trio.lowlevel.remove_instrument(self)
        except (KeyError, RuntimeError):
            return False
        return True

    def begin(self, now_s: float) -> None:
        """A turn begins ``now_s`` and the one before it is over; 0: the loop waits."""
        began_s, self.began_s = self.began_s, now_s
        if began_s == self.awaited_s:
            self.end_awaited(began_s)

    def end_awaited(self, began_s: float) -> None:
        """The turn that is awaited is over, which ``began_s``."""
        self.awaited_s = math.nan
        self._on_end(began_s)

    def after_io_wait(self, timeout: float) -> None:
        self.begin(time.perf_counter())

    def before_io_wait(self, timeout: float) -> None:
        self.begin(0.0)


_open: trio.lowlevel.RunVar[LoopTurns | None] = trio.lowlevel.RunVar("loop_turns")


@contextmanager
def told(every_s: float) -> Iterator[Begin]:
    """Whoever enters this says when a turn begins, instead of Trio's hooks: ``every_s`` at
    least, if the loop is not blocked. Where nobody watches, or strictly, nothing changes; who
    opens one meanwhile has the hooks back."""
    turns = _open.get(None)
    if turns is None or turns.limit_s < COARSE * every_s or not turns.unhook():
        yield nobody
        return
    turns.begin(time.perf_counter())
    try:
        yield turns.begin
    finally:
        with suppress(RuntimeError):  # the run has crashed
            if _open.get(None) is turns:
                trio.lowlevel.add_instrument(turns)


def nobody(_: float) -> None:
    """Is told of turns where nobody watches."""
