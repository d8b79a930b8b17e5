"""Whatever times are asked of the one task that keeps the time, each is struck when it is due.

Apart from the clock's other tests: they also run without Hypothesis.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from trio_bridge.clock import GRID_S, Clock

SLACK_S = 0.005


def check_all_are_struck(
    dues_s: list[float], meanwhile: Callable[[Clock], Awaitable[None]], latest_s: float
) -> None:
    """None early or more than ``latest_s`` late, and in the order of their times."""
    struck = list[tuple[float, float]]()

    async def main() -> None:
        clock = Clock()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clock.run)
            start_s = trio.current_time()
            for due_s in dues_s:
                at_s = start_s + due_s
                clock.at(at_s, lambda now_s, at_s=at_s: struck.append((at_s, now_s)))  # type: ignore[misc]
            await meanwhile(clock)
            await trio.sleep_until(start_s + max(dues_s) + 1)
            assert clock.next_s == float("inf")
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert [at_s for at_s, _ in struck] == sorted(at_s for at_s, _ in struck)
    assert len(struck) == len(dues_s)
    assert all(at_s <= now_s <= at_s + latest_s + 1e-9 for at_s, now_s in struck)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=30))
def test_nothing_is_struck_early_or_later_than_a_grid_step_and_all_in_the_order_of_their_times(
    dues_s: list[float],
) -> None:
    async def nothing(_: Clock) -> None:
        await trio.lowlevel.checkpoint()

    check_all_are_struck(dues_s, nothing, GRID_S)


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=30),
    st.lists(st.floats(0.0001, 0.3), max_size=30),
)
def test_the_same_holds_but_for_the_slack_where_another_strikes_whenever_it_suits_him(
    dues_s: list[float], pauses_s: list[float]
) -> None:
    async def strike_now_and_then(clock: Clock) -> None:
        with clock.left_to_another(SLACK_S):
            for pause_s in pauses_s:
                await trio.sleep(pause_s)
                if clock.next_s <= trio.current_time():
                    clock.strike_one(trio.current_time())

    check_all_are_struck(dues_s, strike_now_and_then, GRID_S + SLACK_S)
