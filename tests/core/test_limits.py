"""Each limit of a peer, from its setting through the whole server to what the peer is told."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import lockstep_stream_pair, wait_all_tasks_blocked

from tests.core.rooms import BOT, Room, bridge, listener
from tests.edge.peers import BINARY, CLOSE, PING, PONG, TEXT, Peer, close_payload, frame, head
from trio_bridge.config import Settings
from trio_bridge.door import HELLO_SLACK_S, edge_limits
from trio_bridge.edge.limits import EdgeLimits
from trio_bridge.limits import Limits
from trio_bridge.meeting import Meeting, UserMessage
from trio_bridge.wire.frames import AudioFrame, encode_frame
from trio_bridge.wire.hello import encode_hello

pytestmark = pytest.mark.usefixtures("autojump_clock")

HELLO = frame(TEXT, encode_hello(BOT).encode())
SMALL: dict[str, Any] = {
    "head_bytes": 2_000,
    "head_s": 3.0,
    "pending_per_address": 2,
    "pending": 3,
    "hello_bytes": 300,
    "audio_message_bytes": 5_000,
    "control_message_bytes": 1_500,
    "fragments": 5,
    "control_frames_per_s": 4,
    "write_s": 0.7,
    "ping_s": 6.0,
    "pong_s": 7.0,
    "close_s": 0.3,
}
"""Other values than the defaults, to see that each setting arrives."""
BOTH = pytest.mark.parametrize("given", [{}, SMALL], ids=["default", "set"])


def test_the_defaults_are_the_promised_numbers() -> None:
    limits = {field.name: field.default for field in attrs.fields(Limits)}
    assert limits == {
        "head_bytes": 16 << 10,
        "head_s": 10.0,
        "pending_per_address": 64,
        "pending": 512,
        "hello_bytes": 16 << 10,
        "audio_message_bytes": 256 << 10,
        "control_message_bytes": 1 << 20,
        "fragments": 64,
        "control_frames_per_s": 20,
        "write_s": 5.0,
        "ping_s": 20.0,
        "pong_s": 20.0,
        "close_s": 2.0,
    }
    assert Settings().hello_s == 10.0
    assert edge_limits(Settings()) == EdgeLimits(hello_s=10.0 + HELLO_SLACK_S)


def test_every_limit_has_a_value_of_its_own_in_the_tests_below() -> None:
    assert {field.name for field in attrs.fields(Limits)} == set(SMALL)
    assert all(getattr(Settings(), name) != value for name, value in SMALL.items())


@asynccontextmanager
async def guarded(given: dict[str, Any], **more: Any) -> AsyncIterator[tuple[Room, Settings]]:
    async with bridge(listener, **given, **more) as room:
        yield room, room.server.settings


async def dial(room: Room) -> Peer:
    return Peer(await room.door.open_stream())


async def join(room: Room, target: bytes = b"/bridge") -> Peer:
    """Connect, upgrade, introduce ourselves and be answered."""
    peer = await dial(room)
    await peer.upgrade(head(target=target) + HELLO)
    assert (await peer.read())[0] == TEXT
    return peer


def audio_message(size: int) -> bytes:
    """An audio message of so many bytes, as one WebSocket frame."""
    empty = len(encode_frame(AudioFrame("s", "Ann", b"")))
    pcm = bytes(size - empty - (size - empty) % 2)
    return frame(BINARY, (encode_frame(AudioFrame("s", "Ann", pcm)) + b"\0")[:size])


# -- before the upgrade ----------------------------------------------------------------------


@BOTH
async def test_a_head_of_its_size_is_taken_and_a_larger_one_is_431(
    given: dict[str, Any],
) -> None:
    async with guarded(given) as (room, settings):
        padding = b"X: " + b"x" * (settings.head_bytes - len(head(b"X: ")))
        whole = await dial(room)
        await whole.upgrade(head(padding))
        large = await dial(room)
        await large.send(head(padding + b"x"))
        assert (await large.answer())[0] == 431
        assert await large.at_end()
        assert room.server.served == 0


@BOTH
async def test_a_head_that_drips_is_cut_at_its_deadline(given: dict[str, Any]) -> None:
    async with guarded(given) as (room, settings):
        peer = await dial(room)
        began_s = trio.current_time()

        async def drip() -> None:
            for byte in head():
                await peer.send(bytes([byte]))
                await trio.sleep(settings.head_s / 20)

        with pytest.raises(trio.BrokenResourceError):
            await drip()
        cut_s = trio.current_time() - began_s
        assert settings.head_s <= cut_s <= settings.head_s * 1.06


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((b"X: \x80",), 400),
        ((b"Host: xn--\xff",), 400),
        ((b"Host: second",), 400),
        ((b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",), 400),
        ((b"Sec-WebSocket-Version: 12",), 400),
        ((b"Origin: https://evil.example",), 403),
    ],
)
async def test_a_head_that_two_servers_could_read_differently_is_refused(
    lines: tuple[bytes, ...], status: int
) -> None:
    async with guarded({}) as (room, _):
        peer = await dial(room)
        await peer.send(head(*lines))
        assert (await peer.answer())[0] == status
        assert await peer.at_end()
        assert room.server.served == 0


async def test_another_version_of_the_protocol_is_426_and_no_key_is_400() -> None:
    async with guarded({}) as (room, _):
        for missing, status in ((b"-Version: 13", 426), (b"-Key: dGhl", 400)):
            peer = await dial(room)
            await peer.send(head().replace(missing, b"-X" + missing[1:]))
            assert (await peer.answer())[0] == status


@pytest.mark.parametrize(
    ("listed", "origin", "status"),
    [
        ((), b"https://me.example", 403),
        ((), b"null", 403),
        (("https://me.example",), b"https://me.example", 101),
        (("https://a.example", "https://me.example"), b"https://me.example", 101),
        (("https://me.example",), b"https://me.example:444", 403),
        (("https://me.example",), b"http://me.example", 403),
        (("https://me.example",), b"https://me.example.evil", 403),
        (("https://me.example",), b"HTTPS://ME.EXAMPLE", 403),
    ],
)
async def test_a_web_page_may_open_a_socket_only_if_its_origin_is_listed(
    listed: tuple[str, ...], origin: bytes, status: int
) -> None:
    """Whether it knows a token or not: a page of somebody else's has what its visitor has."""
    async with guarded({}, allowed_origin=listed, token=("s3cret",)) as (room, _):
        peer = await dial(room)
        await peer.send(head(b"Origin: " + origin, target=b"/t/s3cret/bridge"))
        assert (await peer.answer())[0] == status
        bot = await dial(room)
        await bot.upgrade(head(target=b"/t/s3cret/bridge"))


