from __future__ import annotations

import socket as stdlib_socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from trio_bridge.edge.limits import EdgeLimits
from trio_bridge.edge.transport import (
    UNKNOWN,
    RawStream,
    address_group,
    linger,
    peer_address,
)


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[trio.SocketStream, RawStream]]:
    ours, theirs = stdlib_socket.socketpair()
    client = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    server = RawStream(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
    with trio.fail_after(5):
        async with client, server:
            yield client, server


async def test_bytes_go_both_ways_and_end() -> None:
    async with pair() as (client, server):
        await client.send_all(b"abc")
        assert await server.receive_some(2) == b"ab"
        assert await server.receive_some() == b"c"
        for _ in range(20):
            await server.send_all(b"d")
        await server.wait_send_all_might_not_block()
        await server.send_eof()
        assert await client.receive_some(100) == b"d" * 20
        assert await client.receive_some(100) == b""
        await client.aclose()
        assert await server.receive_some() == b""


async def test_a_large_write_waits_for_the_reader() -> None:
    data = bytes(range(256)) * 20_000

    async with pair() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, data)
        got = bytearray()
        while len(got) < len(data):
            got += await client.receive_some(65536)
        assert got == data


async def test_closing_wakes_the_reader() -> None:
    async with pair() as (_, server):

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await server.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            await server.aclose()
            await server.aclose()
        for use in (server.receive_some, server.send_eof, server.wait_send_all_might_not_block):
            with pytest.raises(trio.ClosedResourceError):
                await use()
        with pytest.raises(trio.ClosedResourceError):
            await server.send_all(b"x")


async def test_a_reset_is_a_broken_resource() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listeners[0]:
        port = listeners[0].socket.getsockname()[1]
        client = await trio.open_tcp_stream("127.0.0.1", port)
        accepted = await listeners[0].accept()
        assert peer_address(accepted) == "127.0.0.1"
        client.setsockopt(
            stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        await client.aclose()
        assert peer_address(accepted) == UNKNOWN
        server = RawStream(accepted)
        with trio.fail_after(5):
            with pytest.raises(trio.BrokenResourceError):
                await server.receive_some()
            with pytest.raises(trio.BrokenResourceError):
                await server.send_eof()
            with pytest.raises(trio.BrokenResourceError):
                await server.send_all(b"x")
            await linger(server, EdgeLimits())
        await server.aclose()


async def test_spurious_readiness_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair() as (client, server):
        waits = 0
        real_wait = trio.lowlevel.wait_readable

        async def eager(sock: stdlib_socket.socket) -> None:
            nonlocal waits
            waits += 1
            if waits > 1:
                await client.send_all(b"now")
                await real_wait(sock)

        monkeypatch.setattr(trio.lowlevel, "wait_readable", eager)
        assert await server.receive_some() == b"now"
        assert waits == 2


async def test_a_stream_that_has_no_address_is_unknown() -> None:
    assert peer_address(memory_stream_pair()[0]) == UNKNOWN
    async with pair() as (client, _):
        assert peer_address(client) == UNKNOWN  # a Unix socket has a name, not an address


@pytest.mark.parametrize(
    ("peer", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (UNKNOWN, UNKNOWN),
    ],
)
def test_an_ipv6_customer_is_a_64_prefix(peer: str, group: str) -> None:
    assert address_group(peer) == group


async def test_lingering_is_bounded_in_time_and_bytes(autojump_clock: MockClock) -> None:
    client, server = memory_stream_pair()
    await linger(server, EdgeLimits(linger_s=3.0))
    assert trio.current_time() == 3
    await client.send_all(bytes(200_000))
    await linger(server, EdgeLimits(linger_bytes=100_000))
    assert trio.current_time() == 3
