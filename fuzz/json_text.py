"""JSON as a stranger may spell it, and the same JSON spelt otherwise.

Objects are put together as text, not dumped from values, so that a key may come twice and a
value may be what no dump gives: ``NaN``, too many digits, half a string.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NoReturn

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from trio_bridge.wire.objects import LONGEST_TEXT

PLAIN_VALUES = (
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1.5",
    "48000",
    "2",
    '""',
    '" "',
    "[]",
    "{}",
)
ODD_VALUES = (
    *("NaN", "-Infinity", "1e999", "-0.0", "9" * 5_000, "1" + "0" * 400, "01", "tru", "'a'"),
    *('"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\\x"', '"\\ud83d\\ude00"', '"\u202e"'),
    *("[" * 2_000, "[" * 900 + "]" * 900, '{"a": {"type": "ready"}}', '["usermsg"]', '"'),
    json.dumps("x" * 128),
    json.dumps("x" * 129),
)
"""Rare JSON, nearly JSON, and what Python's parser takes for JSON."""

TOKENS = (b'{"', b'"}', b'": "', b'", "', b": ", b"null", b"true", b"[", b"]", b"\\ud800")


def values(*likely: str) -> SearchStrategy[str]:
    """JSON values as text; ``likely`` are strings that the parser looks for."""
    return (
        st.sampled_from([json.dumps(text) for text in likely])
        | st.text(max_size=12).map(
            lambda text: json.dumps(text, ensure_ascii=len(text) % 2 > 0)
        )
        | st.sampled_from(PLAIN_VALUES)
        | st.integers(0, len(ODD_VALUES) - 1).map(lambda i: ODD_VALUES[i])  # not in its repr
        | st.integers().map(str)
    )


def objects(keys: Sequence[str], value: SearchStrategy[str]) -> SearchStrategy[str]:
    """Objects with some of ``keys``, a few of them damaged."""
    key = st.sampled_from([json.dumps(key) for key in keys]) | st.sampled_from(['"x"', "type"])
    fields = st.lists(st.tuples(key, value), max_size=6).map(
        lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
    )
    ends = st.sampled_from(["", "", "", " ", "\n", "}", "\x00", "\ufeff"])
    damaged = st.builds(lambda start, text, end: start + text + end, ends, fields, ends)
    return fields | fields | damaged


def encoded(text: str) -> bytes:
    """``text`` as a WebSocket carries it."""
    return text.encode("utf-8", "surrogatepass")


def as_text(data: bytes) -> str | None:
    """``data`` as the text message it would be; None if no WebSocket would let it through."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def respelt(text: str) -> list[str]:
    """Other spellings of the same JSON: escapes, white space, the order of an object's keys.

    Empty if ``text`` is no JSON, or JSON that has only one spelling in Python. None is longer
    than any message may be.
    """
    try:
        # Not even where a second value of the same key hides it: parsers refuse it there too.
        value = json.loads(text, parse_constant=_refuse)
        if isinstance(value, dict):
            value = dict(reversed(value.items()))
        spelt = (
            json.dumps(value, allow_nan=False),
            json.dumps(value, allow_nan=False, ensure_ascii=False, indent=1),
        )
    except (ValueError, RecursionError):
        return []
    # 900 brackets, indented, are longer than a message may be: that is no matter of spelling.
    return [other for other in spelt if len(other) <= LONGEST_TEXT]


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)
