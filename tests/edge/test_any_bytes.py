"""Any bytes after a handshake, in any segments: the edge ends it properly and logs no error."""

from __future__ import annotations

import contextlib
import logging

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair

from .peers import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    App,
    Peer,
    close_payload,
    frame,
    head,
    serve_one,
)

HELLO = frame(TEXT, b"hello")
frames = st.builds(
    lambda opcode, payload, fin: frame(opcode, payload, fin=fin),
    st.sampled_from([0, TEXT, BINARY, PING, PONG, CLOSE, 3, 0x41]),
    st.binary(max_size=20) | st.just(bytes(130)) | st.just(close_payload(1000, b"bye")),
    st.booleans() | st.just(True),
)
segments = st.lists(frames | frames | st.binary(max_size=8), max_size=12)


class Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


async def converse(app: App, parts: list[bytes], answer_closes: bool) -> None:
    edge = app.edge()
    client, server = memory_stream_pair()
    peer = Peer(client)

    async def send() -> None:
        try:
            for part in parts:
                await peer.send(part)
                await trio.sleep(0.01)
            await trio.sleep(1)
            await client.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def read() -> None:
        try:
            while True:
                opcode, payload = await peer.read()  # also checks that frames are well-formed
                if opcode == CLOSE and answer_closes:
                    await peer.send(frame(CLOSE, payload[:2]))
        except (EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
            await client.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_one, edge, server)
        await peer.upgrade()
        nursery.start_soon(send)
        nursery.start_soon(read)
    assert not edge.sockets
    assert edge.pending == 0
    assert edge.counts["error"] == 0
    assert trio.current_time() < 10 + 2 + 2 + 1, "everything ended by a clock of the edge"


@settings(deadline=None, max_examples=150)
@given(segments, st.booleans(), st.booleans())
def test_any_bytes_end_in_a_close_or_the_end(
    parts: list[bytes], polite: bool, answer_closes: bool
) -> None:
    app = App(max_message_bytes=100)
    errors = Errors()
    root = logging.getLogger()
    root.addHandler(errors)
    try:
        trio.run(
            converse,
            app,
            [HELLO, *parts] if polite else parts,
            answer_closes,
            clock=MockClock(autojump_threshold=0),
        )
    finally:
        root.removeHandler(errors)
    assert errors.records == []
    assert len(app.ends) == 1, "the application was told once"


@settings(deadline=None, max_examples=100)
@given(st.lists(st.binary(max_size=40) | st.sampled_from(head().splitlines(keepends=True))))
def test_any_head_is_answered_or_dropped(parts: list[bytes]) -> None:
    errors = Errors()
    root = logging.getLogger()
    root.addHandler(errors)

    async def main() -> None:
        edge = App().edge()
        client, server = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_one, edge, server)
            with contextlib.suppress(trio.BrokenResourceError):
                await Peer(client).send(*parts, b"\r\n\r\n")
            await trio.sleep(1)
            await client.aclose()
        assert edge.counts["error"] == 0
        assert edge.pending == 0

    try:
        trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        root.removeHandler(errors)
    assert errors.records == []
