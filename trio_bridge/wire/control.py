"""What the bot says on the control channel: user text, an interrupt, or something new.

The name of a message stands under ``command`` (MeetStream docs) or ``type`` (bridges in the
wild); both are read, ``command`` first.
"""

from __future__ import annotations

import json

import attrs

from trio_bridge.errors import WireError
from trio_bridge.wire.objects import JsonObject, read_object, text_field

USER_TEXT_NAMES = frozenset({"usermsg", "transcript", "transcription.final"})
"""``usermsg`` is documented; the others are what published bridges also accept."""

MAX_KIND = 64
"""Characters of an unknown message's name that are kept: it is a stranger's text."""


class ControlError(WireError):
    """The message is not one object with a name; ``reason`` says what was wrong."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@attrs.frozen
class UserText:
    """What a person in the meeting wrote (or said: sources disagree)."""

    text: str
    """Stripped; may be empty."""
    speaker_id: str = ""
    speaker_name: str = ""
    message_id: str = ""
    """Empty when the sender gave none; otherwise the same id is the same message."""
    is_final: bool = True
    """False for a partial transcript that a later message replaces."""


@attrs.frozen
class InterruptRequest:
    """Stop speaking now."""


@attrs.frozen
class RepeatedReady:
    """Another ``ready`` on a channel that has introduced itself already."""

    bot_id: str


@attrs.frozen
class UnknownCommand:
    """A well-formed message whose name we do not know."""

    kind: str
    """Its name, at most `MAX_KIND` characters; empty when it has none."""


ControlMessage = UserText | InterruptRequest | RepeatedReady | UnknownCommand


def parse_control(message: str | bytes) -> ControlMessage:
    """Parse one message of the control channel.

    Raises:
        ControlError: binary, not a JSON object, or a field of the wrong kind. Nothing else is
            ever raised.
    """
    if not isinstance(message, str):
        raise ControlError("binary message on the control channel")
    try:
        fields = read_object(message)
        kind = text_field(fields, "command", "type") or ""
        if kind in USER_TEXT_NAMES:
            return _user_text(fields)
        if kind == "ready":
            return RepeatedReady(text_field(fields, "bot_id") or "")
    except ValueError as exc:
        raise ControlError(str(exc)) from exc
    if kind == "interrupt":
        return InterruptRequest()
    return UnknownCommand(kind[:MAX_KIND])


def encode_user_message(text: str, *, speaker_name: str | None = None) -> str:
    """A ``usermsg`` as the bot sends it."""
    message = {"command": "usermsg", "message": text}
    if speaker_name is not None:
        message["speakerName"] = speaker_name
    return json.dumps(message)


def encode_interrupt() -> str:
    """An ``interrupt`` as the bot sends it."""
    return json.dumps({"command": "interrupt"})


def _user_text(fields: JsonObject) -> UserText:
    final = fields.get("is_final", fields.get("final"))
    return UserText(
        (text_field(fields, "message", "text", "transcript") or "").strip(),
        speaker_id=text_field(fields, "speaker_id", "speakerId") or "",
        speaker_name=text_field(fields, "speakerName", "speaker_name") or "",
        message_id=text_field(fields, "event_id", "id") or "",
        is_final=final is not False,
    )
