"""What only the gate itself can show; the whole of it is driven in test_socket."""

from __future__ import annotations

import attrs
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from trio_bridge.edge.gate import Gate
from trio_bridge.edge.limits import EdgeLimits

from .peers import CLOSE, TEXT, Pipe, close_payload, frame

ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
PONG_FRAME = b"\x8a\x00"


async def test_the_head_comes_first_and_the_rest_after_the_101(
    autojump_clock: MockClock,
) -> None:
    _client, server = memory_stream_pair()
    hello = frame(TEXT, b"hello")
    gate = Gate(server, b"our head", hello, EdgeLimits())
    assert await gate.receive_some(4096) == b"our head"
    with trio.move_on_after(1) as scope:
        await gate.receive_some(4096)
    assert scope.cancelled_caught
    await gate.wait_send_all_might_not_block()
    await gate.send_all(ACCEPTED)
    assert await gate.receive_some(4096) == hello
    await gate.aclose()


async def test_after_any_answer_but_a_101_nothing_more_is_said_or_heard(
    autojump_clock: MockClock,
) -> None:
    _client, server = memory_stream_pair()
    gate = Gate(server, b"", frame(TEXT, b"hello"), EdgeLimits())
    await gate.send_all(b"HTTP/1.1 400 \r\n\r\n")
    assert await gate.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await gate.send_all(b"more")


async def test_closing_wakes_a_reader_that_waits_for_admission(
    autojump_clock: MockClock,
) -> None:
    _client, server = memory_stream_pair()
    gate = Gate(server, b"", frame(TEXT, b"hello"), EdgeLimits())
    await gate.send_all(ACCEPTED)
    await gate.receive_some()
    got: list[bytes] = []

    async def read() -> None:
        got.append(await gate.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        await gate.aclose()
    assert got == [b""]
    assert gate.done.is_set()


async def test_closing_twice_is_closing_once(autojump_clock: MockClock) -> None:
    client, server = memory_stream_pair()
    gate = Gate(server, b"", b"", EdgeLimits())
    await gate.aclose()
    await gate.aclose()
    assert await client.receive_some() == b""


async def test_after_a_violation_the_peer_gets_a_moment_to_read_why(
    autojump_clock: MockClock,
) -> None:
    client, server = memory_stream_pair()
    gate = Gate(server, b"", frame(3), EdgeLimits())
    await gate.send_all(ACCEPTED)
    assert await gate.receive_some() == (
        b"\x88\x90\0\0\0\0" + close_payload(1002, b"unknown opcode")
    )
    await gate.send_all(b"\x88\x02" + close_payload(1002))
    await client.send_all(bytes(100_000))
    await gate.aclose()
    assert trio.current_time() == 1
    assert bytes(await client.receive_some()) == ACCEPTED + b"\x88\x02" + close_payload(1002)


async def test_a_reset_is_noticed_as_the_end(autojump_clock: MockClock) -> None:
    _client, server = memory_stream_pair()
    gate = Gate(Pipe(server, reset=True), b"", b"", EdgeLimits())
    await gate.send_all(ACCEPTED)
    with pytest.raises(trio.BrokenResourceError):
        await gate.receive_some()
    assert gate.ending


async def test_a_stranger_who_broke_a_rule_is_read_to_its_close(
    autojump_clock: MockClock,
) -> None:
    _client, server = memory_stream_pair()
    gate = Gate(server, b"", frame(TEXT, b"hello") + frame(3), EdgeLimits())
    await gate.send_all(ACCEPTED)
    assert await gate.receive_some() == frame(TEXT, b"hello")
    await gate.send_all(b"\x88\x00")  # our Close lifts the hold
    data = await gate.receive_some()
    assert data[0] == 0x80 | CLOSE
    assert gate.verdict is not None


@attrs.define(eq=False)
class Slow(Pipe):
    """Takes a second for half of what it is given, and one for the rest."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        half = len(data) // 2
        for part in (data[:half], data[half:]):
            await trio.sleep(1)
            await super().send_all(part)


async def opened(pipe: Pipe) -> Gate:
    gate = Gate(pipe, b"", b"", EdgeLimits())
    await gate.send_all(ACCEPTED)
    return gate


async def test_messages_and_answers_are_written_whole_and_as_they_came(
    autojump_clock: MockClock,
) -> None:
    client, server = memory_stream_pair()
    gate = await opened(Slow(server))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.send_text, "one")
        await wait_all_tasks_blocked()
        nursery.start_soon(gate.send_all, PONG_FRAME)
        await wait_all_tasks_blocked()
        nursery.start_soon(gate.send_text, "two")
    said = bytes(await client.receive_some())
    assert said == ACCEPTED + b"\x81\x03one" + PONG_FRAME + b"\x81\x03two"


async def test_an_answer_has_its_turn_before_a_flood_of_messages_goes_on(
    autojump_clock: MockClock,
) -> None:
    client, server = memory_stream_pair()
    gate = await opened(Slow(server))

    async def flood() -> None:
        for _ in range(10):
            await gate.send_text("one")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        await wait_all_tasks_blocked()
        nursery.start_soon(gate.send_all, PONG_FRAME)
    said = bytes(await client.receive_some())
    assert said == ACCEPTED + b"\x81\x03one" + PONG_FRAME + 9 * b"\x81\x03one"


async def test_no_message_follows_our_close(autojump_clock: MockClock) -> None:
    client, server = memory_stream_pair()
    gate = await opened(Slow(server))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.send_all, b"\x88\x00")
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BrokenResourceError):
            await gate.send_text("too late")
    assert bytes(await client.receive_some()) == ACCEPTED + b"\x88\x00"


async def test_a_message_that_is_cancelled_while_it_waits_its_turn_costs_nothing(
    autojump_clock: MockClock,
) -> None:
    client, server = memory_stream_pair()
    gate = await opened(Slow(server))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.send_text, "one")
        await wait_all_tasks_blocked()
        with trio.move_on_after(0.5) as scope:
            await gate.send_text("not sent")
    assert scope.cancelled_caught
    await gate.send_text("two")
    assert bytes(await client.receive_some()) == ACCEPTED + b"\x81\x03one\x81\x03two"


async def test_who_waits_behind_a_write_that_stalls_is_told_that_the_stream_is_dead(
    autojump_clock: MockClock,
) -> None:
    _client, server = memory_stream_pair()
    pipe = Pipe(server)
    gate = await opened(pipe)
    pipe.stalled = True
    ends: list[float] = []

    async def say() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await gate.send_text("hello")
        ends.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(say)
        nursery.start_soon(say)
    assert ends == [gate._limits.write_s] * 2
    assert gate.torn
