"""The life of one socket on a virtual clock: every deadline, every way to end."""

from __future__ import annotations

import gc
import logging
from typing import cast

import attrs
import h11
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed, wrap_client_stream

from trio_bridge.edge import EdgeLimits, Socket
from trio_bridge.errors import SocketClosedError

from .peers import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    App,
    Peer,
    Pipe,
    close_payload,
    frame,
    head,
    in_memory,
    serve_one,
)

HELLO = frame(TEXT, b"hello")


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


async def test_a_message_is_received_and_answered(autojump_clock: MockClock) -> None:
    app = App()
    async with in_memory(app.edge()) as peer:
        await peer.upgrade()
        await peer.send(HELLO, frame(TEXT, "grüß".encode()))
        assert await peer.read() == (TEXT, "echo grüß".encode())
        assert app.messages == ["hello", "grüß"]
        assert not app.sockets[0].closed
        assert app.sockets[0].armed


async def test_of_an_armed_socket_nothing_is_kept_that_could_be_a_secret(
    autojump_clock: MockClock,
) -> None:
    app = App()
    secret = b"GET /t/s3cret/bridge?token=s3cret HTTP/1.1\r\nAuthorization: Bearer s3cret"
    async with in_memory(app.edge()) as peer:
        await peer.upgrade(head().replace(b"GET /bridge HTTP/1.1", secret, 1))
        await peer.send(HELLO, frame(TEXT, b"x"))
        assert await peer.read() == (TEXT, b"echo x")
        request = app.sockets[0].request
        assert (request.target, request.headers) == ("/", ())
        assert request.peer == "?"


def http_connections() -> int:
    gc.collect()
    return sum(isinstance(thing, h11.Connection) for thing in gc.get_objects())


async def test_nothing_of_the_handshake_is_kept_as_long_as_the_socket(
    autojump_clock: MockClock,
) -> None:
    before = http_connections()
    app = App()
    async with in_memory(app.edge()) as peer:
        await peer.upgrade()
        await peer.send(HELLO, frame(TEXT, b"x"))
        assert await peer.read() == (TEXT, b"echo x")
        assert http_connections() == before


async def test_frames_in_the_packet_of_the_handshake_wait_for_the_101(
    autojump_clock: MockClock,
) -> None:
    app = App()
    async with in_memory(app.edge()) as peer:
        await peer.upgrade(head() + HELLO + frame(BINARY, b"pcm") + frame(TEXT, b"x"))
        assert await peer.read() == (TEXT, b"echo x")
        assert app.audio == [b"pcm"]


async def test_audio_goes_to_the_callback_and_fragments_to_receive(
    autojump_clock: MockClock,
) -> None:
    app = App()
    async with in_memory(app.edge()) as peer:
        await peer.upgrade()
        await peer.send(HELLO, *(frame(BINARY, bytes([i]) * 1900) for i in range(200)))
        await peer.send(frame(BINARY, b"ab", fin=False), frame(0, b"cd"), frame(TEXT, b"x"))
        assert await peer.read() == (TEXT, b"echo x")
        assert app.audio == [bytes([i]) * 1900 for i in range(200)]
        assert app.messages == ["hello", b"abcd", "x"]


async def test_without_a_callback_all_messages_are_received(autojump_clock: MockClock) -> None:
    got: list[str | bytes] = []

    async def on_socket(socket: Socket) -> None:
        socket.arm(max_message_bytes=100)
        got.extend([await socket.receive(), await socket.receive()])

    app = App()
    async with in_memory(app.edge(on_socket=on_socket)) as peer:
        await peer.upgrade()
        await peer.send(frame(BINARY, b"1"), frame(TEXT, b"2"))
        assert await peer.close_code() == 1000
    assert got == [b"1", "2"]


@pytest.mark.parametrize("cut", [1, 7, 64])
async def test_small_segments_change_nothing(autojump_clock: MockClock, cut: int) -> None:
    app = App()
    data = HELLO + frame(BINARY, bytes(300)) + frame(PING, b"p") + frame(TEXT, b"x")
    async with in_memory(app.edge()) as peer:
        await peer.upgrade()
        for at in range(0, len(data), cut):
            await peer.send(data[at : at + cut])
            await wait_all_tasks_blocked()
        assert await peer.read() == (PONG, b"p")
        assert await peer.read() == (TEXT, b"echo x")
        assert app.audio == [bytes(300)]


