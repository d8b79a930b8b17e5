"""Bounded queues between tasks that say what happens when they are full.

A lane is measured in what its items cost (samples, bytes, messages), not in items: 400 ms is
400 ms however the audio is cut. A memory channel counts items and costs a wake-up each; a
lane wakes its consumer only when it waits, and the consumer takes all there is.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import attrs
import trio

from trio_bridge.bell import Bell

T = TypeVar("T")


class Overflow(enum.Enum):
    """What a full lane does to the next item."""

    WAIT = "wait"
    """Lossless: the producer waits."""

    DROP_OLDEST = "drop_oldest"
    """Live: late audio is worth less than fresh audio. Every loss is counted."""


def _one(_: object) -> int:
    return 1


@attrs.define(eq=False, on_setattr=attrs.setters.NO_OP)  # no validator runs a frame
class Lane(Generic[T]):
    """A bounded queue from one or more tasks to one consumer.

    Balance at any moment, in cost: ``offered == taken + dropped + flushed + queued``. An item
    that costs more than the capacity is let in alone. A cancelled `put` queued nothing.
    """

    name: str
    capacity: int = attrs.field(validator=attrs.validators.ge(1))
    overflow: Overflow
    cost: Callable[[T], int] = _one
    most: int = 1 << 62
    """Items at once, whatever they cost: the smallest ones cost more memory than they say."""
    bell: Bell = attrs.field(factory=Bell)
    """Rings when something was put or the lane was closed; several lanes may share one."""
    offered: int = attrs.field(default=0, init=False)
    taken: int = attrs.field(default=0, init=False)
    dropped: int = attrs.field(default=0, init=False)
    dropped_items: int = attrs.field(default=0, init=False)
    waits: int = attrs.field(default=0, init=False)
    """Items that had to wait for room."""
    flushed: int = attrs.field(default=0, init=False)
    queued: int = attrs.field(default=0, init=False)
    peak: int = attrs.field(default=0, init=False)
    """The most that was ever queued."""
    closed: bool = attrs.field(default=False, init=False)
    _items: deque[T] | tuple[()] = attrs.field(default=(), init=False)
    """A deque from the first item on: an empty one takes 0.6 KiB, and most lanes stay empty."""
    _room: Bell = attrs.field(factory=Bell, init=False)

    def put_nowait(self, item: T) -> None:
        """Queue ``item``; what no longer fits is dropped from the old end and counted.

        Only for lanes that drop: one that waits must be waited for.
        """
        assert self.overflow is Overflow.DROP_OLDEST
        if self.closed:
            return
        cost = self.cost(item)
        items = self._items
        while items and (self.queued + cost > self.capacity or len(items) >= self.most):
            lost = self.cost(items.popleft())
            self.dropped += lost
            self.dropped_items += 1
            self.queued -= lost
        self._add(item, cost)

    async def put(self, item: T) -> None:
        """Queue ``item`` once it fits. A checkpoint; on `trio.Cancelled` nothing was queued."""
        assert self.overflow is Overflow.WAIT
        await trio.lowlevel.checkpoint()
        cost = self.cost(item)
        waits = 0
        while self._items and self.queued + cost > self.capacity and not self.closed:
            waits = 1
            await self._room.wait()
        self.waits += waits
        if not self.closed:
            self._add(item, cost)

    def count(self, cost: int) -> None:
        """Book items of ``cost`` as put and taken: their consumer got them without a queue."""
        self.offered += cost
        self.taken += cost

    def take_nowait(self) -> T | None:
        """The oldest item, or None when there is none."""
        if not self._items:
            return None
        item = self._items.popleft()
        cost = self.cost(item)
        self.queued -= cost
        self.taken += cost
        self._room.ring()
        return item

    def put_back(self, item: T) -> None:
        """Undo `take_nowait`: ``item`` is the oldest again."""
        cost = self.cost(item)
        self._made().appendleft(item)
        self.queued += cost
        self.taken -= cost
        self.peak = max(self.peak, self.queued)
        self.bell.ring()

    def flush(self) -> int:
        """Throw away everything queued; its cost is counted and returned."""
        flushed, self.queued = self.queued, 0
        self.flushed += flushed
        self._items = ()
        self._room.ring()
        return flushed

    def close(self) -> None:
        """Take no more items: the consumer gets what is queued, then sees `closed`."""
        self.closed = True
        self.bell.ring()
        self._room.ring()

    def __len__(self) -> int:
        return len(self._items)

    def _add(self, item: T, cost: int) -> None:
        self._made().append(item)
        self.offered += cost
        self.queued = queued = self.queued + cost
        if queued > self.peak:
            self.peak = queued
        self.bell.ring()

    def _made(self) -> deque[T]:
        if isinstance(self._items, tuple):
            self._items = deque()
        return self._items
