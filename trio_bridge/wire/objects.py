"""JSON from a stranger: one object of plain text fields, or a reason why not.

Knows nothing of what the fields mean; `frames`, `hello` and `control` do.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

LONGEST_TEXT = 1 << 20
"""Characters; the largest message that the edge lets through. What is longer is not parsed."""
LARGE_TEXT = 4 << 10
"""Characters from which on a text's values are counted before it is parsed: below, whatever
they are, parsing takes half a millisecond."""
MOST_MARKS = 10_000
"""Strings, brackets and commas of a large text. ``[],[],[],`` of 1 MiB takes 140 ms to parse,
in which nobody is served; one string of 1 MiB takes one. A transcript of 600 words with the
time of each has as many."""
MOST_DIGITS = 100
"""Of a whole number. Python takes 4,300, in a time that grows with their square."""

_PARSE_ERRORS = (ValueError, RecursionError)
"""All that a decoder of JSON raises on text: bad syntax, too many digits, or brackets."""
_MARK = re.compile(r'[\[{,"]')

JsonObject = dict[str, object]


def read_object(text: str | bytes) -> JsonObject:
    """Parse one JSON object; bytes must be UTF-8.

    Raises:
        ValueError: not JSON, or JSON of another kind; the text is a short reason.
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError("too long")
    try:
        if isinstance(text, bytes):
            text = text.decode()
        crowded = len(text) > LARGE_TEXT and _is_crowded(text)
        parsed = None if crowded else _DECODER.decode(text)
    except _PARSE_ERRORS as exc:
        raise ValueError("not JSON") from exc
    if crowded:
        raise ValueError("too many values")
    if not isinstance(parsed, dict):
        raise ValueError("JSON is not an object")  # noqa: TRY004 - one error type for callers
    return parsed


def text_field(source: JsonObject, *names: str) -> str | None:
    """The first of ``names`` that is present and not null, which must be text.

    Lone surrogates (``"\\ud800"`` is legal JSON) become U+FFFD, since no encoder takes them.

    Raises:
        ValueError: the field holds something else than text.
    """
    for name in names:
        value = source.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise ValueError(f"{name} is not text")  # noqa: TRY004 - one error type for callers
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return None


def whole_field(source: JsonObject, low: int, high: int, *names: str) -> int | None:
    """The first of ``names`` that is present and not null: an integer in ``low..high``.

    Raises:
        ValueError: the field is no integer or out of its range.
    """
    for name in names:
        value = source.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"{name} is not a whole number from {low} to {high}")
        return value
    return None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")  # RFC 8259 §6; Python's parser would take it


def _whole_number(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError("too many digits")
    return int(digits)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_whole_number)


def _is_crowded(text: str) -> bool:
    """Whether ``text`` has more than `MOST_MARKS`; raises ValueError for half a string."""
    at = 0
    for _ in range(MOST_MARKS):
        mark = _MARK.search(text, at)
        if mark is None:
            return False
        at = mark.end()
        if mark[0] == '"':
            _, at = _DECODER.raw_decode(text, at - 1)  # however long, one string costs little
    return True
