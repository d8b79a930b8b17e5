"""Log lines: one event a line, whatever a peer wrote."""

from __future__ import annotations

import io
import itertools
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.log import (
    EXCERPT,
    LONGEST_EXCEPTION,
    LONGEST_FIELD,
    BoundLog,
    JsonFormatter,
    TextFormatter,
    Throttle,
    excerpt,
    printable,
    set_up_logging,
)

NASTY = [
    "a\nb", "a\r\nb", "\x1b[2J\x1b[31mred", "\x07bell", "\x9b31m", "a\u2028b", "a\u2029b",
    "\x85next", "\u202eright to left", "\u2066isolate", "\x00", "\ud800", "tab\tstop",
    "\ufeffmark", "\u200bzero", "\x7f",
]  # fmt: skip
"""What moves a cursor, breaks a line or turns the text round."""
TAME = "".join(map(chr, range(0x20, 0x7F))) + "äß€漢😀"
ANY_TEXT = st.text(st.characters(exclude_categories=())) | st.sampled_from(NASTY)
FORGED = "x\n12:00:00 ERROR   forged\x1b[31m"


def record(event: str, /, **fields: Any) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": event, "levelname": "INFO", "name": "trio_bridge.x"})
    made.__dict__.update(fields)
    return made


def as_text(event: str, /, **fields: Any) -> str:
    return TextFormatter().format(record(event, **fields))


def as_json(event: str, /, **fields: Any) -> dict[str, Any]:
    line = JsonFormatter().format(record(event, **fields))
    assert_is_one_safe_line(line)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    parsed: dict[str, Any] = json.loads(line, parse_constant=refuse)
    return parsed


def assert_is_one_safe_line(line: str) -> None:
    assert len(line.splitlines()) == 1
    assert printable(line) == line
    line.encode()  # a lone surrogate could not be written


def failing_with(text: str) -> dict[str, Any]:
    try:
        raise ValueError(text)  # noqa: TRY301 - a real traceback is what is wanted
    except ValueError:
        return {"exc_info": sys.exc_info()}


@pytest.fixture
def quiet_root() -> Iterator[None]:
    """The root logger as it was, after a test of `set_up_logging`."""
    root, package = logging.getLogger(), logging.getLogger("trio_bridge")
    before = root.handlers[:], root.level, package.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    package.setLevel(before[2])


# -- text of strangers -----------------------------------------------------------------------


@pytest.mark.parametrize("text", NASTY)
def test_what_a_terminal_would_act_on_is_escaped(text: str) -> None:
    assert_is_one_safe_line(printable(text))
    assert printable(text) != text


def test_what_people_write_stays_as_it_is() -> None:
    assert printable(TAME) == TAME


