"""Structured logging on the standard library: constant event names, data in ``extra``.

A peer's text is data, never part of an event's name, and cannot forge or colour a line:
control, format and separator characters come out escaped.
"""

from __future__ import annotations

import json
import logging
import math
import time
import unicodedata
from collections.abc import Callable, MutableMapping
from typing import Any, Literal, TextIO

import attrs

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that move a cursor, turn the text round or break the line."""

EXCERPT = 80
"""Characters of a peer's text that a log line may hold."""
LONGEST_FIELD = 1_000
"""Characters of one field. An agent may log what was written in the chat, which can be 1 MiB;
collectors of logs split or drop lines above 16 KiB."""
_LARGE = 10**100
"""Integers above are text: Python shows none of more than 4,300 digits."""
LONGEST_EXCEPTION = 12_000
"""Characters of a traceback: its end, which says what happened, with that text in it."""


class BoundLog(logging.LoggerAdapter[logging.Logger]):
    """A logger that already knows whose meeting it talks about."""

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        # LoggerAdapter replaces ``extra`` before Python 3.13; here the two are merged.
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs


@attrs.define(eq=False)
class Throttle:
    """Lets one log line a second through and counts the others."""

    every_s: float = 1.0
    suppressed: int = attrs.field(default=0, init=False)
    _next_s: float = attrs.field(default=float("-inf"), init=False)

    def admits(self, now_s: float) -> bool:
        """Whether to log now; `suppressed` says how many were not since the last one."""
        if now_s < self._next_s:
            self.suppressed += 1
            return False
        self._next_s = now_s + self.every_s
        return True

    def take_suppressed(self) -> int:
        count, self.suppressed = self.suppressed, 0
        return count


def excerpt(data: str | bytes) -> str:
    """The beginning of a peer's message, short and printable."""
    if isinstance(data, bytes):
        head = data[: EXCERPT // 2].hex()
        return head + ("..." if len(data) > EXCERPT // 2 else "")
    return printable(data[:EXCERPT]) + ("..." if len(data) > EXCERPT else "")


def printable(text: str) -> str:
    """``text`` with everything escaped that a terminal or a line-based log would act on."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _UNSAFE else c
        for c in text
    )


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, then what was bound or passed."""

    @staticmethod
    def converter(seconds: float | None) -> time.struct_time:
        return time.gmtime(seconds)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{record.msecs:03.0f}Z",
            "level": record.levelname,
            "logger": record.name,
            "event": _beginning(record.getMessage()),
        }
        for name, value in _fields(record).items():
            line[f"{name}_" if name in line else name] = _plain(value)
        if record.exc_info:
            line["exception"] = _ending(self.formatException(record.exc_info))
        return json.dumps(line)


class TextFormatter(logging.Formatter):
    """The same for a person: ``12:00:00 INFO  meeting began bot_id=... agent=echo``."""

    def format(self, record: logging.LogRecord) -> str:
        head = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname:<7} "
        fields = "".join(f" {k}={_shown(v)}" for k, v in _fields(record).items())
        line = head + printable(_beginning(record.getMessage())) + fields
        if record.exc_info:
            # Indented, so that no line of what somebody's text raised passes for one of ours.
            lines = _ending(self.formatException(record.exc_info)).split("\n")
            line += "".join(f"\n  {printable(part)}" for part in lines)
        return line


def set_up_logging(
    stream: TextIO, level: str, style: Literal["auto", "json", "text"] = "auto"
) -> None:
    """Send the package's events to ``stream``; only a program calls this, never a library."""
    text = style == "text" or (style == "auto" and stream.isatty())
    output = logging.StreamHandler(stream)
    output.setFormatter(TextFormatter() if text else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [output]
    root.setLevel(logging.WARNING)
    logging.getLogger("trio_bridge").setLevel(level.upper())


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {k: v for k, v in record.__dict__.items() if k not in _STANDARD}


def _plain(value: object) -> object:
    """``value`` as JSON has it; what JSON does not have as its repr."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _beginning(value)
    if isinstance(value, int):
        return value if abs(value) < _LARGE else _text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, dict):
        return {_beginning(_text(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _beginning(_text(value, repr))


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    text = printable(_beginning(_text(value)))
    ambiguous = not text or any(c.isspace() or c in '="' for c in text)
    return json.dumps(text, ensure_ascii=False) if ambiguous else text


def _text(value: object, show: Callable[[object], str] = str) -> str:
    try:
        return show(value)
    except Exception:  # an agent's own type, or an integer of more digits than Python shows
        return f"<{type(value).__name__} that cannot be shown>"


def _beginning(text: str) -> str:
    return text if len(text) <= LONGEST_FIELD else text[:LONGEST_FIELD] + "..."


def _ending(text: str) -> str:
    return text if len(text) <= LONGEST_EXCEPTION else "..." + text[-LONGEST_EXCEPTION:]
