"""The accept path over real sockets: hostile neighbours, caps, drain, TLS."""

from __future__ import annotations

import errno
import gc
import logging
import socket as stdlib_socket
import ssl
import struct
import weakref
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed, ConnectionRejected, open_websocket_url
from wsproto.frame_protocol import FrameProtocol

from trio_bridge.clock import Clock
from trio_bridge.edge import Edge, EdgeLimits, Refused, Request, Response, Socket
from trio_bridge.edge.lobby import Lobby, PeerLog
from trio_bridge.errors import SocketClosedError

from .peers import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    App,
    Loopback,
    Peer,
    Pipe,
    close_payload,
    frame,
    head,
    in_memory,
    on_loopback,
    serve_one,
)

HELLO = frame(TEXT, b"hello")
CERTIFICATE = Path(__file__).with_name("loopback_test_only.pem")


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


async def until_gone(edge: Edge) -> None:
    """Wait until no connection is left; the caller has a deadline."""
    while edge.sockets or edge.pending:
        await trio.lowlevel.checkpoint()


async def test_a_connection_that_cannot_be_closed_harms_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stuck(Pipe):
        async def aclose(self) -> None:
            raise OSError("the kernel says no")

    client, server = memory_stream_pair()
    await client.aclose()
    await App().edge().connection(Stuck(server))  # which raises nothing
    assert errors(caplog) == ["connection failed"]


async def test_http_and_websocket_share_a_port() -> None:
    app = App()
    async with on_loopback(app.edge()) as net:
        async with net.websocket("/bridge") as ws:
            await ws.send_message("hello")
            await ws.send_message(b"pcm")
            await ws.send_message("x")
            assert await ws.get_message() == "echo x"
            await ws.ping()
        peer = await net.dial()
        await peer.send(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await peer.answer())[2] == b"ok\n"
        assert await peer.at_end()
    assert app.audio == [b"pcm"]
    assert app.ends == [(1000, "")]
    assert app.sockets[0].request.peer == "127.0.0.1"


async def test_a_refused_client_of_trio_websocket_sees_the_status() -> None:
    def admit(request: Request) -> None:
        raise Refused(401, "token required")

    async with on_loopback(App().edge(admit=admit)) as net:
        with pytest.RaisesGroup(pytest.RaisesExc(ConnectionRejected, match="401")):
            async with net.websocket("/"):
                pass


# Each of these ended or hung the process of a plain trio-websocket server, or leaked there.
RESET = struct.pack("ii", 1, 0)
SCRIPTS: dict[str, list[bytes]] = {
    "nothing at all": [],
    "Host that is not IDNA": [head().replace(b"bridge.example", b"\xff")],
    "header bytes that are not ASCII": [head(b"Sec-WebSocket-Protocol: \xe9")],
    "TLS to a cleartext port": [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)],
    "half a head": [head()[:60]],
    "head and nothing": [head()],
    "data before the 101": [head() + HELLO + frame(BINARY, b"x") * 50],
    "reset in the middle of a frame": [head() + HELLO, frame(BINARY, bytes(2000))[:700]],
    "ping and gone": [head() + HELLO, frame(PING) * 5],
    "bad UTF-8": [head() + frame(TEXT, b"\xff\xfe")],
    "unmasked": [head() + b"\x81\x05hello"],
    "endless fragments": [head() + frame(TEXT, fin=False) + frame(0, fin=False) * 500],
    "huge length": [head() + b"\x82\xff" + b"\x7f" * 8],
    "close twice and talk on": [head() + HELLO, frame(CLOSE) * 2 + frame(TEXT, b"x") * 3],
    "ping behind the close": [head() + HELLO, frame(CLOSE) + frame(PING) * 3],
    "handshake twice": [head() + head()],
    "a flood of pings": [head() + HELLO, frame(PING) * 3000],
}


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_no_script_of_one_client_harms_another(
    caplog: pytest.LogCaptureFixture, reset: bool
) -> None:
    app = App()
    edge = app.edge()

    async def attack(net: Loopback, script: list[bytes]) -> None:
        peer = await net.dial()
        async with peer.stream:
            try:
                for part in script:
                    await peer.send(part)
                    for _ in range(5):
                        await trio.lowlevel.checkpoint()
            except trio.BrokenResourceError:
                pass
            if reset:
                assert isinstance(peer.stream, trio.SocketStream)
                peer.stream.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, RESET)

    async with on_loopback(edge) as net:
        neighbour = await net.dial()
        await neighbour.upgrade(head() + HELLO)
        async with trio.open_nursery() as nursery:
            for script in SCRIPTS.values():
                nursery.start_soon(attack, net, script)
        await neighbour.send(frame(BINARY, b"still here"), frame(TEXT, b"x"))
        assert await neighbour.read() == (TEXT, b"echo x")
        await neighbour.send(frame(CLOSE, close_payload(1000)))
        assert await neighbour.close_code() == 1000
        await until_gone(edge)
        assert b"still here" in app.audio
    assert errors(caplog) == []
    assert edge.counts["error"] == 0


