from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from trio_bridge.edge import EdgeLimits, Refused, Request, Response, Socket

from .peers import KEY, App, Pipe, head, in_memory


def without(name: bytes, *extra: bytes) -> bytes:
    lines = [line for line in head(*extra).split(b"\r\n") if not line.startswith(name + b":")]
    return b"\r\n".join(lines)


def swapped(old: bytes, new: bytes) -> bytes:
    assert old in head()
    return head().replace(old, new)


REFUSED = [
    (swapped(b"bridge.example", b"bridge.\xff"), 400),
    (swapped(b"bridge.example", b"a b"), 400),
    (swapped(b"bridge.example", b""), 400),
    (swapped(b"bridge.example", b"x" * 256), 400),
    (without(b"Host"), 400),
    (head(b"Host: second"), 400),
    (head(b"X-Name: \xc3\xa9"), 400),
    (head(b"Sec-WebSocket-Protocol: \xff"), 400),
    (head(b"Sec-WebSocket-Extensions: \xff"), 400),
    (head(b"Sec-WebSocket-Key: " + KEY), 400),
    (head(b"Sec-WebSocket-Version: 13"), 400),
    (head(b"Authorization: a", b"Authorization: b"), 400),
    (head(b"Origin: null", b"Origin: null"), 400),
    (without(b"Sec-WebSocket-Key"), 400),
    (head(key=b"short"), 400),
    (head(key=b"!" * 24), 400),
    (head(key=b"A" * 24), 400),
    (head(key=b"=" * 24), 400),
    (without(b"Sec-WebSocket-Version"), 426),
    (swapped(b"Version: 13", b"Version: 8"), 426),
    (without(b"Connection"), 400),
    (swapped(b"Connection: Upgrade", b"Connection: keep-alive"), 400),
    (swapped(b"HTTP/1.1", b"HTTP/1.0"), 400),
    (swapped(b"HTTP/1.1", b"HTTP/2.0"), 505),
    (swapped(b"GET", b"POST"), 405),
    (head(b"Content-Length: 5"), 400),
    (head(b"Content-Length: 0"), 400),
    (head(b"Transfer-Encoding: chunked"), 400),
    (head(b"Transfer-Encoding: chunked", b"Content-Length: 5"), 400),
    (head(b"Transfer-Encoding: gzip"), 501),
    (head(b"Content-Length: -1"), 400),
    (head(b"no colon"), 400),
    (head(b"X: a\0b"), 400),
    (head(target=b"bridge"), 400),
    (head(target=b"ftp://bridge.example/bridge"), 400),
    (head(target=b"/br\xc3\xbccke"), 400),
    (head(b"X: " + b"x" * (16 << 10)), 431),
    (head(*[b"X: y"] * 4000), 431),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    (b"nonsense\r\n\r\n", 400),
    (head(b"Origin: https://evil.example"), 403),
    (head(b"Origin: null"), 403),
]


@pytest.mark.parametrize(("request_head", "status"), REFUSED)
async def test_a_bad_head_is_refused_before_any_handshake(
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    request_head: bytes,
    status: int,
) -> None:
    app = App()
    edge = app.edge()
    async with in_memory(edge) as peer:
        await peer.send(request_head)
        got, headers, _ = await peer.answer()
        assert got == status
        assert headers[b"connection"] == b"close"
        assert await peer.at_end()
        if status == 426:
            assert headers[b"sec-websocket-version"] == b"13"
    assert edge.counts[f"refused {status}"] == 1
    assert app.sockets == []
    assert app.requests == []
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "request_head",
    [
        head(),
        head(b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"),
        head(b"Sec-WebSocket-Protocol: chat, superchat"),
        head(b"X-Padding: " + b"x" * 15_000),
        swapped(b"Upgrade: websocket", b"Upgrade: h2c, WebSocket"),
        swapped(b"Connection: Upgrade", b"Connection: keep-alive, upgrade"),
        swapped(b"bridge.example", b"[::1]:8765"),
        swapped(b"bridge.example", b"xn--a.xn--0"),  # no valid IDNA, and nobody decodes it
        head(target=b"http://bridge.example/bridge"),
    ],
)
async def test_a_proper_handshake_is_accepted_and_deflate_never(
    autojump_clock: MockClock, request_head: bytes
) -> None:
    app = App()
    async with in_memory(app.edge()) as peer:
        await peer.upgrade(request_head)
        assert app.requests[0].path == "/bridge"


async def test_the_accept_key_is_that_of_the_rfc(autojump_clock: MockClock) -> None:
    async with in_memory(App().edge()) as peer:
        await peer.send(head())
        _, headers, _ = await peer.answer()
        assert headers[b"sec-websocket-accept"] == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


async def test_a_listed_origin_may_open_a_socket(autojump_clock: MockClock) -> None:
    limits = EdgeLimits(allowed_origins=["https://me.example"])
    async with in_memory(App().edge(limits)) as peer:
        await peer.upgrade(head(b"Origin: https://me.example"))


