"""Messages on a child's pipes, and the loop that answers them."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_bridge.agents.local.framing import (
    FAILED,
    HEAD,
    MAX_BODY_BYTES,
    OK,
    Decoder,
    FramingError,
    Message,
    encode,
)
from trio_bridge.agents.local.worker import serve

messages = st.builds(
    Message, st.integers(0, 2**32 - 1), st.sampled_from((OK, FAILED)), st.binary(max_size=40)
)


@given(st.lists(messages, max_size=5), st.lists(st.integers(1, 30), min_size=1))
def test_messages_survive_any_cutting_of_their_bytes(
    sent: list[Message], cuts: list[int]
) -> None:
    stream = b"".join(map(encode, sent))
    decoder, got, at, turn = Decoder(), [], 0, 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        got += decoder.feed(stream[at : at + step])
        at, turn = at + step, turn + 1
    assert got == sent


@given(st.binary(max_size=64))
@example(b"\xff" * HEAD.size)
def test_any_bytes_are_messages_or_a_framing_error(data: bytes) -> None:
    try:
        got = Decoder().feed(data)
    except FramingError:
        return
    assert data.startswith(b"".join(map(encode, got)))


def test_a_message_too_long_is_refused_on_both_sides() -> None:
    with pytest.raises(FramingError):
        encode(Message(1, OK, bytes(MAX_BODY_BYTES + 1)))
    with pytest.raises(FramingError):
        Decoder().feed(HEAD.pack(MAX_BODY_BYTES + 1, 1, OK))


def answered(requests: bytes, load: Callable[[], Callable[[bytes], bytes]]) -> list[Message]:
    replies = io.BytesIO()
    serve(io.BytesIO(requests), replies, load)
    return Decoder().feed(replies.getvalue())


def test_a_worker_answers_in_order_and_loads_once() -> None:
    loaded: list[int] = []

    def load() -> Callable[[bytes], bytes]:
        loaded.append(1)
        return bytes.upper

    requests = b"".join(encode(Message(n, OK, b"abc" * n)) for n in range(3))
    assert answered(requests, load) == [Message(n, OK, b"ABC" * n) for n in range(3)]
    assert loaded == [1]


def test_a_failed_request_is_answered_with_its_reason_and_the_next_one_served() -> None:
    def work(body: bytes) -> bytes:
        if not body:
            raise ValueError("nothing there")
        return body

    requests = encode(Message(1, OK, b"")) + encode(Message(2, OK, b"x"))
    assert answered(requests, lambda: work) == [
        Message(1, FAILED, b"ValueError: nothing there"),
        Message(2, OK, b"x"),
    ]


def test_a_model_that_does_not_load_says_so_to_every_request() -> None:
    def load() -> Callable[[bytes], bytes]:
        raise ImportError("No module named 'pocketsphinx'")

    got = answered(encode(Message(1, OK, b"")) + encode(Message(2, OK, b"")), load)
    assert [(m.number, m.kind) for m in got] == [(1, FAILED), (2, FAILED)]
    assert b"pocketsphinx" in got[0].body


@pytest.mark.parametrize("cut", [1, HEAD.size - 1, HEAD.size, HEAD.size + 2])
def test_a_worker_ends_when_its_input_does_even_inside_a_request(cut: int) -> None:
    assert answered(encode(Message(1, OK, b"abc"))[:cut], lambda: bytes.upper) == []


def test_a_worker_takes_orders_from_nobody_else() -> None:
    with pytest.raises(FramingError):
        answered(b"GET / HTTP/1.1\r\n", lambda: bytes.upper)