async def test_a_task_that_fails_ends_its_own_connection_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App()

    async def on_socket(socket: Socket) -> None:
        if socket.request.path == "/bad":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                raise ValueError("bug")
        await app.on_socket(socket)

    edge = app.edge(on_socket=on_socket)
    async with on_loopback(edge) as net:
        good = await net.dial()
        await good.upgrade(head() + HELLO)
        for _ in range(3):
            async with net.websocket("/bad") as ws:
                with pytest.raises(ConnectionClosed) as caught:
                    await ws.get_message()
                assert caught.value.reason is not None
                assert caught.value.reason.code == 1011
        await good.send(frame(TEXT, b"x"))
        assert await good.read() == (TEXT, b"echo x")
    assert errors(caplog) == ["socket task failed"] * 3


async def test_an_error_inside_the_edge_itself_stays_in_its_connection(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(trio.abc.Stream):
        async def send_all(self, data: object) -> None: ...
        async def wait_send_all_might_not_block(self) -> None: ...
        async def aclose(self) -> None: ...
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            raise ZeroDivisionError

    edge = App().edge()
    await edge.connection(Broken())
    assert errors(caplog) == ["connection failed"]
    assert edge.counts["error"] == 1
    assert edge.pending == 0


async def test_a_reader_that_stops_reading_is_cut_off(autojump_clock: MockClock) -> None:
    app = App()
    async with on_loopback(app.edge(), deadline_s=60) as net:
        peer = await net.dial()
        await peer.upgrade(head() + HELLO)
        while not app.messages:
            await trio.lowlevel.checkpoint()
        began_s = trio.current_time()

        async def talk() -> None:
            while True:
                await app.sockets[0].send("x" * 100_000)

        with pytest.raises(SocketClosedError, match="closed with 1006"):
            await talk()
        assert trio.current_time() - began_s == 5


# -- caps ------------------------------------------------------------------------------------


async def test_strangers_of_one_address_are_capped_and_known_peers_are_not_counted() -> None:
    app = App()
    edge = app.edge(EdgeLimits(pending_per_address=3))
    async with on_loopback(edge) as net:
        for _ in range(5):
            peer = await net.dial()
            await peer.upgrade(head() + HELLO + frame(TEXT, b"x"))
            assert await peer.read() == (TEXT, b"echo x")
        assert edge.pending == 0
        strangers = [await net.dial() for _ in range(3)]
        while edge.pending < 3:
            await trio.lowlevel.checkpoint()
        one_more = await net.dial()
        assert await one_more.at_end()
        assert edge.counts["over cap"] == 1
        await strangers[0].stream.aclose()
        while edge.pending == 3:
            await trio.lowlevel.checkpoint()
        welcome = await net.dial()
        await welcome.upgrade()


def test_the_lobby_counts_by_address_and_in_all() -> None:
    lobby = Lobby(EdgeLimits(pending_per_address=2, pending=3))
    first = lobby.enter("192.0.2.1")
    assert first is not None
    assert lobby.enter("192.0.2.1") is not None
    assert lobby.enter("192.0.2.1") is None
    assert lobby.enter("2001:db8::1") is not None
    assert lobby.enter("192.0.2.2") is None, "full"
    first()
    first()
    assert lobby.total == 2
    assert lobby.enter("192.0.2.2") is not None
    assert set(lobby.by_address) == {"192.0.2.1", "2001:db8::/64", "192.0.2.2"}


async def test_strangers_write_one_line_a_second_into_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    peers = PeerLog()
    for _ in range(10):
        peers.say("request refused", status=400)
        peers.say("something else")
    await trio.sleep(1)
    peers.say("request refused", status=431)
    lines = [(r.getMessage(), r.__dict__["unsaid"]) for r in caplog.records]
    assert lines == [("request refused", 0), ("something else", 0), ("request refused", 9)]


# -- accepting -------------------------------------------------------------------------------


class Tired(trio.abc.Listener[trio.SocketStream]):
    """A listener whose accept() fails as often as it is told to, then waits."""

    def __init__(self, error: int, times: int) -> None:
        self.error, self.times = error, times
        self.closed = False

    async def accept(self) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        if not self.times:
            await trio.sleep_forever()
        self.times -= 1
        raise OSError(self.error, "injected")

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


async def test_running_out_of_descriptors_is_waited_out(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    edge = App().edge()
    listener = Tired(errno.EMFILE, 25)
    async with trio.open_nursery() as nursery:
        await nursery.start(edge.serve, [listener])
        await trio.sleep(5)
        assert listener.times == 0
        nursery.cancel_scope.cancel()
    assert listener.closed
    assert edge.counts["accept failed"] == 25
    assert errors(caplog) == ["accept failed"] * 3, "25 failures in 2.4 s, a line a second"


async def test_a_listener_that_is_broken_for_good_is_reported(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await App().edge().serve([Tired(errno.EBADF, 1)])
    assert "injected" in repr(caught.value.exceptions)


# -- drain -----------------------------------------------------------------------------------


async def test_drain_tells_every_socket_1001_and_serve_returns() -> None:
    app = App()
    edge = app.edge()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    net = Loopback(listeners[0].socket.getsockname()[1])
    codes: list[int] = []

    async def meet(ready: trio.Event) -> None:
        peer = await net.dial()
        async with peer.stream:
            await peer.upgrade(head() + HELLO + frame(TEXT, b"x"))
            assert await peer.read() == (TEXT, b"echo x")
            ready.set()
            codes.append(await peer.close_code())
            await peer.send(frame(CLOSE, close_payload(codes[-1])))
            assert await peer.at_end()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(edge.serve, listeners)
            for _ in range(20):
                ready = trio.Event()
                nursery.start_soon(meet, ready)
                await ready.wait()
            idle = await net.dial()
            await idle.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await idle.answer())[0] == 200
            await edge.drain()
            assert await idle.at_end()
            await idle.stream.aclose()
            with pytest.raises(OSError, match="connect"):
                await net.dial()
    assert codes == [1001] * 20
    assert app.ends == [(1001, "going away")] * 20


async def test_drain_is_bounded_when_nobody_answers(autojump_clock: MockClock) -> None:
    edge = App().edge()
    async with in_memory(edge) as peer:
        await peer.upgrade(head() + HELLO)
        await wait_all_tasks_blocked()
        await edge.drain(1012, "restarting")
        assert trio.current_time() == 2
        assert await peer.read() == (CLOSE, close_payload(1012, b"restarting"))


async def test_a_connection_that_comes_during_the_drain_is_turned_away(
    autojump_clock: MockClock,
) -> None:
    edge = App().edge()
    await edge.drain()
    async with in_memory(edge) as late:
        assert await late.at_end()

    answered = trio.Event()

    async def slow_page(request: Request) -> Response:
        await answered.wait()
        return Response()

    edge = App().edge(on_http=slow_page)
    async with in_memory(edge) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", head())
        await wait_all_tasks_blocked()
        await edge.drain()
        answered.set()
        assert (await peer.answer())[0] == 200, "what was begun is finished"
        assert await peer.at_end()


async def test_an_upgrade_that_meets_the_drain_gets_503_or_1001(
    autojump_clock: MockClock,
) -> None:
    app = App()
    edges: list[Edge] = []

    def admit(request: Request) -> None:
        edges[0]._draining = True  # as if drain() had been called a moment ago

    edges.append(app.edge(admit=admit))
    async with in_memory(edges[0]) as peer:
        await peer.upgrade()
        assert await peer.close_code() == 1001
    assert app.sockets == []

    edge = app.edge()
    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_one, edge, server)
        peer = Peer(client)
        await peer.send(head()[:-2])
        await wait_all_tasks_blocked()
        edge._draining = True
        await peer.send(b"\r\n")
        assert (await peer.answer())[0] == 503
        assert await peer.at_end()


# -- TLS -------------------------------------------------------------------------------------


async def test_tls_is_spoken_when_a_context_is_given() -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    client = ssl.create_default_context(cafile=str(CERTIFICATE))
    app = App()
    edge = Edge(
        on_http=app.on_http,
        on_socket=app.on_socket,
        admit=app.admit,
        clock=Clock(),
        tls=server,
    )
    async with on_loopback(edge) as net:
        async with open_websocket_url(
            f"wss://127.0.0.1:{net.port}/bridge", ssl_context=client
        ) as ws:
            await ws.send_message("hello")
            await ws.send_message(b"p" * 10_000)
            await ws.send_message("x" * 30_000)
            assert await ws.get_message() == "echo " + "x" * 30_000
        assert app.audio == [b"p" * 10_000]
        assert app.sockets[0].request.peer == "127.0.0.1"
        wrong = await net.dial()
        await wrong.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while not edge.counts["gone"]:
            await trio.lowlevel.checkpoint()
        await wrong.stream.aclose()


async def test_a_tls_handshake_is_under_the_deadline_of_the_head(
    autojump_clock: MockClock,
) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    app = App()
    edge = Edge(
        on_http=app.on_http, on_socket=app.on_socket, admit=app.admit, clock=Clock(), tls=server
    )
    async with in_memory(edge) as peer:
        assert await peer.at_end()
        assert trio.current_time() == 10


def frame_parsers() -> int:
    return sum(isinstance(thing, FrameProtocol) for thing in gc.get_objects())


@pytest.mark.parametrize("how", ["a Close", "nothing"])
async def test_a_connection_that_ended_leaves_nothing_for_the_cycle_collector(
    how: str,
) -> None:
    app = App()
    edge = app.edge()
    gc.collect()
    gc.disable()
    try:
        async with on_loopback(edge) as net:
            peer = await net.dial()
            await peer.upgrade()
            await peer.send(HELLO, frame(BINARY, b"a"))
            while not app.audio:
                await trio.lowlevel.checkpoint()
            ended = weakref.ref(app.sockets.pop()._gate)
            assert frame_parsers() == 1
            if how == "a Close":
                await peer.send(frame(CLOSE, close_payload(1000)))
            else:
                await trio.aclose_forcefully(peer.stream)
            await until_gone(edge)
            while ended() is not None or frame_parsers():
                await trio.lowlevel.checkpoint()
    finally:
        gc.enable()