@given(ANY_TEXT)
def test_printable_text_is_one_line_and_printing_it_again_changes_nothing(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    shown.encode()


@given(ANY_TEXT, ANY_TEXT)
def test_no_field_or_event_can_break_or_colour_a_text_line(event: str, value: str) -> None:
    assert_is_one_safe_line(as_text("event " + event, field=value, more=[value]))


@given(ANY_TEXT, ANY_TEXT)
def test_no_field_or_event_can_break_a_json_line(event: str, value: str) -> None:
    line = as_json(event, field=value)
    assert (line["event"], line["field"]) == (event, value)


@given(st.sampled_from(" \xa0\u2003\u3000\u1680\u202f"), st.text("ab", max_size=3))
def test_a_value_that_looks_like_two_fields_is_in_quotes(space: str, tail: str) -> None:
    """``who=Ann bot_id=other`` must not be what a person called ``Ann bot_id=other`` makes.

    Unicode has sixteen more characters that look like a space than ASCII.
    """
    assert as_text("joined", who=f"Ann{space}bot_id={tail}").endswith(
        f' who="Ann{space}bot_id={tail}"'
    )


@pytest.mark.parametrize("text", [FORGED, "a\u2028b", "\x9b31m", "\u202e"])
def test_an_exceptions_text_cannot_forge_or_colour_a_line(text: str) -> None:
    """An agent raises with what a participant wrote: ``ValueError(f"what is {text}?")``."""
    head, *traceback = as_text("failed", **failing_with(text)).split("\n")
    assert head.endswith("failed")
    assert "Traceback" in traceback[0]
    for line in traceback:
        assert_is_one_safe_line(line)
        assert not line.startswith("12:00:00 ERROR")


def test_an_exception_is_one_field_of_a_json_line() -> None:
    line = as_json("failed", **failing_with(FORGED))
    assert "forged" in line["exception"]
    assert line["event"] == "failed"


@given(ANY_TEXT | st.binary())
def test_an_excerpt_is_short_and_safe(data: str | bytes) -> None:
    shown = excerpt(data)
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    if len(data) > EXCERPT:
        assert shown.endswith("...")


def test_an_excerpt_of_what_must_be_escaped_is_bounded_too() -> None:
    assert excerpt("\U000e0001" * 5_000) == r"\U000e0001" * EXCERPT + "..."


def test_an_excerpt_of_something_short_is_all_of_it() -> None:
    assert excerpt("x" * EXCERPT) == "x" * EXCERPT
    assert excerpt("x" * (EXCERPT + 1)) == "x" * EXCERPT + "..."
    assert excerpt(b"\x01\xff") == "01ff"
    assert excerpt(b"\x01" * 40) == "01" * 40
    assert excerpt(b"\x01" * 41) == "01" * 40 + "..."


# -- the two formats -------------------------------------------------------------------------


def test_a_json_line_has_a_utc_time_a_level_a_logger_an_event_and_the_fields() -> None:
    made = record("meeting began", bot_id="b", count=3, share=0.5, none=None)
    made.created, made.msecs = 1_700_000_000.25, 250.0
    assert json.loads(JsonFormatter().format(made)) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "INFO",
        "logger": "trio_bridge.x",
        "event": "meeting began",
        "bot_id": "b",
        "count": 3,
        "share": 0.5,
        "none": None,
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_does_not_have_leaves_the_line_json(value: float) -> None:
    assert as_json("x", level_db=value)["event"] == "x"


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, b"\xff", {("a", 1): 2}, {"deep": [b"x"]}, ValueError("x\n")]
)
def test_any_python_value_can_be_a_field(value: Any) -> None:
    assert "value" in as_json("x", value=value)
    assert_is_one_safe_line(as_text("x", value=value))


def test_a_field_cannot_replace_what_the_line_itself_says() -> None:
    line = as_json("real", event="forged", level="forged", time="forged", logger="forged")
    assert [line[k] for k in ("event", "level", "logger")] == ["real", "INFO", "trio_bridge.x"]
    assert line["time"] != "forged"


def test_a_text_line_is_read_by_people() -> None:
    made = record("meeting began", bot_id="b-1", who="Ann Lee", empty="", share=0.5, n=3)
    line = TextFormatter().format(made)
    assert line[8:] == ' INFO    meeting began bot_id=b-1 who="Ann Lee" empty="" share=0.5 n=3'


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.0, "1"), (0.1234, "0.123"), (100.0, "100"), (-2.5, "-2.5"), (0.0, "0")],
)
def test_a_fraction_is_shown_to_a_thousandth(value: float, shown: str) -> None:
    assert as_text("x", v=value).endswith(f" v={shown}")


def test_quotes_in_a_value_do_not_end_it() -> None:
    assert as_text("x", who='a" level=ERROR "b').endswith(r' who="a\" level=ERROR \"b"')


class Shy:
    def __repr__(self) -> str:
        raise RuntimeError("not for you")


