"""What a worker reads from another: all comes back as it was, and nothing else passes."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trio_bridge.config import Settings
from trio_bridge.edge.frames import TEXT, Cutter, text_frame, unmask
from trio_bridge.edge.head import Request
from trio_bridge.edge.limits import EdgeLimits
from trio_bridge.edge.passing import HandOverError, Passage
from trio_bridge.errors import SettingsError
from trio_bridge.fleet.handover import (
    ASK,
    HAND_OVER,
    MAX_HEAD_BYTES,
    MAX_UNREAD_BYTES,
    PREFIX_BYTES,
    Prefix,
    decode_passage,
    decode_prefix,
    encode_passage,
    encode_prefix,
)

any_bytes = st.binary(max_size=200)
latin = st.binary(max_size=40)
requests = st.builds(
    Request,
    st.text(max_size=8),
    st.text(max_size=60),
    st.lists(st.tuples(latin, latin), max_size=6).map(tuple),
    st.text(max_size=40),
)
passages = st.builds(Passage, requests, st.booleans(), any_bytes)


def split(data: bytes) -> tuple[Prefix, bytes]:
    return decode_prefix(data[:PREFIX_BYTES]), data[PREFIX_BYTES:]


@given(passages)
def test_a_passage_comes_back_as_it_was(passage: Passage) -> None:
    prefix, body = split(encode_passage(passage))
    assert prefix.purpose == HAND_OVER
    assert decode_passage(prefix, body) == passage


@given(passages, st.data())
def test_a_visit_that_ends_early_is_no_passage(passage: Passage, data: st.DataObject) -> None:
    prefix, body = split(encode_passage(passage))
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(HandOverError):
        decode_passage(prefix, body[:cut])


@given(st.binary(max_size=PREFIX_BYTES + 2) | any_bytes.map(HAND_OVER.__add__))
@example(HAND_OVER + bytes(8))
@example(ASK + b"\xff" * 8)
def test_any_bytes_are_a_prefix_or_a_hand_over_error(data: bytes) -> None:
    try:
        prefix = decode_prefix(data)
    except HandOverError:
        return
    assert encode_prefix(prefix) == data
    assert prefix.head_bytes <= MAX_HEAD_BYTES
    assert prefix.unread_bytes <= MAX_UNREAD_BYTES


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
)
WHOLE = {"method": "GET", "target": "/", "headers": [], "peer": "?", "upgraded": True}


@given(
    any_bytes
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.tuples(st.sampled_from(sorted(WHOLE)), json_values).map(
        lambda one: json.dumps({**WHOLE, one[0]: one[1]}).encode()
    ),
    any_bytes,
)
@example(json.dumps({**WHOLE, "headers": [["k", "\u2028"]]}).encode(), b"")
@example(json.dumps({**WHOLE, "headers": [["k", 1]]}).encode(), b"")
@example(json.dumps({**WHOLE, "upgraded": 1}).encode(), b"")
@example(b"[" * 100_000, b"")
def test_any_head_is_a_passage_or_a_hand_over_error(head: bytes, unread: bytes) -> None:
    prefix = Prefix(HAND_OVER, len(head), len(unread))
    try:
        passage = decode_passage(prefix, head + unread)
    except HandOverError:
        return
    assert passage.unread == unread
    assert decode_passage(Prefix(HAND_OVER, len(head), 0), head).request == passage.request


def test_what_is_too_large_is_not_sent() -> None:
    request = Request("GET", "/", (), "?")
    with pytest.raises(HandOverError):
        encode_passage(Passage(request, False, bytes(MAX_UNREAD_BYTES + 1)))
    with pytest.raises(HandOverError):
        encode_passage(Passage(Request("GET", "/" * MAX_HEAD_BYTES, (), "?"), False, b""))


def test_the_largest_head_that_the_edge_takes_can_be_handed_over() -> None:
    """The shortest header lines there are, each of characters that JSON escapes."""
    with pytest.raises(SettingsError) as caught:
        Settings(head_bytes=1 << 30)
    largest = int(str(caught.value).split(" to ")[1].split(",")[0])
    lines = ((b"a", b'"'),) * (largest // len(b'a:"\r\n'))
    passage = Passage(Request("GET", "/", lines, "?"), False, b"")
    prefix, body = split(encode_passage(passage))
    assert decode_passage(prefix, body) == passage


@settings(deadline=None)
@given(st.text(max_size=400) | st.sampled_from(["x" * 126, "\u00e9" * 32_767, "y" * 70_000]))
def test_a_first_message_is_read_again_as_it_was(text: str) -> None:
    cutter = Cutter(EdgeLimits(hello_bytes=1 << 20))
    cutter.feed(text_frame(text, masked=True))
    frame = cutter.cut(0.0, turn=1)
    assert frame is not None
    assert frame[0] == 0x80 | TEXT
    assert unmask(frame, len(frame) - len(text.encode()), len(frame)).decode() == text
    assert cutter.message_seen
    assert not cutter.pending
