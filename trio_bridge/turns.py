"""Interrupting the assistant: one cancel scope per turn, one epoch per interrupt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio


@attrs.define(eq=False)
class TurnGate:
    """One AI turn at a time, interruptible from any task without waiting."""

    epoch: int = attrs.field(default=0, init=False)
    """Rises on every interrupt. Speech of an older epoch is stale."""
    _lock: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _scope: trio.CancelScope | None = attrs.field(default=None, init=False)

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[trio.CancelScope]:
        """The turn: a second one waits until this one is over.

        Its scope is the only thing an interrupt cancels; that cancellation ends here and the
        block is left normally, with ``cancelled_caught`` telling.

        Raises:
            RuntimeError: this task holds the turn already.
        """
        if self._lock.statistics().owner is trio.lowlevel.current_task():
            raise RuntimeError("this task is in a turn already: leave its async with block")
        async with self._lock:
            with trio.CancelScope() as scope:
                self._scope = scope
                try:
                    yield scope
                finally:
                    self._scope = None

    def interrupt(self) -> None:
        """Stop the current turn, if any, and make everything it queued stale."""
        self.epoch += 1
        if self._scope is not None:
            self._scope.cancel()