async def test_nothing_is_read_between_the_first_message_and_arm(
    autojump_clock: MockClock,
) -> None:
    go = trio.Event()
    app = App()

    async def on_socket(socket: Socket) -> None:
        await socket.receive()
        await go.wait()
        socket.arm(max_message_bytes=100, on_audio=app.audio.append)
        assert await socket.receive() == "x"

    async with in_memory(app.edge(on_socket=on_socket)) as peer:
        await peer.upgrade()
        await peer.send(HELLO, frame(PING), frame(BINARY, b"a"), frame(TEXT, b"x"))
        await wait_all_tasks_blocked()
        assert app.audio == []
        go.set()
        assert await peer.read() == (PONG, b"")
        assert await peer.close_code() == 1000
    assert app.audio == [b"a"]


# -- ends ------------------------------------------------------------------------------------


async def test_the_peers_close_is_echoed_and_reported(autojump_clock: MockClock) -> None:
    app = App()
    async with in_memory(app.edge()) as peer:
        await peer.upgrade()
        await peer.send(HELLO, frame(CLOSE, close_payload(4321, b"done")))
        assert await peer.read() == (CLOSE, close_payload(4321, b"done"))
        assert await peer.at_end()
    assert app.ends == [(4321, "done")]
    assert trio.current_time() == 0


async def test_a_close_without_a_code_is_reported_as_1005(autojump_clock: MockClock) -> None:
    app = App()
    async with in_memory(app.edge()) as peer:
        await peer.upgrade()
        await peer.send(HELLO, frame(CLOSE))
        assert await peer.close_code() == 1005
        assert await peer.at_end()
    assert app.ends == [(1005, "")]


@pytest.mark.parametrize("sent", [b"", HELLO, HELLO + b"\x82\xfe\x07"])
async def test_a_peer_that_vanishes_is_reported_as_1006(
    autojump_clock: MockClock, sent: bytes
) -> None:
    app = App()
    edge = app.edge()
    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_one, edge, server)
        peer = Peer(client)
        await peer.upgrade(head() + sent)
        await wait_all_tasks_blocked()
        await client.aclose()
    assert app.ends == [(1006, "")]
    assert trio.current_time() == 0
    assert not edge.sockets
    assert edge.pending == 0


async def test_our_close_waits_for_the_answer(autojump_clock: MockClock) -> None:
    app = App()

    async def on_socket(socket: Socket) -> None:
        await socket.close(1003, "not a ready message")
        assert socket.closed
        with pytest.raises(SocketClosedError, match="closed with 1003 not a ready message"):
            await socket.receive()
        with pytest.raises(SocketClosedError, match="closed with 1003 not a ready message"):
            await socket.send("late")

    async with in_memory(app.edge(on_socket=on_socket)) as peer:
        await peer.upgrade()
        assert await peer.read() == (CLOSE, close_payload(1003, b"not a ready message"))
        await trio.sleep(1)
        await peer.send(frame(BINARY, bytes(5000)), frame(CLOSE, close_payload(1003)))
        assert await peer.at_end()
        assert trio.current_time() == 1


async def test_our_close_is_forced_when_the_peer_does_not_answer(
    autojump_clock: MockClock,
) -> None:
    app = App()

    async def on_socket(socket: Socket) -> None:
        async with trio.open_nursery() as nursery:  # safe from any task, any number of times
            for code in (1000, 1011, 1013):
                nursery.start_soon(socket.close, code)
        await socket.close(1008)

    limits = EdgeLimits(ping_s=0.5)  # no ping is sent any more
    async with in_memory(app.edge(limits, on_socket=on_socket)) as peer:
        await peer.upgrade()
        first = await peer.close_code()
        assert first in (1000, 1011, 1013)
        await peer.send(frame(PING), frame(TEXT, b"talking on"))
        assert await peer.at_end()
        assert trio.current_time() == 2


