"""The ``ready`` message with which either channel introduces itself."""

from __future__ import annotations

import json

import attrs

from trio_bridge.errors import HandshakeError
from trio_bridge.wire.objects import read_object

MAX_BOT_ID = 128
"""Characters. Real ids are UUIDs (36); the rest is room for what the docs call ``bot_...``."""

BAD_HELLO, POLICY = 1003, 1008
"""Close codes as MeetStream's own bridges use them: unsupported data, policy violation."""


@attrs.frozen
class Hello:
    """Who is calling."""

    bot_id: str


def parse_hello(message: str | bytes) -> Hello:
    """Parse a channel's first message, which must be text.

    Raises:
        HandshakeError: anything but ``{"type": "ready", "bot_id": "..."}``; its ``close_code``
            is 1003 for what is no such message and 1008 for an id that we refuse. Nothing else
            is ever raised.
    """
    if not isinstance(message, str):
        raise HandshakeError("first message is binary, expected a ready message", BAD_HELLO)
    try:
        fields = read_object(message)
    except ValueError as exc:
        raise HandshakeError(f"first message is {exc}, expected ready", BAD_HELLO) from exc
    if fields.get("type") != "ready":
        raise HandshakeError("first message is not of type ready", BAD_HELLO)
    if "bot_id" not in fields:
        raise HandshakeError("the ready message has no bot_id", BAD_HELLO)
    bot_id = fields["bot_id"]
    if not isinstance(bot_id, str):
        raise HandshakeError("bot_id is not text", BAD_HELLO)
    if not bot_id.strip():
        raise HandshakeError("bot_id is empty", POLICY)
    if len(bot_id) > MAX_BOT_ID:
        raise HandshakeError(f"bot_id is longer than {MAX_BOT_ID} characters", POLICY)
    if not bot_id.isprintable():
        raise HandshakeError("bot_id has characters that cannot be printed", POLICY)
    return Hello(bot_id)


def encode_hello(bot_id: str) -> str:
    """The message that `parse_hello` reads, worded as MeetStream's bots word it."""
    return json.dumps(
        {"type": "ready", "bot_id": bot_id, "message": "Ready to receive messages"}
    )