async def test_deflate_is_never_negotiated_and_never_taken() -> None:
    async with guarded({}) as (room, _):
        peer = await dial(room)
        await peer.upgrade(head(b"Sec-WebSocket-Extensions: permessage-deflate"))  # checks it
        await peer.send(HELLO)
        await peer.read()
        await peer.send(frame(TEXT | 0x40, b"\xaaV*I-.\x01\x00"))
        assert await peer.close_code() == 1002


# -- before the hello ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "places"),
    [
        ({}, 64),
        ({"pending_per_address": 600}, 512),
        ({"pending_per_address": 2}, 2),
        ({"pending_per_address": 9, "pending": 3}, 3),
    ],
)
async def test_strangers_are_capped_by_address_and_in_all_and_bots_are_not_counted(
    given: dict[str, Any], places: int
) -> None:
    """All peers in memory have one address; by several of them see the lobby's own test."""
    async with guarded(given) as (room, _):
        for name in ("one", "two", "three"):
            await room.control(name)
        strangers = [await dial(room) for _ in range(places)]
        await wait_all_tasks_blocked()
        assert room.server.edge.pending == places
        one_more = await dial(room)
        assert await one_more.at_end()
        assert trio.current_time() == 0  # not for its silence
        await strangers[0].stream.aclose()
        await wait_all_tasks_blocked()
        await join(room)
        assert len(room.server.registry) == 4