async def test_on_socket_returning_closes_with_1000(autojump_clock: MockClock) -> None:
    async def on_socket(socket: Socket) -> None:
        await socket.send("bye")

    async with in_memory(App().edge(on_socket=on_socket)) as peer:
        await peer.upgrade()
        assert await peer.read() == (TEXT, b"bye")
        assert await peer.close_code() == 1000


async def test_on_socket_failing_closes_with_1011_and_is_logged_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def on_socket(socket: Socket) -> None:
        await socket.receive()
        raise RuntimeError("agent fell over")

    edge = App().edge(on_socket=on_socket)
    async with in_memory(edge) as peer:
        await peer.upgrade(head() + HELLO)
        assert await peer.read() == (CLOSE, close_payload(1011, b"internal error"))
        await peer.send(frame(CLOSE, close_payload(1011)))
        assert await peer.at_end()
    assert errors(caplog) == ["socket task failed"]
    assert edge.counts["error"] == 1


async def test_an_audio_callback_that_raises_closes_with_1011_and_is_logged_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[int] = []

    async def on_socket(socket: Socket) -> None:
        def on_audio(payload: bytes) -> None:
            raise RuntimeError("decoder fell over")

        socket.arm(max_message_bytes=100, on_audio=on_audio)
        with pytest.raises(SocketClosedError) as caught:
            await socket.receive()
        ends.append(caught.value.code)

    edge = App().edge(on_socket=on_socket)
    async with in_memory(edge) as peer:
        await peer.upgrade()
        await peer.send(frame(BINARY, b"a"), frame(BINARY, b"b"))
        assert await peer.close_code() == 1011
        assert await peer.at_end()
        await wait_all_tasks_blocked()
    assert ends == [1011]
    assert errors(caplog) == ["audio callback failed"]


async def test_cancelling_the_connection_closes_with_1001(autojump_clock: MockClock) -> None:
    edge = App().edge()
    client, server = memory_stream_pair()
    peer = Peer(client)

    async def serve() -> None:
        with scope:
            await serve_one(edge, server)

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await peer.upgrade(head() + HELLO)
        await wait_all_tasks_blocked()
        scope.cancel()
        assert await peer.close_code() == 1001
        await peer.send(frame(CLOSE, close_payload(1001)))
        await client.aclose()
    assert trio.current_time() == 0, "a peer that answers is not waited for"


async def test_cancelling_the_connection_of_a_silent_peer_is_bounded(
    autojump_clock: MockClock,
) -> None:
    edge = App().edge()
    client, server = memory_stream_pair()
    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_one, edge, server)
            await Peer(client).upgrade(head() + HELLO)
    assert 5 < trio.current_time() <= 7


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (frame(TEXT, b"\xff"), 1007, "text is not UTF-8"),
        (frame(BINARY, bytes(1001)), 1009, "message too big"),
        (frame(TEXT, bytes(1001)), 1009, "message too big"),
        (frame(3), 1002, "unknown opcode"),
        (frame(TEXT, fin=False) + frame(0, fin=False) * 64, 1008, "too many fragments"),
        (frame(PING) * 21, 1008, "too many control frames"),
        (frame(CLOSE, close_payload(1005)), 1002, "invalid close code"),
    ],
)
async def test_a_violation_is_told_with_its_code_and_counted(
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    data: bytes,
    code: int,
    reason: str,
) -> None:
    caplog.set_level(logging.INFO)
    app = App(max_message_bytes=1000)
    edge = app.edge()
    async with in_memory(edge) as peer:
        await peer.upgrade()
        await peer.send(HELLO, data, frame(TEXT, b"never heard"))
        assert await peer.close_code() == code
        assert await peer.at_end()
        await wait_all_tasks_blocked()
    assert app.ends == [(code, reason)]
    assert app.messages == ["hello"]
    assert edge.counts[f"violation {code} {reason}"] == 1
    assert errors(caplog) == []
    assert "peer broke the protocol" in caplog.messages


