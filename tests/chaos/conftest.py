"""One bridge for all faults of a file: what one of them leaves behind, the next one meets."""

from __future__ import annotations

import os
from collections.abc import Iterator

import attrs
import pytest
import trio

from tests.chaos.arena import Arena, open_arena
from tests.chaos.bridge import Counts

SEED = int(os.environ.get("CHAOS_SEED", "1"))
"""Of the order and of each fault's own chances: ``CHAOS_SEED=7 pytest tests/chaos``."""
BOTS = 6
WARM_UP_S, QUIET_S, QUIET_WINDOWS = 0.5, 0.6, 3


@attrs.define(eq=False)
class Siege:
    """A bridge with neighbours that stream, and what is alive there without a fault."""

    arena: Arena
    baseline: Counts
    over: bool = False
    """The neighbours have left."""


@pytest.fixture(scope="module")
def siege() -> Iterator[Siege]:
    with open_arena(BOTS, SEED) as arena:

        async def look() -> Counts:
            await trio.sleep(WARM_UP_S)
            for _ in range(QUIET_WINDOWS):
                await arena.rest(QUIET_S)
            return await arena.counts_at_rest()

        yield Siege(arena, trio.run(look))
