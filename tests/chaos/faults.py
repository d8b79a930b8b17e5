"""The faults. Each is bounded, and leaves no socket and no process of its own behind.

Where a frame was acknowledged by its agent before the fault, it must be in the ledger; where
the fault itself may have lost it (an RST discards what the other end has not read), it may.
"""

from __future__ import annotations

from tests.chaos.attack import Fault
from tests.chaos.channels import (
    agent_raises,
    agent_refuses_to_stop,
    all_channel_orders,
    blocked_loop,
    both_close_while_the_agent_starts,
    clock_steps,
    control_never_reads,
    duplicate_channels,
    interrupt_storm,
    reconnects,
    slow_agent,
)
from tests.chaos.network import (
    client_killed,
    connect_flood,
    descriptors_exhausted,
    half_open_for_a_while,
    one_byte_writes,
    reset_in_mid_frame,
    slow_loris,
)
from tests.chaos.waiting import (
    control_never_reads_to_the_end,
    half_open_found_by_keepalive,
    reconnects_in_five_seconds,
    slow_loris_to_the_deadline,
    stopped_client,
)

QUICK: tuple[Fault, ...] = (
    client_killed,
    reset_in_mid_frame,
    half_open_for_a_while,
    one_byte_writes,
    descriptors_exhausted,
    connect_flood,
    slow_loris,
    all_channel_orders,
    reconnects,
    duplicate_channels,
    both_close_while_the_agent_starts,
    interrupt_storm,
    control_never_reads,
    slow_agent,
    agent_raises,
    agent_refuses_to_stop,
    blocked_loop,
    clock_steps,
)
"""A second or two each."""
LONG: tuple[Fault, ...] = (
    half_open_found_by_keepalive,
    stopped_client,
    control_never_reads_to_the_end,
    slow_loris_to_the_deadline,
    reconnects_in_five_seconds,
)
"""Up to a minute each: they wait for the bridge's own deadlines."""
UNTIMED: frozenset[Fault] = frozenset({blocked_loop})
"""One process is one loop: who holds it holds all. What is promised is that no frame is lost
and nothing in anybody's playback is missed, so the neighbours' latency is not judged."""