async def test_a_violation_before_the_hello_is_told_too(autojump_clock: MockClock) -> None:
    app = App()
    async with in_memory(app.edge()) as peer:
        await peer.upgrade()
        await peer.send(frame(TEXT, bytes((16 << 10) + 1)))
        assert await peer.close_code() == 1009
        assert await peer.at_end()
    assert app.ends == [(1009, "message too big")]


# -- clocks ----------------------------------------------------------------------------------


async def test_no_hello_in_time_is_closed_with_1008(autojump_clock: MockClock) -> None:
    app = App()
    edge = app.edge()
    async with in_memory(edge) as peer:
        await peer.upgrade()
        assert await peer.read() == (CLOSE, close_payload(1008, b"no hello in time"))
        assert trio.current_time() == 10
        await peer.send(frame(CLOSE, close_payload(1008)))
        assert await peer.at_end()
        await wait_all_tasks_blocked()
        assert trio.current_time() == 10
    assert app.ends == [(1008, "no hello in time")]
    assert edge.counts["never armed"] == 1


async def test_a_task_that_never_arms_is_cancelled_after_its_socket_ended(
    autojump_clock: MockClock,
) -> None:
    async def on_socket(socket: Socket) -> None:
        await trio.sleep_forever()

    edge = App().edge(on_socket=on_socket)
    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_one, edge, server)
        peer = Peer(client)
        await peer.upgrade(head() + HELLO)
        assert await peer.close_code() == 1008
    assert trio.current_time() == 14  # 10 s to arm, 2 s for our Close, 2 s of grace
    assert edge.counts["evicted"] == 1


async def test_a_task_that_armed_is_left_to_its_owner(autojump_clock: MockClock) -> None:
    left = trio.Event()

    async def on_socket(socket: Socket) -> None:
        socket.arm(max_message_bytes=100)
        await left.wait()

    edge = App().edge(on_socket=on_socket)
    async with in_memory(edge) as peer:
        await peer.upgrade()
        await peer.stream.aclose()
        await trio.sleep(100)
        assert len(edge.sockets) == 1
        left.set()
        await wait_all_tasks_blocked()
        assert not edge.sockets


async def test_an_answered_ping_keeps_the_socket(autojump_clock: MockClock) -> None:
    async with in_memory(App().edge()) as peer:
        await peer.upgrade(head() + HELLO)
        for _ in range(5):
            opcode, payload = await peer.read()
            assert opcode == PING
            await trio.sleep(19)
            await peer.send(frame(PONG, payload))
        assert trio.current_time() == 5 * (20 + 19)


async def test_an_unanswered_ping_ends_the_socket_as_vanished(
    autojump_clock: MockClock,
) -> None:
    app = App()
    async with in_memory(app.edge()) as peer:
        await peer.upgrade(head() + HELLO)
        assert (await peer.read())[0] == PING
        assert trio.current_time() == 20
        for _ in range(19):
            await trio.sleep(1)
            await peer.send(frame(BINARY, b"audio is not an answer"))
        assert await peer.at_end()
        assert trio.current_time() == 40
        await wait_all_tasks_blocked()
    assert app.ends == [(1006, "")]


