"""What a fault is given, and what it leaves to be judged."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable

import attrs

from tests.chaos.bridge import Bridge
from tests.chaos.clients import join
from tests.edge.peers import Peer


@attrs.define
class Sent:
    """Frames that a fault's bot sent over all its meetings: the bridge has taken no fewer than
    ``least`` and no more than ``most``."""

    least: int = 0
    most: int = 0

    def add(self, frames: int, *, perhaps: int = 0) -> None:
        """``frames`` arrived for certain, ``perhaps`` so many more."""
        self.least += frames
        self.most += frames + perhaps


@attrs.define(eq=False)
class Attack:
    """One fault's run against a bridge."""

    bridge: Bridge
    chance: random.Random
    number: int
    """Of this attack; part of its bots' ids, so that no two attacks share one."""
    sent: dict[str, Sent] = attrs.field(factory=dict, init=False)
    """What each bot that had a meeting sent."""
    injected: Counter[tuple[str, str]] = attrs.field(factory=Counter, init=False)
    """(event, bot_id) of what will be logged at ERROR because we made it happen."""
    blocked: list[tuple[float, float]] = attrs.field(factory=list, init=False)
    """When an agent held the loop, in seconds of CLOCK_MONOTONIC."""
    since: int = attrs.field(init=False)
    """Lines that the bridge's log had before."""
    _bots: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.since = len(self.bridge.records)

    @property
    def port(self) -> int:
        return self.bridge.port

    def new_bot(self, kind: str = "listen") -> str:
        """A bot_id whose agent is of ``kind``, and which will have a meeting."""
        self._bots += 1
        bot_id = f"{kind}-{self.number}-{self._bots}"
        self.sent[bot_id] = Sent()
        return bot_id

    async def meet(self, bot_id: str) -> tuple[Peer, Peer]:
        """Both channels of a bot: control, audio."""
        return await join(self.port, "control", bot_id), await join(self.port, "audio", bot_id)


Fault = Callable[[Attack], Awaitable[None]]