@pytest.mark.parametrize(
    "value",
    [10**5_000, Shy(), [Shy()], {Shy(): 10**5_000}],
    ids=["huge", "shy", "within a list", "within a dict"],
)
def test_what_cannot_be_shown_does_not_cost_the_line(value: Any) -> None:
    assert "cannot be shown" in json.dumps(as_json("x", value=value))
    line = as_text("x", value=value)
    assert_is_one_safe_line(line)
    assert "cannot be shown" in line


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\u202e" * 1_000_000], ids=["x", "bidi"])
def test_a_million_characters_from_the_chat_are_a_short_line(text: str) -> None:
    as_json("x", value=text, more=[text], by={text: 1})
    for line in (
        JsonFormatter().format(record("x", value=text, by={text: text})),
        as_text(text, value=text, more=[text]),
        JsonFormatter().format(record("x", **failing_with(text))),
        as_text("x", **failing_with(text)),
    ):
        assert len(line) < 160_000
    assert len(as_text("x", value="x" * 1_000_000)) < 2 * LONGEST_FIELD
    assert len(as_text("x", **failing_with("x" * 1_000_000))) < 2 * LONGEST_EXCEPTION


# -- what a program sets up ------------------------------------------------------------------


def test_the_package_is_heard_from_its_level_on_and_others_from_warnings(
    quiet_root: None,
) -> None:
    stream = io.StringIO()
    set_up_logging(stream, "info", "json")
    logging.getLogger("trio_bridge.a").debug("too little")
    logging.getLogger("trio_bridge.a").info("heard")
    logging.getLogger("elsewhere").info("not ours")
    logging.getLogger("elsewhere").warning("grave")
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events == ["heard", "grave"]


def test_setting_up_twice_does_not_write_twice(quiet_root: None) -> None:
    first, second = io.StringIO(), io.StringIO()
    set_up_logging(first, "info", "text")
    set_up_logging(second, "debug", "text")
    logging.getLogger("trio_bridge.a").debug("once")
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    ("style", "terminal", "is_json"),
    [
        ("auto", True, False),
        ("auto", False, True),
        ("json", True, True),
        ("text", False, False),
    ],
)
def test_auto_means_text_on_a_terminal_and_json_elsewhere(
    style: Any, terminal: bool, is_json: bool, quiet_root: None
) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    set_up_logging(stream, "info", style)
    logging.getLogger("trio_bridge.a").info("heard")
    assert stream.getvalue().startswith("{") is is_json


def test_what_was_bound_and_what_was_passed_are_both_in_the_line(quiet_root: None) -> None:
    stream = io.StringIO()
    set_up_logging(stream, "info", "json")
    log = BoundLog(logging.getLogger("trio_bridge.a"), {"bot_id": "b", "n": 1})
    log.info("one")
    log.info("two", extra={"n": 2, "m": 3})
    one, two = map(json.loads, stream.getvalue().splitlines())
    assert (one["bot_id"], one["n"]) == ("b", 1)
    assert (two["bot_id"], two["n"], two["m"]) == ("b", 2, 3)


# -- at most once a second -------------------------------------------------------------------


@given(st.lists(st.floats(0, 2), max_size=60), st.floats(0.1, 3))
def test_a_throttle_admits_one_a_period_and_counts_the_others(
    waits: list[float], every_s: float
) -> None:
    throttle, now_s, admitted, counted = Throttle(every_s), 0.0, [], 0
    for wait_s in waits:
        now_s += wait_s
        if throttle.admits(now_s):
            admitted.append(now_s)
            counted += throttle.take_suppressed()
    assert all(b >= a + every_s for a, b in itertools.pairwise(admitted))
    assert len(admitted) + counted + throttle.suppressed == len(waits)
    if waits:
        assert admitted[0] == waits[0]


def test_a_throttle_that_was_quiet_admits_at_once() -> None:
    throttle = Throttle()
    assert throttle.admits(5.0)
    assert not throttle.admits(5.999)
    assert not throttle.admits(5.9999)
    assert throttle.admits(6.0)
    assert throttle.take_suppressed() == 2
    assert throttle.take_suppressed() == 0
