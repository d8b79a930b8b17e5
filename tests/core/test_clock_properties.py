"""Whatever times are asked of the one task that keeps the time, each is struck when it is due.

Apart from the clock's other tests: they also run without Hypothesis.
"""

from __future__ import annotations

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from trio_bridge.clock import GRID_S, Clock


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=30))
def test_nothing_is_struck_early_or_later_than_a_grid_step_and_all_in_the_order_of_their_times(
    dues_s: list[float],
) -> None:
    struck = list[tuple[float, float]]()

    async def main() -> None:
        clock = Clock()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clock.run)
            start_s = trio.current_time()
            for due_s in dues_s:
                at_s = start_s + due_s
                clock.at(at_s, lambda now_s, at_s=at_s: struck.append((at_s, now_s)))  # type: ignore[misc]
            await trio.sleep(1e3 + 1)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert [at_s for at_s, _ in struck] == sorted(at_s for at_s, _ in struck)
    assert len(struck) == len(dues_s)
    assert all(at_s <= now_s <= at_s + GRID_S + 1e-9 for at_s, now_s in struck)