@pytest.mark.parametrize("hello_s", [10.0, 4.0])
async def test_a_stranger_has_so_long_for_its_hello(hello_s: float) -> None:
    async with guarded({}, hello_s=hello_s) as (room, _):
        peer = await dial(room)
        await peer.upgrade()
        opcode, payload = await peer.read()
        assert (opcode, payload[:2]) == (CLOSE, close_payload(1008))
        assert trio.current_time() == hello_s
        assert room.server.served == 0


@BOTH
async def test_all_that_is_read_of_a_stranger_is_its_hello(given: dict[str, Any]) -> None:
    async with guarded(given) as (room, settings):
        large = await dial(room)
        await large.upgrade(head() + frame(TEXT, b" " * (settings.hello_bytes + 1)))
        assert await large.close_code() == 1009
        padding = b" " * (settings.hello_bytes - len(encode_hello(BOT)))
        whole = await dial(room)
        await whole.upgrade(head() + frame(TEXT, encode_hello(BOT).encode() + padding))
        assert (await whole.read())[0] == TEXT
        assert room.server.served == 1


async def test_what_comes_before_the_101_waits_outside() -> None:
    """A mebibyte behind the head, in one go: what is not read stays in the kernel."""
    async with guarded({}) as (room, _):
        ours, theirs = lockstep_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.server.edge.connection, theirs)
            peer = Peer(ours)
            await peer.send(head())
            sent = 0

            async def flood() -> None:
                nonlocal sent
                while True:
                    await peer.send(bytes(1 << 10))
                    sent += 1 << 10

            nursery.start_soon(flood)
            await wait_all_tasks_blocked()
            assert sent <= 4 << 10
            nursery.cancel_scope.cancel()


# -- an open socket --------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("channels", [1, 2])
async def test_an_audio_message_of_its_size_is_heard_and_a_larger_one_is_1009(
    given: dict[str, Any], channels: int
) -> None:
    async with guarded(given, channels=channels, audio_backlog_ms=60_000) as (room, settings):
        peer = await join(room, b"/bridge/audio")
        size = settings.audio_message_bytes * channels
        await peer.send(audio_message(size))
        await wait_all_tasks_blocked()
        # Heard, or refused as longer than any frame of audio; the socket lives.
        inflow = room.session.inflow
        assert inflow.frames + sum(inflow.intake.rejected.values()) == 1
        await peer.send(audio_message(size + 1))
        assert await peer.close_code() == 1009


@BOTH
async def test_a_control_message_of_its_size_is_read_and_a_larger_one_is_1009(
    given: dict[str, Any],
) -> None:
    async with guarded(given) as (room, settings):
        peer = await join(room)
        size = settings.control_message_bytes
        await peer.send(frame(TEXT, b'{"command": "?"}'.ljust(size)))
        await wait_all_tasks_blocked()
        assert room.session.ignored == 1
        await peer.send(frame(TEXT, b'{"command": "?"}'.ljust(size + 1)))
        assert await peer.close_code() == 1009


@BOTH
@pytest.mark.parametrize("part", [b"", b" "])
@pytest.mark.parametrize("target", [b"/bridge", b"/bridge/audio"])
async def test_a_message_in_so_many_fragments_is_read_and_one_more_is_1008(
    given: dict[str, Any], part: bytes, target: bytes
) -> None:
    def in_fragments(count: int) -> bytes:
        inner = frame(0, part, fin=False) * (count - 2)
        return frame(TEXT, b'{"command": "?"}', fin=False) + inner + frame(0, part)

    async with guarded(given) as (room, settings):
        peer = await join(room, target)
        await peer.send(in_fragments(settings.fragments))
        await wait_all_tasks_blocked()
        assert room.session.ignored + sum(room.session.inflow.intake.rejected.values()) == 1
        await peer.send(in_fragments(settings.fragments + 1))
        assert await peer.close_code() == 1008


