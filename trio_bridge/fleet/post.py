"""What a worker is told when it starts: its place in the fleet, and the settings of all.

It comes through the worker's lifeline, a socket pair with the supervisor; only the lifeline's
descriptor is in the environment, so that no secret is. Later orders come the same way, and its
end is the supervisor's.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

import attrs

from trio_bridge.config import Settings
from trio_bridge.errors import SettingsError

LIFELINE_VARIABLE = "_TRIO_BRIDGE_LIFELINE"
"""Not with the settings' prefix: it is none, and nobody is to set it."""
READY = b"+"
"""What the worker says once it can take connections."""
READ_S = 10.0
"""For a post that was written before the worker was started."""
_LENGTH = struct.Struct(">I")


@attrs.frozen(kw_only=True)
class Post:
    """One worker's place."""

    slot: int
    directory: str
    """Where the hatches are; private to this user."""
    listeners: tuple[int, ...] = attrs.field(converter=tuple[int, ...])
    """Descriptors of the listening TCP sockets, which all workers share."""
    hatch: int
    """Descriptor of this slot's listening Unix socket."""
    memory: int
    """Descriptor of what all workers have in common; see `places`."""
    settings: Settings


def encode_post(post: Post) -> bytes:
    data = json.dumps(attrs.asdict(post)).encode()
    return _LENGTH.pack(len(data)) + data


def read_post(lifeline: socket.socket) -> Post:
    """Read the post, and not a byte of the orders behind it; blocks for a moment.

    Raises:
        SettingsError: this is no lifeline.
    """
    lifeline.settimeout(READ_S)
    try:
        (size,) = _LENGTH.unpack(_read_exactly(lifeline, _LENGTH.size))
        fields: Any = json.loads(_read_exactly(lifeline, size))
        return Post(**{**fields, "settings": Settings(**fields["settings"])})
    except (OSError, EOFError, ValueError, TypeError, KeyError) as exc:
        raise SettingsError(
            f"{LIFELINE_VARIABLE} is for workers that --workers starts; unset it"
        ) from exc


def _read_exactly(lifeline: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = lifeline.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data