async def test_a_stalled_write_ends_the_socket(autojump_clock: MockClock) -> None:
    app = App()
    client, server = memory_stream_pair()
    pipe = Pipe(server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(app.edge().connection, pipe)
        peer = Peer(client)
        await peer.upgrade(head() + HELLO)
        await wait_all_tasks_blocked()
        pipe.stalled = True
        with pytest.raises(SocketClosedError, match="closed with 1006"):
            await app.sockets[0].send("stuck")
        assert trio.current_time() == 5
        assert app.sockets[0].closed
        with pytest.raises(SocketClosedError):
            await app.sockets[0].send("never")
    assert app.ends == [(1006, "")]
    assert trio.current_time() == 5
    assert pipe.written == 129, "after a torn write not a byte more is written"


async def test_a_write_cancelled_half_way_ends_the_socket_and_corrupts_nothing(
    autojump_clock: MockClock,
) -> None:
    app = App()
    client, server = memory_stream_pair()
    pipe = Pipe(server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(app.edge().connection, pipe)
        peer = Peer(client)
        await peer.upgrade(head() + HELLO)
        await wait_all_tasks_blocked()
        pipe.stalled = True
        with trio.move_on_after(1):
            await app.sockets[0].send("cut short")
        pipe.stalled = False
        with pytest.raises(SocketClosedError):
            await app.sockets[0].send("never")
        assert await peer.stream.receive_some(100) == b"\x81"
        assert await peer.at_end()
    assert trio.current_time() == 1


async def test_a_write_cancelled_before_its_first_byte_costs_nothing(
    autojump_clock: MockClock,
) -> None:
    app = App()
    async with in_memory(app.edge()) as peer:
        await peer.upgrade(head() + HELLO)
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await app.sockets[0].send("not sent")
        await app.sockets[0].send("sent")
        assert await peer.read() == (TEXT, b"sent")


async def test_a_large_message_may_take_longer_than_one_stall(
    autojump_clock: MockClock,
) -> None:
    @attrs.define(eq=False)
    class SlowLink(Pipe):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await trio.sleep(len(data) / 20_000)
            await self.inner.send_all(data)

    async def on_socket(socket: Socket) -> None:
        socket.arm(max_message_bytes=100)
        await socket.send("x" * 200_000)

    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(App().edge(on_socket=on_socket).connection, SlowLink(server))
        peer = Peer(client)
        await peer.upgrade()
        assert await peer.read() == (TEXT, b"x" * 200_000)
        assert trio.current_time() > 2 * 5 - 1
        nursery.cancel_scope.cancel()


async def test_a_flood_is_delayed_by_not_reading(autojump_clock: MockClock) -> None:
    limits = EdgeLimits(bytes_per_s=1000.0, burst_bytes=2000.0, frame_cost_bytes=1)
    app = App()
    async with in_memory(app.edge(limits)) as peer:
        await peer.upgrade(head() + HELLO)
        await wait_all_tasks_blocked()
        for _ in range(10):
            await peer.send(frame(BINARY, bytes(992)))
        await peer.send(frame(TEXT, b"x"))
        assert (await peer.read())[1] == b"echo x"
        assert 7.5 < trio.current_time() < 9
        assert len(app.audio) == 10


async def test_a_flood_of_empty_frames_leaves_others_their_turn(
    autojump_clock: MockClock,
) -> None:
    app = App()
    turns = 0

    async def neighbour() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with in_memory(app.edge()) as peer, trio.open_nursery() as nursery:
        await peer.upgrade(head() + HELLO)
        await wait_all_tasks_blocked()
        await peer.send(frame(BINARY) * 6400, frame(TEXT, b"x"))
        nursery.start_soon(neighbour)
        assert (await peer.read())[1] == b"echo x"
        assert len(app.audio) == 6400
        assert turns >= 100
        nursery.cancel_scope.cancel()


async def test_slow_frames_leave_others_their_turn(autojump_clock: MockClock) -> None:
    got: list[str | bytes] = []

    async def on_socket(socket: Socket) -> None:
        socket.arm(max_message_bytes=100)
        while len(got) < 200:
            got.append(await socket.receive())

    async with in_memory(App().edge(on_socket=on_socket)) as peer:
        await peer.upgrade()
        await peer.send(frame(TEXT, b"x") * 200)
        assert await peer.close_code() == 1000
    assert got == ["x"] * 200


# -- a real client ---------------------------------------------------------------------------


async def test_the_client_of_trio_websocket_is_served(autojump_clock: MockClock) -> None:
    app = App()
    async with in_memory(app.edge()) as peer, trio.open_nursery() as nursery:
        stream = cast("trio.SocketStream", peer.stream)  # any stream will do
        ws = await wrap_client_stream(nursery, stream, "bridge.example", "/bridge?a=1")
        await ws.send_message("hello")
        await ws.send_message(b"pcm")
        await ws.ping()
        await ws.send_message("x" * 100_000)
        assert await ws.get_message() == "echo " + "x" * 100_000
        assert app.audio == [b"pcm"]
        await ws.aclose(4000, "done")
        assert app.ends == [(4000, "done")]
        assert app.requests[0].query == {"a": "1"}
        with pytest.raises(ConnectionClosed):
            await ws.get_message()
