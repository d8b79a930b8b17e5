"""The settings of what one peer may cost: each with its unit, its reason and its range.

The ranges keep what the rest counts on: a head can be handed to another worker whole, a goodbye
is said within seconds, no limit is off. What an operator has no use for is in `edge.limits`.
"""

from __future__ import annotations

from functools import partial

import attrs

from trio_bridge.setting import setting

GROUP = "limits of one peer; the defaults fit every bot that was seen"
_limit = partial(setting, group=GROUP)


@attrs.frozen(kw_only=True)
class Limits:
    """What a stranger and a bot may cost."""

    head_bytes: int = _limit(
        16_384,
        "bytes of request line and headers together; more is answered 431",
        low=1_024,
        high=65_536,
    )
    head_s: float = _limit(
        10.0,
        "seconds for TLS handshake and request head; against clients that drip bytes",
        low=0.1,
        high=120.0,
    )
    pending_per_address: int = _limit(
        64,
        "connections of one address (IPv6: one /64) without a ready message, more are cut; "
        "raise it behind a proxy, whose address all have",
        low=1,
        high=65_536,
    )
    pending: int = _limit(
        512,
        "connections of all addresses without a ready message: what a flood can hold",
        low=1,
        high=65_536,
    )
    hello_bytes: int = _limit(
        16_384,
        "bytes of the ready message, all that is read of a stranger; a bot's has 100",
        low=256,
        high=65_536,
    )
    audio_message_bytes: int = _limit(
        262_144,
        "bytes of an audio message, times --channels: 2 s even as base64; else Close 1009",
        low=4_096,
        high=4_194_304,
    )
    control_message_bytes: int = _limit(
        1_048_576,
        "bytes of a control message; then Close 1009",
        low=1_024,
        high=16_777_216,
    )
    fragments: int = _limit(
        64,
        "fragments of one message, empty ones too, then Close 1008; tiny ones take 54 times "
        "their size in memory",
        low=1,
        high=4_096,
    )
    control_frames_per_s: int = _limit(
        20,
        "pings and pongs in any one second, then Close 1008; bots send one every 20 s",
        low=1,
        high=1_000,
    )
    write_s: float = _limit(
        5.0,
        "seconds that writing 64 KiB may take; a peer that does not read is cut",
        low=0.1,
        high=60.0,
    )
    ping_s: float = _limit(
        20.0,
        "seconds from a pong to our next ping; also keeps NAT entries alive",
        low=0.1,
        high=600.0,
    )
    pong_s: float = _limit(
        20.0,
        "seconds that a ping may stay unanswered; then the peer is gone",
        low=0.1,
        high=600.0,
    )
    close_s: float = _limit(
        2.0,
        "seconds from our Close to the peer's; then the connection is cut",
        low=0.1,
        high=10.0,
    )