@BOTH
@pytest.mark.parametrize("opcode", [PING, PONG])
@pytest.mark.parametrize("target", [b"/bridge", b"/bridge/audio"])
async def test_so_many_control_frames_a_second_are_taken_and_one_more_is_1008(
    given: dict[str, Any], opcode: int, target: bytes
) -> None:
    async with guarded(given) as (room, settings):
        peer = await join(room, target)
        for _ in range(3):
            await trio.sleep(1)
            await peer.send(frame(opcode, b"x") * settings.control_frames_per_s)
        await wait_all_tasks_blocked()
        assert len(room.server.edge.sockets) == 1
        await peer.send(frame(opcode))
        assert await peer.close_code() == 1008


@pytest.mark.parametrize("target", [b"/bridge", b"/bridge/audio"])
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x02{}", 1002),  # not masked
        (frame(3), 1002),
        (frame(TEXT | 0x10, b"{}"), 1002),
        (frame(0, b"{}"), 1002),
        (frame(PING, bytes(126)), 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xc3", fin=False) + frame(0, b"("), 1007),
        (frame(TEXT, fin=False) * 2, 1002),
        (frame(BINARY, fin=False) + frame(0, fin=False) * 64, 1008),
        (b"\x82\xff" + (1 << 62).to_bytes(8, "big") + bytes(4), 1009),
    ],
)
async def test_a_violation_is_told_by_its_code_and_the_neighbour_goes_on(
    target: bytes, data: bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with guarded({}) as (room, _):
        neighbour = await room.audio("bot-2")
        peer = await join(room, target)
        await peer.send(data)
        assert await peer.close_code() == code
        assert await peer.at_end()
        await neighbour.send(encode_frame(AudioFrame("s", "Ann", bytes(1920))))
        await wait_all_tasks_blocked()
        (session,) = (s for s in room.server.registry if s.bot_id == "bot-2")
        assert session.inflow.frames == 1
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


@BOTH
async def test_a_half_open_peer_is_pinged_and_cut(given: dict[str, Any]) -> None:
    async with guarded(given, grace_s=0.0) as (room, settings):
        peer = await join(room)
        assert (await peer.read())[0] == PING
        assert trio.current_time() == settings.ping_s
        assert await peer.at_end()
        assert trio.current_time() == settings.ping_s + settings.pong_s
        await wait_all_tasks_blocked()
        assert not room.server.edge.sockets


@BOTH
async def test_a_peer_that_does_not_read_is_cut(given: dict[str, Any]) -> None:
    """Its kernel is full from the first byte; what is read of it makes no difference."""

    async def talker(meeting: Meeting) -> None:
        async for event in meeting.events():
            if isinstance(event, UserMessage):
                await meeting.chat("an answer")

    async with bridge(talker, **given) as room:
        ours, theirs = lockstep_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.server.edge.connection, theirs)
            peer = Peer(ours)
            await peer.upgrade(head() + HELLO)
            assert (await peer.read())[0] == TEXT
            await peer.send(frame(TEXT, b'{"command": "usermsg", "message": "x"}'))
            await wait_all_tasks_blocked()
            (socket,) = room.server.edge.sockets
            await socket._gate.done.wait()
            assert trio.current_time() == room.server.settings.write_s
            nursery.cancel_scope.cancel()


@BOTH
async def test_our_close_waits_so_long_for_the_peers_and_is_then_forced(
    given: dict[str, Any],
) -> None:
    async with guarded(given) as (room, settings):
        peer = await dial(room)
        await peer.upgrade(head() + frame(TEXT, b"no hello"))
        assert await peer.close_code() == 1003
        assert await peer.at_end()
        assert trio.current_time() == settings.close_s


@pytest.mark.parametrize("close_s", [0.5, 2.0, 10.0])
async def test_a_goodbye_has_the_time_that_a_close_has(close_s: float) -> None:
    """A bot that answers in the last moment has seen 1001, and is let go."""
    async with bridge(listener, close_s=close_s) as room:
        peer = await join(room)
        room.server.stop()
        assert await peer.close_code() == 1001
        await trio.sleep(close_s * 0.9)
        await peer.send(frame(CLOSE, close_payload(1001)))
        assert await peer.at_end()
        await room.server.stopped.wait()
        assert trio.current_time() == close_s * 0.9
