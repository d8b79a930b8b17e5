"""Strangers: how many may wait at once, and how much they may write into our log."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

import attrs
import trio

from trio_bridge.edge.limits import EdgeLimits
from trio_bridge.edge.transport import address_group

_log = logging.getLogger("trio_bridge.edge")


@attrs.define(eq=False)
class Lobby:
    """Connections whose peer has not said who it is, counted by address and in all."""

    limits: EdgeLimits
    total: int = attrs.field(default=0, init=False)
    by_address: Counter[str] = attrs.field(factory=Counter, init=False)

    def enter(self, peer: str) -> Callable[[], None] | None:
        """Take a place; return what gives it back (any number of calls), or None: full."""
        group = address_group(peer)
        limits = self.limits
        if self.total >= limits.pending or self.by_address[group] >= limits.pending_per_address:
            return None
        self.total += 1
        self.by_address[group] += 1
        waiting = True

        def leave() -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                self.total -= 1
                self.by_address[group] -= 1
                if not self.by_address[group]:
                    del self.by_address[group]  # addresses come and go for ever

        return leave


@attrs.define(eq=False)
class PeerLog:
    """What strangers cause: at most one line a second for each event."""

    _next_s: dict[str, float] = attrs.field(factory=dict)
    _unsaid: Counter[str] = attrs.field(factory=Counter)

    def say(self, event: str, level: int = logging.INFO, **data: object) -> None:
        now_s = trio.current_time()
        if now_s < self._next_s.get(event, now_s):
            self._unsaid[event] += 1
            return
        self._next_s[event] = now_s + 1.0
        _log.log(level, event, extra={**data, "unsaid": self._unsaid.pop(event, 0)})