async def test_a_head_may_come_byte_by_byte(autojump_clock: MockClock) -> None:
    async with in_memory(App().edge()) as peer:
        for byte in head()[:-1]:
            await peer.send(bytes([byte]))
        await wait_all_tasks_blocked()
        await peer.upgrade(head()[-1:])


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_silent_peer_is_dropped_at_the_deadline(
    autojump_clock: MockClock, sent: bytes
) -> None:
    edge = App().edge()
    async with in_memory(edge) as peer:
        if sent:
            await peer.send(sent)
        assert edge.pending <= 1
        assert await peer.at_end()
        assert trio.current_time() == 10
        await wait_all_tasks_blocked()
        assert edge.pending == 0
    assert edge.counts["head timeout"] == 1


async def test_a_slow_loris_gets_no_more_time_than_a_silent_peer(
    autojump_clock: MockClock,
) -> None:
    async with in_memory(App().edge()) as peer:

        async def drip() -> None:
            for byte in head():
                await peer.send(bytes([byte]))
                await trio.sleep(1)

        with pytest.raises(trio.BrokenResourceError):
            await drip()
        assert trio.current_time() <= 11


async def test_what_admit_refuses_is_answered_before_any_101(
    autojump_clock: MockClock,
) -> None:
    def admit(request: Request) -> None:
        raise Refused(401, "token required", (("www-authenticate", "Bearer"),))

    app = App()
    async with in_memory(app.edge(admit=admit)) as peer:
        await peer.send(head())
        status, headers, body = await peer.answer()
        assert (status, body) == (401, b"token required\n")
        assert headers[b"www-authenticate"] == b"Bearer"
        assert await peer.at_end()
        assert trio.current_time() < 2, "a client that stays is not kept"
    assert app.sockets == []


async def test_an_admit_that_fails_is_logged_and_answered_500(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def admit(request: Request) -> None:
        raise RuntimeError("bug")

    async with in_memory(App().edge(admit=admit)) as peer:
        await peer.send(head())
        assert (await peer.answer())[0] == 500
    assert [r.getMessage() for r in caplog.records] == ["admission failed"]


async def test_after_a_101_nothing_of_the_request_is_lost(autojump_clock: MockClock) -> None:
    got: list[Request] = []

    async def on_socket(socket: Socket) -> None:
        got.append(socket.request)

    async with in_memory(App().edge(on_socket=on_socket)) as peer:
        target = b"/t/s3cret/br%69dge%20%ff?token=a%2Bb&token=c&empty#part"
        await peer.upgrade(head(b"Authorization: Bearer s3cret", target=target))
        await peer.close_code()
    request = got[0]
    assert request.path == "/t/s3cret/bridge \N{REPLACEMENT CHARACTER}"
    assert request.query == {"token": "a+b", "empty": ""}
    assert request.get(b"authorization") == b"Bearer s3cret"
    assert request.get(b"cookie") is None
    assert request.peer == "?"
    assert "s3cret" not in repr(request)


def test_a_refusal_reads_as_its_status_line() -> None:
    assert str(Refused(404, "no such page")) == "404 no such page"


def test_a_header_that_is_repeated_has_no_value() -> None:
    request = Request("GET", "/", ((b"x", b"1"), (b"x", b"2, 3")), "?")
    assert request.get(b"x") is None
    assert request.tokens(b"x") == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", {}),
        ("http://host", "/", {}),
        ("HTTPS://host:1/a/b?c=d", "/a/b", {"c": "d"}),
        ("//a?b", "//a", {"b": ""}),
        ("http://[?a=1", "/", {"a": "1"}),
    ],
)
def test_every_form_of_target_has_a_path_and_a_query(
    target: str, path: str, query: dict[str, str]
) -> None:
    request = Request("GET", target, (), "?")
    assert request.path == path
    assert request.query == query


# -- plain HTTP ------------------------------------------------------------------------------

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"


async def test_several_requests_share_a_connection(autojump_clock: MockClock) -> None:
    async def on_http(request: Request) -> Response:
        return Response(body=request.path.encode(), content_type="text/x-path")

    async with in_memory(App().edge(on_http=on_http)) as peer:
        await peer.send(*(GET.replace(b"health", name) + b"\r\n" for name in (b"a", b"b")))
        for name in (b"/a", b"/b"):
            status, headers, body = await peer.answer()
            assert (status, body) == (200, name)
            assert headers[b"content-type"] == b"text/x-path"
        await peer.upgrade()


async def test_head_has_the_length_and_no_body(autojump_clock: MockClock) -> None:
    async with in_memory(App().edge()) as peer:
        await peer.send(GET.replace(b"GET", b"HEAD") + b"\r\n")
        status, headers, _ = await peer.answer(bodiless=True)
        assert (status, headers[b"content-length"]) == (200, b"3")
        await peer.send(GET + b"\r\n")
        assert (await peer.answer())[2] == b"ok\n"


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (swapped(b"GET", b"HEAD"), 405),
        (swapped(b"GET", b"HEAD").replace(b"bridge.example", b"\xff"), 400),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", 400),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * (16 << 10) + b"\r\n\r\n", 431),
        (b"HEAD / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    ],
)
async def test_a_head_that_is_refused_is_answered_without_a_body(
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    request_head: bytes,
    status: int,
) -> None:
    edge = App().edge()
    async with in_memory(edge) as peer:
        await peer.send(request_head)
        got, headers, _ = await peer.answer(bodiless=True)
        assert (got, headers[b"connection"]) == (status, b"close")
        assert await peer.at_end()
    assert edge.counts["error"] == 0
    assert caplog.messages == []


