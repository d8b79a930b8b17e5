"""`parse_hello`: one message in; one `Hello` or one `HandshakeError` out, nothing else.

A `HandshakeError` is 1003 or 1008 and its reason, which is ours, fits into a Close frame. A
`Hello` has an id of 1 to 128 printable characters, not all of them blank, exactly as it was
sent; and no message that has such an id, and type ``ready``, is refused. The same JSON spelt
otherwise means the same.
"""

from __future__ import annotations

import json

from fuzz.json_text import TOKENS, as_text, encoded, objects, respelt, values
from fuzz.target import Target, require_plain
from trio_bridge.errors import HandshakeError
from trio_bridge.wire.hello import BAD_HELLO, POLICY, Hello, encode_hello, parse_hello

KEYS = ("type", "bot_id", "message")
LONGEST_ID, MOST_DIGITS = 128, 100  # said again: a change of a limit must be meant


def check(data: bytes) -> None:
    """Read ``data`` as a binary message and, if it is UTF-8, as a text message too.

    Raises:
        AssertionError: the promise in the module's docstring is broken.
    """
    assert isinstance(_outcome(data), HandshakeError), "binary was taken for a hello"
    text = as_text(data)
    if text is None:
        return
    outcome = _outcome(text)
    expected = _acceptable_id(text)
    if isinstance(outcome, HandshakeError):
        require_plain(outcome.reason)
        assert outcome.close_code in (BAD_HELLO, POLICY)
        assert expected is None, "a good hello was refused"
    else:
        assert outcome == Hello(outcome.bot_id)
        assert outcome.bot_id == expected, "a bad hello was accepted"
        outcome.bot_id.encode()
        assert _outcome(encode_hello(outcome.bot_id)) == outcome
    for other in respelt(text):
        assert _said(_outcome(other)) == _said(outcome), "the spelling of JSON has a meaning"


def _outcome(message: bytes | str) -> Hello | HandshakeError:
    try:
        return parse_hello(message)
    except HandshakeError as error:
        return error
    except Exception as exc:
        raise AssertionError(f"{type(exc).__name__} escaped") from exc


def _said(outcome: Hello | HandshakeError) -> object:
    if isinstance(outcome, HandshakeError):
        return outcome.close_code, outcome.reason
    return outcome


def _acceptable_id(text: str) -> str | None:
    refused: list[str] = []  # ``NaN`` and its like, and numbers that take too long to read

    def number(digits: str) -> int:
        if len(digits) > MOST_DIGITS:
            refused.append(digits)
        return 0

    try:
        value = json.loads(text, parse_constant=refused.append, parse_int=number)
    except (ValueError, RecursionError):
        return None
    if refused or not isinstance(value, dict) or value.get("type") != "ready":
        return None
    bot_id = value.get("bot_id")
    if not isinstance(bot_id, str) or not 1 <= len(bot_id) <= LONGEST_ID:
        return None
    return bot_id if bot_id.isprintable() and not bot_id.isspace() else None


messages = objects(KEYS, values("ready", "ready", "bot_abc123", "b" * 128)).map(encoded)

TARGET = Target(
    "hello",
    check,
    messages,
    (*TOKENS, b'"type"', b'"ready"', b'"bot_id"', b'{"type": "ready", "bot_id": "'),
)
