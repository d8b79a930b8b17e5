"""Every number of the edge, with its unit and its reason. No behaviour."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import attrs

_Number = TypeVar("_Number", int, float)


def _above_zero(limits: object, field: attrs.Attribute[Any], value: float) -> None:
    if not value > 0:
        raise ValueError(f"{field.name} must be above zero, not {value!r}")


def _limit(default: _Number) -> _Number:
    return attrs.field(default=default, validator=_above_zero)


def _frozen(values: Iterable[str]) -> frozenset[str]:
    return frozenset(values)


@attrs.frozen(kw_only=True)
class EdgeLimits:
    """What one peer may cost. Seconds end in ``_s``, sizes in ``_bytes``; none is zero."""

    # Before the upgrade
    head_bytes: int = _limit(16 << 10)
    """Request line and headers together; a bot's head is below 1 KiB, a browser's below 8."""
    head_s: float = _limit(10.0)
    """TLS handshake and request head, from accept (or the last answer) to the empty line."""
    body_bytes: int = _limit(256 << 10)
    """Body of a plain HTTP request; the largest webhook seen is a few KiB."""
    body_pieces: int = _limit(4096)
    """Chunks of that body, or reads: a parser takes 4 us for each, however small it is."""
    body_s: float = _limit(10.0)
    """That body, from the end of its head to its last byte."""
    answer_s: float = _limit(30.0)
    """Working out and sending a plain HTTP answer."""
    pending_per_address: int = _limit(64)
    """Connections of one address (IPv6: one /64) that have not been armed yet."""
    pending: int = _limit(512)
    """The same for all addresses: what a flood of strangers can hold at once."""
    allowed_origins: frozenset[str] = attrs.field(default=(), converter=_frozen)
    """Values of ``Origin`` that may open a WebSocket. Bots send none; browsers always do, so
    by default no web page can make a visitor's browser talk to the bridge."""

    # Between the upgrade and arm()
    hello_s: float = _limit(10.0)
    """From the 101 to `Socket.arm`."""
    hello_bytes: int = _limit(16 << 10)
    """The one message let through before `Socket.arm`; a ready message is ~100 bytes."""

    # An open socket
    fragments: int = _limit(64)
    """Frames of one message, empty ones included: 1-byte fragments amplify memory 54 times."""
    control_per_s: int = _limit(20)
    """Pings and pongs in any one second; peers send one every 20 s."""
    bytes_per_s: float = _limit(4e6)
    """Sustained inbound rate (40 times real-time audio). Excess is delayed, never closed."""
    burst_bytes: float = _limit(16e6)
    """What may come at once on top of it: a bot catching up after a network pause."""
    frame_cost_bytes: int = _limit(64)
    """Charged to the budget for each frame on top of its size: tiny frames cost CPU."""
    receive_bytes: int = _limit(64 << 10)
    """One read at most; of a plain socket it is `transport.READ_BYTES`, which is less."""
    fast_turn: int = _limit(64)
    """Audio frames handled before other tasks get their turn (about 0.3 ms)."""
    slow_turn: int = _limit(16)
    """Frames handed to trio-websocket before other tasks get theirs (about 1 ms)."""
    write_s: float = _limit(5.0)
    """A write of up to `write_slice_bytes` that is not done by then ends the socket."""
    write_slice_bytes: int = _limit(64 << 10)
    """A large message is written in slices, so that a slow link is told from a stalled one."""
    ping_s: float = _limit(20.0)
    """Pause between a pong and the next ping; also keeps NAT entries alive."""
    pong_s: float = _limit(20.0)
    """A peer that has not answered a ping by then is gone."""

    # The end
    close_s: float = _limit(2.0)
    """From our Close to the peer's; then the connection is cut."""
    linger_s: float = _limit(1.0)
    """After a refusal or violation: time for the peer to read why before the socket is cut."""
    linger_bytes: int = _limit(8 << 20)
    """What is read and dropped meanwhile, at most."""
    accept_retry_s: float = _limit(0.1)
    """Pause after accept() found no free file descriptor or memory."""


DEFAULT_LIMITS = EdgeLimits()