async def test_a_204_has_neither_length_nor_body(autojump_clock: MockClock) -> None:
    async def on_http(request: Request) -> Response:
        return Response(204, b"ignored")

    async with in_memory(App().edge(on_http=on_http)) as peer:
        await peer.send(GET + b"\r\n")
        _, headers, _ = await peer.answer()
        assert b"content-length" not in headers
        await peer.send(GET + b"\r\n")
        assert (await peer.answer())[0] == 204


@pytest.mark.parametrize(
    "request_head",
    [GET + b"Connection: close\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"],
)
async def test_a_peer_that_wants_one_answer_gets_one(
    autojump_clock: MockClock, request_head: bytes
) -> None:
    async with in_memory(App().edge()) as peer:
        await peer.send(request_head)
        assert (await peer.answer())[0] == 200
        assert await peer.at_end()
        assert trio.current_time() <= 1


async def test_another_upgrade_is_a_plain_request(autojump_clock: MockClock) -> None:
    async with in_memory(App().edge()) as peer:
        await peer.send(GET + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n")
        assert (await peer.answer())[0] == 200


POST = b"POST /hook HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST + b"Content-Length: 6\r\n\r\nabcdef",
        POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n",
    ],
)
async def test_a_body_is_read_whole(autojump_clock: MockClock, request_bytes: bytes) -> None:
    app = App()
    async with in_memory(app.edge()) as peer:
        for at in range(0, len(request_bytes), 5):
            await peer.send(request_bytes[at : at + 5])
            await wait_all_tasks_blocked()
        assert (await peer.answer())[0] == 200
    assert app.requests[0].body == b"abcdef"


async def test_expect_continue_is_answered(autojump_clock: MockClock) -> None:
    app = App()
    async with in_memory(app.edge()) as peer:
        await peer.send(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert (await peer.answer())[0] == 100
        await peer.send(b"abc")
        assert (await peer.answer())[0] == 200


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (POST + b"Content-Length: 262145\r\n\r\n", 413),
        (
            POST + b"Transfer-Encoding: chunked\r\n\r\n50000\r\n" + bytes(0x50000) + b"\r\n",
            413,
        ),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nnot hex\r\n", 400),
        (POST + b"Content-Length: 9\r\n\r\nabc", 408),
        (GET + b"Content-Length: 3\r\n\r\nabc", 400),
        (GET + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ],
)
async def test_a_bad_body_is_refused(
    autojump_clock: MockClock, request_bytes: bytes, status: int
) -> None:
    app = App()
    async with in_memory(app.edge()) as peer:
        await peer.send(request_bytes)
        assert (await peer.answer())[0] == status
        assert await peer.at_end()
    assert app.requests == []


async def test_a_body_of_tiny_chunks_is_refused_and_leaves_others_their_turn(
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
        await peer.send(POST, b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 4097)
        nursery.start_soon(neighbour)
        status, _, reason = await peer.answer()
        assert (status, reason) == (413, b"body in too many pieces\n")
        assert turns > 4096 / 16
        nursery.cancel_scope.cancel()
    assert app.requests == []


async def bad_answer(request: Request) -> Response:
    return Response(headers=(("x", "a\r\nb"),))


async def no_answer(request: Request) -> Response:
    await trio.sleep_forever()
    raise AssertionError


async def failing(request: Request) -> Response:
    raise RuntimeError("bug")


async def refusing(request: Request) -> Response:
    raise Refused(404, "no such page")


@pytest.mark.parametrize(
    ("on_http", "status", "logged"),
    [(bad_answer, 500, 1), (no_answer, 503, 0), (failing, 500, 1), (refusing, 404, 0)],
)
async def test_a_page_that_fails_is_an_answer_and_the_connection_lives_on(
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    on_http: object,
    status: int,
    logged: int,
) -> None:
    assert callable(on_http)
    edge = App().edge(on_http=on_http)
    async with in_memory(edge) as peer:
        for _ in range(2):
            await peer.send(GET + b"\r\n")
            assert (await peer.answer())[0] == status
    assert [r.getMessage() for r in caplog.records] == ["http answer failed"] * logged * 2
    assert edge.counts["error"] == logged * 2


async def test_a_peer_that_does_not_take_its_answer_is_dropped(
    autojump_clock: MockClock,
) -> None:
    client, server = memory_stream_pair()
    edge = App().edge()
    await client.send_all(GET + b"\r\n")
    await edge.connection(Pipe(server, stalled=True))
    assert trio.current_time() == 30
    assert edge.pending == 0
