"""`parse_control`: one message in; one control message or one `ControlError` out.

Binary is always refused. The reason of an error is ours, not the peer's. Every text that
comes out can be encoded, a user's text is stripped, the name of an unknown message is short
and not one we know. The same JSON spelt otherwise means the same, and a user's text survives
being encoded again.
"""

from __future__ import annotations

import attrs

from fuzz.json_text import TOKENS, as_text, encoded, objects, respelt, values
from fuzz.target import Target, require_plain
from trio_bridge.wire.control import (
    MAX_KIND,
    USER_TEXT_NAMES,
    ControlError,
    ControlMessage,
    InterruptRequest,
    RepeatedReady,
    UnknownCommand,
    UserText,
    encode_user_message,
    parse_control,
)

KEYS = (
    *("command", "type", "message", "text", "transcript", "bot_id", "is_final", "final"),
    *("speaker_id", "speakerId", "speakerName", "speaker_name", "event_id", "id"),
)
KNOWN = (*sorted(USER_TEXT_NAMES), "ready", "interrupt")
KINDS = (UserText, InterruptRequest, RepeatedReady, UnknownCommand)


def check(data: bytes) -> None:
    """Read ``data`` as a binary message and, if it is UTF-8, as a text message too.

    Raises:
        AssertionError: the promise in the module's docstring is broken.
    """
    assert isinstance(_outcome(data), ControlError), "binary was understood"
    text = as_text(data)
    if text is None:
        return
    outcome = _outcome(text)
    _judge(outcome)
    for other in respelt(text):
        assert _said(_outcome(other)) == _said(outcome), "the spelling of JSON has a meaning"


def _outcome(message: bytes | str) -> ControlMessage | ControlError:
    try:
        return parse_control(message)
    except ControlError as error:
        return error
    except Exception as exc:
        raise AssertionError(f"{type(exc).__name__} escaped") from exc


def _said(outcome: ControlMessage | ControlError) -> object:
    return outcome.reason if isinstance(outcome, ControlError) else outcome


def _judge(outcome: ControlMessage | ControlError) -> None:
    if isinstance(outcome, ControlError):
        require_plain(outcome.reason)
        return
    assert isinstance(outcome, KINDS)
    for value in attrs.astuple(outcome):
        assert isinstance(value, str | bool)
        str(value).encode()
    if isinstance(outcome, UnknownCommand):
        assert len(outcome.kind) <= MAX_KIND
        assert outcome.kind not in KNOWN
    if isinstance(outcome, UserText):
        assert outcome.text == outcome.text.strip()
        assert type(outcome.is_final) is bool
        again = _outcome(encode_user_message(outcome.text, speaker_name=outcome.speaker_name))
        assert again == UserText(outcome.text, speaker_name=outcome.speaker_name)


messages = objects(KEYS, values(*KNOWN, "hello", " hello ", "x" * 100)).map(encoded)

TARGET = Target(
    "control",
    check,
    messages,
    (*TOKENS, *(f'"{word}"'.encode() for word in (*KEYS, *KNOWN))),
)
