"""What a worker says to another when it hands a connection over. Sans-I/O.

A visit to another worker's hatch begins with a prefix: four bytes that say what for, then the
lengths of the two parts that follow, the head (JSON) and the bytes that were read and not used.
The worker answers `TAKEN`, the visitor says `YOURS` with the connection's descriptor beside it,
and from then on it is the other's; whatever else happens, it is not.
"""

from __future__ import annotations

import json
import struct

import attrs

from trio_bridge.edge.head import Request
from trio_bridge.edge.passing import HandOverError, Passage

HAND_OVER, ASK = b"tbH1", b"tbA1"
"""What a visit is for: to hand over a connection, or to ask how the worker is."""
TAKEN, FULL, YOURS = b"+", b"-", b"!"

MAX_HEAD_BYTES = 256 << 10
"""A request head is at most 16 KiB; JSON makes a few times that of very many short headers."""
MAX_UNREAD_BYTES = 1 << 20
"""A first message of 16 KiB, and one read from the kernel (64 KiB) behind it."""

_PREFIX = struct.Struct(">4sII")
PREFIX_BYTES = _PREFIX.size


@attrs.frozen
class Prefix:
    """The first bytes of a visit."""

    purpose: bytes
    head_bytes: int = 0
    unread_bytes: int = 0


def encode_prefix(prefix: Prefix) -> bytes:
    return _PREFIX.pack(prefix.purpose, prefix.head_bytes, prefix.unread_bytes)


def decode_prefix(data: bytes) -> Prefix:
    """Decode `PREFIX_BYTES` bytes.

    Raises:
        HandOverError: they are no prefix, or announce more than we ever send.
    """
    if len(data) != PREFIX_BYTES:
        raise HandOverError("the visit ended in its prefix")
    prefix = Prefix(*_PREFIX.unpack(data))
    if prefix.purpose not in (HAND_OVER, ASK):
        raise HandOverError("not a visit of this version's")
    if prefix.head_bytes > MAX_HEAD_BYTES or prefix.unread_bytes > MAX_UNREAD_BYTES:
        raise HandOverError("the visit announces too much")
    return prefix


def encode_passage(passage: Passage) -> bytes:
    """The prefix and what follows it.

    Raises:
        HandOverError: it is larger than what `decode_prefix` takes.
    """
    request = passage.request
    head = json.dumps(
        {
            "method": request.method,
            "target": request.target,
            "headers": [[k.decode("latin-1"), v.decode("latin-1")] for k, v in request.headers],
            "peer": request.peer,
            "upgraded": passage.upgraded,
        }
    ).encode()
    if len(head) > MAX_HEAD_BYTES or len(passage.unread) > MAX_UNREAD_BYTES:
        raise HandOverError("too large to be handed over")
    prefix = encode_prefix(Prefix(HAND_OVER, len(head), len(passage.unread)))
    return prefix + head + passage.unread


def decode_passage(prefix: Prefix, body: bytes) -> Passage:
    """Decode what followed ``prefix``.

    Raises:
        HandOverError: whatever is wrong with the bytes. Nothing else is ever raised.
    """
    if len(body) != prefix.head_bytes + prefix.unread_bytes:
        raise HandOverError("the visit ended early")
    try:
        head = json.loads(body[: prefix.head_bytes])
        match head:
            case {
                "method": str(method),
                "target": str(target),
                "headers": list(headers),
                "peer": str(peer),
                "upgraded": bool(upgraded),
            }:
                lines = tuple((k.encode("latin-1"), v.encode("latin-1")) for k, v in headers)
                request = Request(method, target, lines, peer, adopted=True)
                return Passage(request, upgraded, body[prefix.head_bytes :])
    except (ValueError, TypeError, AttributeError, RecursionError) as exc:
        raise HandOverError("the head is not one that we write") from exc
    raise HandOverError("the head lacks something")
