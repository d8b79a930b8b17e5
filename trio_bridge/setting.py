"""How one setting is declared and judged: its type, range, text, and whether it is a secret.

`config` makes flags, variables, file keys and the README's table of these. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from trio_bridge.errors import SettingsError

KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
"""What an operator calls the types."""


def kind_of(field: attrs.Attribute[Any]) -> type:
    """The type of a setting; of one without a default it is text."""
    return str if field.default is None else type(field.default)


def setting(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    metavar: str | None = None,
    secret: bool = False,
    shortest: int = 1,
    group: str = "",
) -> Any:
    """One setting: ``text`` says its unit and its reason; ``default`` gives its type.

    Numbers are from ``low`` to ``high``, texts have ``shortest`` characters or more. A
    ``secret`` one is in no repr and no error. ``group`` is where help and README show it.
    """
    return attrs.field(
        default=default,
        repr=not secret,
        converter=_as_tuple if isinstance(default, tuple) else None,
        validator=_validator(low, high, choices, secret, shortest),
        metadata={
            "text": text,
            "choices": choices,
            "metavar": metavar,
            "secret": secret,
            "group": group,
        },
    )


def _validator(
    low: float | None, high: float | None, choices: tuple[str, ...], secret: bool, shortest: int
) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        name = attribute.name
        kind = kind_of(attribute)
        if kind is float and type(value) is int:
            value = float(value)
        parts = value if isinstance(value, tuple) else (value,)
        expected = str if isinstance(attribute.default, tuple) else kind
        if value is None and attribute.default is None:
            return
        shown = "something else" if secret else repr(value)
        if not all(type(part) is expected for part in parts):
            raise SettingsError(f"{name}: expected {KINDS[expected]}, got {shown}")
        if expected is str and not all(part.strip() for part in parts):
            raise SettingsError(f"{name}: expected {KINDS[expected]}, got an empty one")
        if expected is str and not all(len(part) >= shortest for part in parts):
            raise SettingsError(f"{name}: expected at least {shortest} characters, got fewer")
        if low is not None and high is not None and not low <= value <= high:
            raise SettingsError(f"{name}: expected {low:.10g} to {high:.10g}, got {shown}")
        if choices and value not in choices:
            raise SettingsError(f"{name}: expected {' or '.join(choices)}, got {value!r}")

    return check


def _as_tuple(value: Any) -> Any:
    if isinstance(value, str):  # one text is one item, never its letters
        return (value,)
    return tuple(value) if isinstance(value, list | tuple) else value
