"""JSON from a stranger: one object of plain text fields, or a reason why not.

Knows nothing of what the fields mean; `frames`, `hello` and `control` do.
"""

from __future__ import annotations

import json
from typing import NoReturn

MAX_DEPTH_ERRORS = (ValueError, RecursionError)
"""All that `json.loads` raises on text: bad syntax, too many digits, too many brackets."""

JsonObject = dict[str, object]


def read_object(text: str | bytes) -> JsonObject:
    """Parse one JSON object; bytes must be UTF-8.

    Raises:
        ValueError: not JSON, or JSON of another kind; the text is a short reason.
    """
    try:
        parsed = json.loads(text, parse_constant=_refuse_constant)
    except MAX_DEPTH_ERRORS as exc:
        raise ValueError("not JSON") from exc
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
