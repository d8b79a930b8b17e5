"""How late the event loop is: one task for the whole server, nothing for a frame.

A sleep that ends late says how long what ran before took; one more turn says how long tasks
that are ready wait. Speech that is due suffers both. It is Trio's clock that is looked at, so
on a virtual one a loop is never late.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import trio

from trio_bridge.admission import BEAT_S, Lag

log = logging.getLogger(__name__)


async def measure(lag: Lag, on_look: Callable[[], object] = lambda: None) -> None:
    """Look at the loop every `BEAT_S` or so until cancelled, and call ``on_look`` each time.
    Log when the door closes or opens."""
    dice = random.Random(0)  # the same in every run: a test can be run again
    while True:
        # Uneven: of what blocks the loop at a regular pace an even beat, which starts anew when
        # that ends, saw the same moment each time (100 ms in every 110 were 21 ms).
        due_s = trio.current_time() + BEAT_S * dice.uniform(0.5, 1.5)
        await trio.sleep_until(due_s)
        await trio.lowlevel.checkpoint()
        changed = lag.look(1000 * (trio.current_time() - due_s))
        on_look()
        if changed:
            fields = {"lag_ms": round(lag.ms), "limit_ms": round(lag.limit_ms)}
            if lag.over:
                log.warning("overloaded: no new meetings", extra=fields)
            else:
                log.info("no longer overloaded", extra=fields)
