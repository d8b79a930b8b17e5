"""What an agent is about to say: a short queue in which an interrupt makes everything stale."""

from __future__ import annotations

import math
from collections import deque
from typing import Generic, TypeVar

import attrs
import trio

T = TypeVar("T")

CAPACITY = 4
"""Answers that may wait for their turn. Who asks more than this while we speak wants the newest
answered: the oldest one goes."""


@attrs.frozen
class Waiting(Generic[T]):
    """An answer and the number of interrupts that had been seen when it was asked for."""

    answer: T
    epoch: int


class Answers(Generic[T]):
    """A bounded queue from the task that listens to the task that speaks.

    An interrupt reaches the two tasks on different ways and in either order: the listener as an
    event, the speaker as its cancelled turn. Both say so here, and whichever comes second drops
    nothing that was asked for in between.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._queue: deque[Waiting[T]] = deque()
        # Only wakes the taker, and is never fuller than the queue is.
        self._bell_in, self._bell_out = trio.open_memory_channel[None](math.inf)
        self._epoch = 0
        self.dropped = 0
        """Answers that were never begun, for lack of room or because of an interrupt."""

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, answer: T) -> None:
        """Queue ``answer``; never waits. In a full queue the oldest one is dropped."""
        if len(self._queue) >= self._capacity:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(Waiting(answer, self._epoch))
        if not self._bell_out.statistics().current_buffer_used:
            self._bell_in.send_nowait(None)

    def is_stale(self, waiting: Waiting[T]) -> bool:
        """An interrupt came after it was asked for."""
        return waiting.epoch < self._epoch

    def interrupted(self) -> None:
        """The listener saw an interrupt: whatever was asked for before it is stale."""
        self._epoch += 1
        self._drop_before(self._epoch)

    def cut(self, waiting: Waiting[T]) -> None:
        """The turn that spoke ``waiting`` was cut: what was asked for until then is stale too,
        even if the listener has not seen the interrupt yet."""
        self._drop_before(waiting.epoch + 1)

    def close(self) -> None:
        """No more will be put: the taker gets what is queued, then `trio.EndOfChannel`."""
        self._bell_in.close()

    async def take(self) -> Waiting[T]:
        """The oldest answer. On `trio.Cancelled` it is still queued.

        Raises:
            trio.EndOfChannel: closed and empty.
        """
        await trio.lowlevel.checkpoint()
        while not self._queue:
            await self._bell_out.receive()
        return self._queue.popleft()

    def _drop_before(self, epoch: int) -> None:
        kept = deque(waiting for waiting in self._queue if waiting.epoch >= epoch)
        self.dropped += len(self._queue) - len(kept)
        self._queue = kept
