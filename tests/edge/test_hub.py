"""The one reader of all audio sockets: who is read when, and who ends by what."""

from __future__ import annotations

import logging
import math
import os
import select
import socket as stdlib_socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_bridge.bell import WOKEN, Bell
from trio_bridge.clock import STRIKES_A_TURN, Clock
from trio_bridge.edge import Edge, EdgeLimits, Socket
from trio_bridge.edge.audio_clock import AudioClock
from trio_bridge.edge.frames import SHORT_HEAD_BYTES
from trio_bridge.edge.gate import LUMPS
from trio_bridge.edge.hub import BATCH, QUIET_S, RESTLESS_S, Hub, HubStream
from trio_bridge.edge.tick import LONGEST_TICK_S, QUIET_TICKS, TickingHub
from trio_bridge.edge.transport import READ_BYTES, RawStream

from .peers import BINARY, CLOSE, PING, PONG, TEXT, App, Peer, frame, on_loopback

HELLO = frame(TEXT, b"hello")
AT_MOST = 65536

Kind = Callable[[trio.SocketStream], RawStream]
Pair = tuple[trio.SocketStream, HubStream]

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="there is no epoll here")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests in real time run twice: the second time the loop waits for audio in its clock."""
    if {"autojump_clock", "clock"}.isdisjoint(metafunc.fixturenames):
        metafunc.fixturenames.append("clock")
        clocks = ["system clock", "audio clock"]
        metafunc.parametrize("clock", clocks, indirect=True)


class Dialler:
    """Connections of 127.0.0.1: the client's end, and ours as ``kind`` makes it."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        self.opened: list[trio.abc.AsyncResource] = []

    async def dial(self, kind: Kind) -> tuple[trio.SocketStream, RawStream]:
        client = await trio.open_tcp_stream(*self._listener.socket.getsockname())
        server = kind(await self._listener.accept())
        self.opened += [client, server]
        return client, server

    async def pair(self, hub: Hub) -> Pair:
        client, server = await self.dial(lambda stream: HubStream(stream, hub))
        assert isinstance(server, HubStream)
        return client, server


async def until(done: Callable[[], bool]) -> None:
    for _ in range(100_000):  # the clock may stand still, so no deadline would come
        if done():
            return
        await trio.lowlevel.checkpoint()
    pytest.fail("it never came true")


@asynccontextmanager
async def dialling() -> AsyncIterator[Dialler]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    dialler = Dialler(listener)
    try:
        with trio.fail_after(10):
            yield dialler
    finally:
        for end in (listener, *dialler.opened):
            await trio.aclose_forcefully(end)


@asynccontextmanager
async def reading(
    tick_s: float = 0.0, poll_s: float = 0.0
) -> AsyncIterator[tuple[Hub, Dialler]]:
    """A hub at work, and connections for it."""
    hub = TickingHub(tick_s) if tick_s else Hub(poll_s)
    async with dialling() as dialler, trio.open_nursery() as nursery:
        nursery.start_soon(hub.run)
        yield hub, dialler
        nursery.cancel_scope.cancel()


async def arrived(*streams: RawStream) -> None:
    """Until each has something to read: the kernel has it, nobody has looked."""
    for stream in streams:
        await trio.lowlevel.wait_readable(stream.socket)


class Sink:
    """Takes what it is given, and says no more once it has ``enough`` bytes."""

    def __init__(self, enough: float = math.inf) -> None:
        self.reads: list[bytes] = []
        self._enough = enough

    @property
    def got(self) -> bytes:
        return b"".join(self.reads)

    def __call__(self, data: bytes) -> bool:
        self.reads.append(data)
        return len(self.got) < self._enough


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> Iterator[AudioClock | None]:
    """Of the test's loop: one that lets a hub wait for audio, unless told otherwise."""
    clock = None if getattr(request, "param", "") == "system clock" else AudioClock()
    yield clock
    assert clock is None or clock.wait is None


# -- what a read promises, with the hub and without ------------------------------------------


@pytest.fixture(params=["hub", "raw"])
def hubbed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "hub")


def kind_of(hub: Hub, hubbed: bool) -> Kind:
    return (lambda stream: HubStream(stream, hub)) if hubbed else RawStream


async def test_a_read_goes_on_until_the_sink_has_enough_and_then_to_the_end(
    hubbed: bool,
) -> None:
    async with reading() as (hub, dialler):
        client, server = await dialler.dial(kind_of(hub, hubbed))
        await client.send_all(b"abc" * 10)
        sink = Sink(enough=30)
        assert await server.read_into(sink, 7) is True
        assert sink.got == b"abc" * 10
        assert max(map(len, sink.reads)) == 7
        await client.send_all(b"rest")
        await client.send_eof()
        sink = Sink()
        assert await server.read_into(sink, AT_MOST) is False
        assert sink.got == b"rest"


async def test_what_comes_after_a_cancelled_read_is_there_for_the_next(hubbed: bool) -> None:
    async with reading() as (hub, dialler):
        client, server = await dialler.dial(kind_of(hub, hubbed))
        cut, taken = Sink(), trio.Event()

        def take(data: bytes) -> bool:
            taken.set()
            return cut(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.read_into, take, AT_MOST)
            await client.send_all(b"one ")
            await taken.wait()
            nursery.cancel_scope.cancel()
        await client.send_all(b"two")
        await arrived(server)
        rest = Sink(enough=3)
        assert await server.read_into(rest, AT_MOST)
        assert (cut.got, rest.got) == (b"one ", b"two")


async def test_a_read_that_is_cancelled_already_takes_nothing(hubbed: bool) -> None:
    async with reading() as (hub, dialler):
        client, server = await dialler.dial(kind_of(hub, hubbed))
        await client.send_all(b"kept")
        await arrived(server)
        sink = Sink()
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.read_into(sink, AT_MOST)
        assert scope.cancelled_caught
        assert sink.got == b""
        sink = Sink(enough=4)
        await server.read_into(sink, AT_MOST)
        assert sink.got == b"kept"


async def test_closing_wakes_the_read_and_no_other_can_begin(hubbed: bool) -> None:
    async with reading() as (hub, dialler):
        _, server = await dialler.dial(kind_of(hub, hubbed))

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await server.read_into(Sink(), AT_MOST)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            await server.aclose()
        await server.aclose()
        await read()


async def test_a_reset_breaks_the_read_and_what_came_before_it_was_given(
    hubbed: bool,
) -> None:
    async with reading() as (hub, dialler):
        client, server = await dialler.dial(kind_of(hub, hubbed))
        sink, given = Sink(), trio.Event()

        def take(data: bytes) -> bool:
            given.set()
            return sink(data)

        async def read() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await server.read_into(take, AT_MOST)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await client.send_all(b"last words")
            await given.wait()
            await reset(client)
        assert sink.got == b"last words"


async def reset(client: trio.abc.Stream) -> None:
    assert isinstance(client, trio.SocketStream)
    client.setsockopt(
        stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    await client.aclose()


# -- one reader for many ---------------------------------------------------------------------


async def test_a_flood_on_one_socket_delays_the_others_by_one_read_of_it_a_round() -> None:
    hub, order = Hub(), []
    others = BATCH + 16
    async with dialling() as dialler:
        pairs = [await dialler.pair(hub) for _ in range(others + 1)]
        for n, (client, server) in enumerate(pairs):
            await client.send_all(bytes(256 if n == 0 else 1) * 100)
            await arrived(server)

        def sink_of(number: int) -> Callable[[bytes], bool]:
            def take(data: bytes) -> bool:
                order.append(number)
                return True

            return take

        async with trio.open_nursery() as nursery:
            for n, (_, server) in enumerate(pairs):
                nursery.start_soon(server.read_into, sink_of(n), 100)
            await wait_all_tasks_blocked()
            nursery.start_soon(hub.run)
            while len(order) < others + 256:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    last = max(order.index(n) for n in range(1, others + 1))
    assert order[: last + 1].count(0) <= 1 + math.ceil((others + 1) / BATCH)
    assert order.count(0) == 256, "and the flood is read whole in the end"


async def test_other_tasks_have_their_turn_between_two_batches() -> None:
    hub, served, seen = Hub(), [], []
    async with dialling() as dialler:
        pairs = [await dialler.pair(hub) for _ in range(3 * BATCH)]
        for client, server in pairs:
            await client.send_all(b"x")
            await arrived(server)

        def take(data: bytes) -> bool:
            served.append(data)
            return True

        async def bystander() -> None:
            while len(served) < len(pairs):
                seen.append(len(served))
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for _, server in pairs:
                nursery.start_soon(server.read_into, take, AT_MOST)
            await wait_all_tasks_blocked()
            nursery.start_soon(hub.run)
            await bystander()
            nursery.cancel_scope.cancel()
    assert any(0 < count < len(pairs) for count in seen)


async def test_with_a_tick_frames_gather_and_are_read_at_once(
    autojump_clock: MockClock,
) -> None:
    autojump_clock.autojump_threshold = math.inf  # time stands still until we say so
    sink = Sink()
    async with reading(tick_s=0.05) as (hub, dialler):
        client, server = await dialler.pair(hub)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.read_into, sink, AT_MOST)
            await wait_all_tasks_blocked()
            await client.send_all(b"zero")
            await until(lambda: sink.reads == [b"zero"])  # after silence it is read at once
            await wait_all_tasks_blocked()
            for part in (b"one ", b"two ", b"three"):
                await client.send_all(part)
                await arrived(server)
                await wait_all_tasks_blocked()
                assert sink.reads == [b"zero"]
            autojump_clock.jump(0.05)
            await wait_all_tasks_blocked()
            assert sink.reads == [b"zero", b"one two three"]
            nursery.cancel_scope.cancel()


async def test_with_a_tick_more_than_a_batch_is_read_in_the_same_tick(
    autojump_clock: MockClock,
) -> None:
    autojump_clock.autojump_threshold = math.inf
    sinks = [Sink() for _ in range(2 * BATCH + 1)]
    async with reading(tick_s=0.05) as (hub, dialler), trio.open_nursery() as nursery:
        waker, woken = await dialler.pair(hub)
        first = Sink()
        nursery.start_soon(woken.read_into, first, AT_MOST)
        await waker.send_all(b"x")
        await until(lambda: first.reads == [b"x"])
        await wait_all_tasks_blocked()  # the ticks have begun
        for sink in sinks:
            client, server = await dialler.pair(hub)
            nursery.start_soon(server.read_into, sink, AT_MOST)
            await client.send_all(b"x")
            await arrived(server)
        await wait_all_tasks_blocked()
        assert not any(sink.reads for sink in sinks)
        autojump_clock.jump(0.05)
        await wait_all_tasks_blocked()
        assert [sink.reads for sink in sinks] == [[b"x"]] * len(sinks)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("late_s", [None, 0.12])
async def test_the_loop_does_not_wait_between_two_batches_of_a_tick(
    autojump_clock: MockClock, late_s: float | None
) -> None:
    """Also after silence, and after a tick that came late, when the hub's task is awake."""
    reads = 0
    waits = 0

    def sink(_: bytes) -> bool:
        nonlocal reads
        reads += 1
        return True

    class Watcher(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            nonlocal waits
            if reads % len(clients) and not trio.lowlevel.current_statistics().tasks_runnable:
                waits += 1

    async with reading(tick_s=0.05) as (hub, dialler), trio.open_nursery() as nursery:
        clients = []
        for _ in range(2 * BATCH + 1):
            client, server = await dialler.pair(hub)
            clients.append(client)
            nursery.start_soon(server.read_into, sink, AT_MOST)
        if late_s is not None:
            await clients[0].send_all(b"x")
            await trio.sleep(0.07)
            assert reads == 1, "the ticks have begun"
            reads = 0
            autojump_clock.jump(late_s)
        watcher = Watcher()
        trio.lowlevel.add_instrument(watcher)
        for turn in (1, 2, 3):
            for client in clients:
                os.write(client.socket.fileno(), b"x")  # all of them before anybody runs
            await trio.sleep(0.2)
            assert reads == turn * len(clients)
        trio.lowlevel.remove_instrument(watcher)
        assert waits == 0
        nursery.cancel_scope.cancel()


async def test_between_two_batches_of_a_tick_the_clock_keeps_the_loop_awake_and_not_the_hub(
    clock: AudioClock,
) -> None:
    """To wake the hub's task costs some 30 us each time, 1 000 times a second with 400 bots."""
    reads, many, done = 0, 4 * BATCH + 1, trio.Event()
    waits, steps = list[float](), 0

    def sink(_: bytes) -> bool:
        nonlocal reads
        reads += 1
        if reads == many:
            done.set()
        return True

    class Watcher(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            if 0 < reads < many:
                waits.append(timeout)

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal steps
            steps += 0 < reads < many and task.name == name

    async with reading(tick_s=0.005) as (hub, dialler), trio.open_nursery() as nursery:
        name = f"{Hub.run.__module__}.{Hub.run.__qualname__}"
        pairs = [await dialler.pair(hub) for _ in range(many)]
        for _, server in pairs:
            nursery.start_soon(server.read_into, sink, AT_MOST)
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(Watcher())
        for client, _ in pairs:
            os.write(client.socket.fileno(), b"x")  # all of them before anybody runs
        await done.wait()
        assert waits == [0.0] * 4
        assert steps <= 1, "the one that began the ticks"
        await until(lambda: clock.ticks[hub] == math.inf)  # it ticks until all is quiet
        nursery.cancel_scope.cancel()
    assert not clock.ticks, "a hub that is over keeps nobody awake"


@pytest.mark.parametrize(
    ("tick_s", "sockets", "next_s"),
    [
        (0.002, 1, 0.004),
        (0.002, 15, 0.004),
        (0.002, 17, 0.002),
        (0.003, 1, 0.004),
        (0.1, 1, 0.1),
    ],
)
async def test_a_tick_is_longer_while_few_frames_come(
    autojump_clock: MockClock, tick_s: float, sockets: int, next_s: float
) -> None:
    """Up to 4 ms, counted by the tick: what a longer one found is more, and yet few. One that
    is longer anyway stays as it is."""
    autojump_clock.autojump_threshold = math.inf

    def next_tick_s() -> float:
        return trio.lowlevel.current_statistics().seconds_to_next_deadline

    async with reading(tick_s=tick_s) as (hub, dialler), trio.open_nursery() as nursery:
        waker, woken = await dialler.pair(hub)
        first = Sink()
        nursery.start_soon(woken.read_into, first, AT_MOST)
        await waker.send_all(b"x")
        await until(lambda: first.reads == [b"x"])
        await wait_all_tasks_blocked()
        long_s = max(tick_s, LONGEST_TICK_S)
        assert next_tick_s() == pytest.approx(long_s), "one socket is few"
        for _ in range(sockets):
            client, server = await dialler.pair(hub)
            nursery.start_soon(server.read_into, Sink(), AT_MOST)
            await client.send_all(b"x")
            await arrived(server)
        autojump_clock.jump(long_s)
        await wait_all_tasks_blocked()
        assert next_tick_s() == pytest.approx(next_s)
        nursery.cancel_scope.cancel()


async def test_a_tick_behind_one_that_came_late_says_nothing_of_how_many_frames_come(
    autojump_clock: MockClock,
) -> None:
    """It comes at once, so it finds next to nothing."""
    autojump_clock.autojump_threshold = math.inf
    async with reading(tick_s=0.002) as (hub, dialler), trio.open_nursery() as nursery:
        for _ in range(60):
            client, server = await dialler.pair(hub)
            nursery.start_soon(server.read_into, Sink(), AT_MOST)
            await client.send_all(b"x")
            await arrived(server)
        await wait_all_tasks_blocked()  # the ticks have begun
        autojump_clock.jump(0.02)
        await wait_all_tasks_blocked()
        next_s = trio.lowlevel.current_statistics().seconds_to_next_deadline
        assert next_s == pytest.approx(0.002)
        nursery.cancel_scope.cancel()


async def test_with_a_tick_all_that_has_come_is_read_however_much(
    autojump_clock: MockClock,
) -> None:
    """Ten speakers' streams on one socket are 20 KiB in 20 ms, more than one read takes."""
    autojump_clock.autojump_threshold = math.inf
    sink, much = Sink(), bytes(5 * READ_BYTES + 1)
    async with reading(tick_s=0.05) as (hub, dialler), trio.open_nursery() as nursery:
        client, server = await dialler.pair(hub)
        nursery.start_soon(server.read_into, sink, AT_MOST)
        await wait_all_tasks_blocked()
        await client.send_all(much)
        await wait_all_tasks_blocked()
        assert sink.got == much
        assert max(map(len, sink.reads)) == READ_BYTES
        nursery.cancel_scope.cancel()


async def test_with_a_tick_what_comes_while_others_are_read_waits_for_the_next(
    autojump_clock: MockClock,
) -> None:
    """With hundreds of bots there is always somebody ready: the tick must not end for it."""
    autojump_clock.autojump_threshold = math.inf
    reads = [0] * (2 * BATCH)
    async with reading(tick_s=0.05) as (hub, dialler), trio.open_nursery() as nursery:
        pairs = [await dialler.pair(hub) for _ in reads]

        def sink_of(number: int) -> Callable[[bytes], bool]:
            def sink(_: bytes) -> bool:
                reads[number] += 1
                for client, _server in pairs:  # all are ready again, at once
                    os.write(client.socket.fileno(), b"x")
                return True

            return sink

        for client, server in pairs:
            await client.send_all(b"x")
            await arrived(server)
        for number, (_, server) in enumerate(pairs):
            nursery.start_soon(server.read_into, sink_of(number), AT_MOST)
        await wait_all_tasks_blocked()
        assert reads == [1] * len(reads)
        nursery.cancel_scope.cancel()


async def test_a_hub_with_a_tick_sleeps_when_nothing_comes_and_wakes_when_something_does(
    autojump_clock: MockClock,
) -> None:
    autojump_clock.autojump_threshold = math.inf
    sink = Sink()

    def next_wake_up_s() -> float:
        return trio.lowlevel.current_statistics().seconds_to_next_deadline

    async with reading(tick_s=0.05) as (hub, dialler):
        client, server = await dialler.pair(hub)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.read_into, sink, AT_MOST)
            for number, part in enumerate((b"one", b"two"), 1):
                await wait_all_tasks_blocked()
                assert next_wake_up_s() > 1, "no tick: only this test's own deadline"
                await client.send_all(part)
                await until(lambda number=number: len(sink.reads) == number)  # type: ignore[misc]
                for _ in range(QUIET_TICKS):
                    await wait_all_tasks_blocked()
                    assert next_wake_up_s() == pytest.approx(0.05)
                    autojump_clock.jump(0.05)
            await wait_all_tasks_blocked()
            assert next_wake_up_s() > 1
            assert sink.reads == [b"one", b"two"]
            nursery.cancel_scope.cancel()


async def test_without_a_tick_a_frame_is_read_when_it_comes(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = math.inf
    sink = Sink(enough=1)
    async with reading() as (hub, dialler):
        client, server = await dialler.pair(hub)
        await client.send_all(b"x")
        await server.read_into(sink, AT_MOST)
    assert sink.got == b"x"
    assert trio.current_time() == 0


async def test_whoever_is_ended_by_its_neighbours_frame_is_not_read_any_more() -> None:
    """Both are ready in the same batch; the first to be read ends the other."""
    hub, read = Hub(), []
    async with dialling() as dialler:
        pairs = [await dialler.pair(hub) for _ in range(2)]
        scopes = [trio.CancelScope(), trio.CancelScope()]

        async def take(number: int) -> None:
            def sink(data: bytes) -> bool:
                read.append((number, data))
                scopes[1 - number].cancel()
                return True

            with scopes[number]:
                await pairs[number][1].read_into(sink, AT_MOST)

        for client, server in pairs:
            await client.send_all(b"x")
            await arrived(server)
        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(take, number)
            await wait_all_tasks_blocked()
            nursery.start_soon(hub.run)
            while not read:
                await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()
            ((first, _),) = read
            assert [scope.cancelled_caught for scope in scopes] == [first == 1, first == 0]
            rest = Sink(enough=1)
            await pairs[1 - first][1].read_into(rest, AT_MOST)
            assert rest.got == b"x"
            nursery.cancel_scope.cancel()


async def test_a_socket_that_turns_out_to_be_empty_goes_on_waiting() -> None:
    """Each is ready in the same batch, and the first to be read empties the other."""
    hub = Hub()
    got: list[tuple[int, bytes]] = []
    async with dialling() as dialler:
        pairs = [await dialler.pair(hub) for _ in range(2)]

        def sink_of(number: int) -> Callable[[bytes], bool]:
            def take(data: bytes) -> bool:
                if not got:
                    pairs[1 - number][1].socket.recv(AT_MOST)
                got.append((number, data))
                return True

            return take

        for client, server in pairs:
            await client.send_all(b"x")
            await arrived(server)
        async with trio.open_nursery() as nursery:
            for number, (_, server) in enumerate(pairs):
                nursery.start_soon(server.read_into, sink_of(number), AT_MOST)
            await wait_all_tasks_blocked()
            nursery.start_soon(hub.run)
            while not got:
                await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()
            ((first, _),) = got
            await pairs[1 - first][0].send_all(b"y")
            while len(got) < 2:
                await trio.lowlevel.checkpoint()
            assert got[1] == (1 - first, b"y")
            nursery.cancel_scope.cancel()


async def test_what_comes_while_nobody_reads_is_left_where_it_is() -> None:
    async with reading() as (hub, dialler):
        client, server = await dialler.pair(hub)
        await client.send_all(b"x")
        await arrived(server)
        server.serve(trio.current_time())
        sink = Sink(enough=1)
        await server.read_into(sink, AT_MOST)
        assert sink.got == b"x"


async def test_a_sink_that_raises_ends_its_own_read_only() -> None:
    async with reading() as (hub, dialler):
        bad_client, bad = await dialler.pair(hub)
        good_client, good = await dialler.pair(hub)
        sink = Sink(enough=4)

        def broken(data: bytes) -> bool:
            raise ValueError("a bug of ours")

        async def fail() -> None:
            with pytest.raises(ValueError, match="a bug of ours"):
                await bad.read_into(broken, AT_MOST)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(good.read_into, sink, AT_MOST)
            await wait_all_tasks_blocked()
            await bad_client.send_all(b"x")
            await good_client.send_all(b"good")
        assert sink.got == b"good"


class NoExceptionOfOursError(BaseException):
    """What nobody catches."""


@pytest.mark.parametrize("tick_s", [0.0, 0.05])
async def test_what_ends_the_reading_ends_the_hub_aloud(
    tick_s: float, autojump_clock: MockClock
) -> None:
    """Trio only logs what its hooks raise, and calls them no more: nobody would be heard."""

    async def hub_ends_with_it() -> None:
        with pytest.raises(NoExceptionOfOursError):
            await hub.run()
        nursery.cancel_scope.cancel()

    def worst(data: bytes) -> bool:
        raise NoExceptionOfOursError

    hub = TickingHub(tick_s) if tick_s else Hub()
    async with dialling() as dialler:
        client, server = await dialler.pair(hub)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub_ends_with_it)
            nursery.start_soon(server.read_into, worst, AT_MOST)
            await wait_all_tasks_blocked()
            for part in (b"x", b"y"):  # the hub sees its end when it is woken once more
                await client.send_all(part)
                await wait_all_tasks_blocked()
        assert nursery.cancel_scope.cancelled_caught


@pytest.mark.parametrize("how", ["says no", "raises"])
async def test_a_sink_that_cancels_its_own_read_does_not_end_the_hub(how: str) -> None:
    async with reading() as (hub, dialler):
        client, server = await dialler.pair(hub)
        scope = trio.CancelScope()

        def sink(data: bytes) -> bool:
            scope.cancel()
            if how == "raises":
                raise ValueError("and a bug of ours on top")
            return False

        await client.send_all(b"x")
        with scope:
            await server.read_into(sink, AT_MOST)
        assert scope.cancelled_caught
        await client.send_all(b"y")
        rest = Sink(enough=1)
        await server.read_into(rest, AT_MOST)
        assert rest.got == b"y"


async def test_a_descriptor_that_is_used_again_is_read_for_its_new_owner() -> None:
    async with reading() as (hub, dialler):
        _, first = await dialler.pair(hub)
        old = Sink()

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await first.read_into(old, AT_MOST)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            number = first.socket.fileno()
            await first.aclose()
        # The lowest free number is handed out first: to the client's end, so swap the two.
        ours, theirs = stdlib_socket.socketpair()
        if ours.fileno() != number:
            ours, theirs = theirs, ours
        assert ours.fileno() == number
        second = HubStream(trio.SocketStream(trio.socket.from_stdlib_socket(ours)), hub)
        dialler.opened.append(second)
        new = Sink(enough=3)
        with theirs:
            theirs.sendall(b"new")
            await second.read_into(new, AT_MOST)
        assert (old.got, new.got) == (b"", b"new")


async def test_whoever_reads_when_the_hub_is_over_is_told_that_it_is_closed() -> None:
    """As a reader is that was woken in the very moment in which the server is cancelled."""
    hub = Hub()
    async with dialling() as dialler:
        _, server = await dialler.pair(hub)
        dialler.opened.remove(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.run)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with server.socket:  # whatever happens, the descriptor is not left behind
            with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
                await server.read_into(Sink(), AT_MOST)
            await server.aclose()


async def test_cancelling_hub_and_readers_together_leaves_nothing_registered() -> None:
    hub = Hub()
    async with dialling() as dialler:
        pairs = [await dialler.pair(hub) for _ in range(20)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.run)
            for _, server in pairs:
                nursery.start_soon(server.read_into, Sink(), AT_MOST)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert hub._streams == {}


# -- in the loop's clock -----------------------------------------------------------------------


class StepsOf(trio.abc.Instrument):
    """Counts a task's turns."""

    def __init__(self, name: str) -> None:
        self.name, self.steps = name, 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += self.name in task.name


def flow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nothing hangs on how long the machine stalls."""
    monkeypatch.setattr("trio_bridge.edge.hub.QUIET_S", math.inf)
    monkeypatch.setattr("trio_bridge.edge.hub.RESTLESS_S", math.inf)


async def test_audio_wakes_no_task_of_the_hubs_while_it_flows(
    clock: AudioClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow_for_ever(monkeypatch)
    watcher, heard = StepsOf("Hub.run"), Bell()

    def sink(data: bytes) -> bool:
        heard.ring()
        return True

    async with reading() as (hub, dialler), trio.open_nursery() as nursery:
        client, server = await dialler.pair(hub)
        nursery.start_soon(server.read_into, sink, AT_MOST)
        trio.lowlevel.add_instrument(watcher)
        steps = []
        for _ in range(50):
            os.write(client.socket.fileno(), b"x")
            await heard.wait()
            steps.append(watcher.steps)
        trio.lowlevel.remove_instrument(watcher)
        nursery.cancel_scope.cancel()
    assert steps[1] > 0, "it is that task that hears the first"
    assert steps[1:] == [steps[1]] * 49


class Asked:
    """An epoll that nothing comes to, and the time, which goes on by 0.2 ms each time."""

    def __init__(self) -> None:
        self.now_s, self.waits_ms = 0.0, list[float]()

    def poll(self, wait_s: float, most: int) -> list[tuple[int, int]]:
        self.waits_ms.append(round(1000 * wait_s, 6))
        self.now_s += 0.0002
        return []


@pytest.mark.parametrize(
    ("poll_s", "waits_ms"),
    [(0.0, [1.0, 0.8, 0.6, 0.4, 0.2]), (0.0005, [0, 0, 0, 0.4, 0.2]), (0.001, [0] * 5)],
)
async def test_told_to_poll_the_loop_looks_for_so_long_before_it_waits(
    clock: AudioClock, poll_s: float, waits_ms: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, asked = Hub(poll_s), Asked()
    hub._epoll.close()
    monkeypatch.setattr(hub, "_epoll", asked)
    time = SimpleNamespace(perf_counter=lambda: asked.now_s)
    monkeypatch.setattr("trio_bridge.edge.hub.time", time)
    hub._heard_s = 0.0
    hub._wait(0.0, 10.0)
    assert asked.waits_ms == waits_ms


@pytest.mark.parametrize(
    ("poll_s", "waits_ms"), [(0.0, [0.5, 0.3, 0.1, 0, 0]), (0.001, [0] * 5)]
)
async def test_what_is_due_meanwhile_is_struck_at_once_one_by_one_where_there_is_no_audio(
    clock: AudioClock, poll_s: float, waits_ms: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    meetings, asked, done = Clock(), Asked(), list[str]()
    hub = Hub(poll_s, meetings)
    hub._epoll.close()

    def poll(wait_s: float, most: int) -> list[tuple[int, int]]:
        asked.poll(wait_s, most)
        return [(7, select.EPOLLIN)] if len(asked.waits_ms) in {2, 4} else []

    monkeypatch.setattr(hub, "_epoll", SimpleNamespace(poll=poll))
    monkeypatch.setattr(hub, "_serve", lambda *_: done.append("read"))
    time = SimpleNamespace(perf_counter=lambda: asked.now_s)
    monkeypatch.setattr("trio_bridge.edge.hub.time", time)
    monkeypatch.setattr("trio_bridge.clock.GRID_S", 0.0005)
    for _ in range(2):
        meetings.at(0.0005, lambda _: done.append("strike"))
    hub._heard_s = 0.0
    hub._wait(0.0, 10.0)
    assert done == ["read", "strike", "read", "strike"]
    assert asked.waits_ms == waits_ms


@pytest.mark.parametrize("works", ["reading", "striking"])
async def test_the_turn_behind_a_wait_begins_when_that_is_over_and_not_before_its_work(
    clock: AudioClock, works: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who runs then would be blamed for what was done before him."""
    meetings, asked, told = Clock(), Asked(), list[float]()
    hub = Hub(0.001, meetings)
    hub._epoll.close()

    def work(*_: object) -> None:
        asked.now_s += 0.5

    def poll(wait_s: float, most: int) -> list[tuple[int, int]]:
        asked.poll(wait_s, most)
        return [(7, select.EPOLLIN)] if works == "reading" else []

    monkeypatch.setattr(hub, "_epoll", SimpleNamespace(poll=poll))
    monkeypatch.setattr(hub, "_serve", work)
    time = SimpleNamespace(perf_counter=lambda: asked.now_s)
    monkeypatch.setattr("trio_bridge.edge.hub.time", time)
    meetings.at(0.0, work)
    hub._heard_s, hub._turn_begins = 0.0, told.append
    hub._wait(0.0, 0.0002)
    assert asked.now_s >= 0.5
    assert told == [asked.now_s]


async def test_what_a_strike_wakes_ends_the_wait(
    clock: AudioClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_bridge.edge.hub.LONGEST_WAIT_S", 5.0)
    flow_for_ever(monkeypatch)
    heard = Bell()

    def sink(data: bytes) -> bool:
        heard.ring()
        return True

    async with dialling() as dialler, trio.open_nursery() as nursery:
        meetings = Clock()
        hub = Hub(10.0, meetings)
        nursery.start_soon(hub.run)
        client, server = await dialler.pair(hub)
        nursery.start_soon(server.read_into, sink, AT_MOST)
        os.write(client.socket.fileno(), b"x")
        await heard.wait()
        began_s = trio.current_time()
        meetings.at(began_s + 0.1, lambda _: heard.ring())
        await heard.wait()
        assert 0.1 <= trio.current_time() - began_s < 5
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("tick_s", [0.0, 0.002])
async def test_what_a_strike_raises_while_audio_flows_ends_the_hub_aloud(
    tick_s: float, clock: AudioClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow_for_ever(monkeypatch)

    def strike(_: float) -> None:
        raise NoExceptionOfOursError

    def sink(data: bytes) -> bool:
        meetings.at(trio.current_time(), strike)
        return True

    meetings = Clock()
    hub = TickingHub(tick_s, meetings) if tick_s else Hub(0.001, meetings)
    async with dialling() as dialler, trio.open_nursery() as nursery:
        client, server = await dialler.pair(hub)
        nursery.start_soon(server.read_into, sink, AT_MOST)
        os.write(client.socket.fileno(), b"x")
        with pytest.raises(NoExceptionOfOursError):
            await hub.run()
        nursery.cancel_scope.cancel()


async def test_at_a_tick_what_is_due_is_struck_behind_all_frames_and_then_some_a_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meetings, done = Clock(), list[str]()
    hub = TickingHub(1000.0, meetings)
    hub._epoll.close()
    ready = [(n, select.EPOLLIN) for n in range(BATCH + 1)]
    monkeypatch.setattr(hub, "_epoll", SimpleNamespace(poll=lambda *_: ready))

    def serve(some: list[tuple[int, int]], now_s: float) -> list[tuple[int, int]]:
        done.append(f"read {len(some)}")
        return []

    monkeypatch.setattr(hub, "_serve", serve)
    for _ in range(STRIKES_A_TURN + 1):
        meetings.at(0.0, lambda _: done.append("strike"))
    hub.after_io_wait(0.0)
    assert not done, "nobody ticks"
    hub._due_s = trio.current_time()
    turns = []
    for _ in range(4):
        hub.after_io_wait(0.0)
        turns.append([*done])
        done.clear()
    assert turns == [
        [f"read {BATCH}"],
        ["read 1", *["strike"] * STRIKES_A_TURN],
        ["strike"],
        [],
    ]


async def test_while_ticks_find_audio_they_strike_and_the_clock_does_again_when_it_ends(
    clock: AudioClock,
) -> None:
    meetings, struck = Clock(), Bell()
    hub = TickingHub(0.001, meetings)
    flows = True

    def sink(data: bytes) -> bool:
        if flows:
            os.write(client.socket.fileno(), b"x")
        return True

    async with dialling() as dialler, trio.open_nursery() as nursery:
        nursery.start_soon(hub.run)
        client, server = await dialler.pair(hub)
        nursery.start_soon(server.read_into, sink, AT_MOST)
        os.write(client.socket.fileno(), b"x")
        began_s = trio.current_time()
        meetings.at(began_s + 0.05, lambda _: struck.ring())
        await struck.wait()  # no task keeps the clock
        assert trio.current_time() - began_s >= 0.05
        assert meetings._slack_s > 0
        flows = False
        nursery.start_soon(meetings.run)
        await until(lambda: not meetings._slack_s)
        meetings.at(trio.current_time() + 0.01, lambda _: struck.ring())
        await struck.wait()
        nursery.cancel_scope.cancel()


async def test_who_reads_on_for_another_reason_ends_the_wait_too(clock: AudioClock) -> None:
    """A control frame, say: the connection's own task is woken, by no bell."""
    async with reading() as (hub, dialler), trio.open_nursery() as nursery:
        client, server = await dialler.pair(hub)
        sink = Sink(enough=1)
        nursery.start_soon(server.read_into, sink, AT_MOST)
        await wait_all_tasks_blocked()
        before = WOKEN.tasks
        await client.send_all(b"x")
        await until(lambda: bool(sink.reads))
        assert WOKEN.tasks == before + 1


async def test_audio_that_wakes_nobody_does_not_turn_the_loop(
    clock: AudioClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame that is only kept for the next is read where the loop would sleep."""
    monkeypatch.setattr("trio_bridge.edge.hub.LONGEST_WAIT_S", 5.0)
    reads, heard = 0, Bell()

    class Turns(trio.abc.Instrument):
        waits = 0

        def before_io_wait(self, timeout: float) -> None:
            self.waits += 1

    def sink(data: bytes) -> bool:
        nonlocal reads
        reads += 1
        if reads % 50:
            os.write(client.socket.fileno(), b"x")
        else:
            heard.ring()
        return True

    turns = Turns()
    async with reading() as (hub, dialler), trio.open_nursery() as nursery:
        client, server = await dialler.pair(hub)
        nursery.start_soon(server.read_into, sink, AT_MOST)
        for round_ in range(2):
            os.write(client.socket.fileno(), b"x")
            await heard.wait()
            if not round_:
                trio.lowlevel.add_instrument(turns)
        trio.lowlevel.remove_instrument(turns)
        nursery.cancel_scope.cancel()
    assert reads == 100
    assert turns.waits < 5


@pytest.mark.parametrize("poll_s", [0.0, 0.001])
async def test_all_else_goes_on_while_audio_flows(clock: AudioClock, poll_s: float) -> None:
    """Timers, threads and other sockets, although the loop waits for audio alone."""
    reads = 0

    def sink(data: bytes) -> bool:
        nonlocal reads
        reads += 1
        os.write(client.socket.fileno(), b"x")  # there is always more
        return True

    async with reading(poll_s=poll_s) as (hub, dialler), trio.open_nursery() as nursery:
        client, server = await dialler.pair(hub)
        other, there = await dialler.dial(RawStream)
        nursery.start_soon(server.read_into, sink, AT_MOST)
        os.write(client.socket.fileno(), b"x")
        await trio.to_thread.run_sync(lambda: None)
        with trio.move_on_after(0.001) as late:
            await trio.sleep_forever()
        assert late.cancelled_caught
        nursery.start_soon(other.send_all, b"y")
        assert await there.receive_some() == b"y"
        assert reads > 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("poll_s", [0.0, 0.001])
async def test_when_no_audio_comes_the_loop_sleeps_as_usual(
    clock: AudioClock, poll_s: float
) -> None:
    sink = Sink()
    async with reading(poll_s=poll_s) as (hub, dialler), trio.open_nursery() as nursery:
        client, server = await dialler.pair(hub)
        nursery.start_soon(server.read_into, sink, AT_MOST)
        for number in (1, 2, 3):
            await client.send_all(b"x")
            await until(lambda number=number: len(sink.reads) == number)  # type: ignore[misc]
            assert clock.wait is not None
            await wait_all_tasks_blocked()  # which they are only once the loop sleeps
            assert trio.current_time() - hub._heard_s > QUIET_S
            assert clock.wait is None
        nursery.cancel_scope.cancel()


async def test_while_a_task_can_always_run_audio_is_read_all_the_same(
    clock: AudioClock,
) -> None:
    """The clock is not asked then."""
    sink = Sink()
    async with reading() as (hub, dialler), trio.open_nursery() as nursery:
        client, server = await dialler.pair(hub)
        nursery.start_soon(server.read_into, sink, AT_MOST)
        for number in range(1, 20):
            os.write(client.socket.fileno(), b"x")
            await until(lambda number=number: len(sink.reads) == number)  # type: ignore[misc]
        nursery.cancel_scope.cancel()


async def test_between_the_strikes_of_the_meetings_clock_audio_is_read(
    clock: AudioClock,
) -> None:
    """It goes on at once, so nobody asks the loop's clock."""
    sink, strikes, seen = Sink(), Clock(), list[bytes]()
    async with reading() as (hub, dialler), trio.open_nursery() as nursery:
        strikes.look = hub.look
        client, server = await dialler.pair(hub)
        nursery.start_soon(server.read_into, sink, AT_MOST)
        nursery.start_soon(strikes.run)

        def strike(_: float) -> None:
            seen.append(sink.got)
            os.write(client.socket.fileno(), b"x")

        for _ in range(5 * STRIKES_A_TURN):
            strikes.at(trio.current_time(), strike)
        await until(lambda: len(sink.got) == 5 * STRIKES_A_TURN)
        nursery.cancel_scope.cancel()
    assert [len(got) for got in seen] == list(range(5 * STRIKES_A_TURN))


async def test_a_hub_that_is_over_sees_nothing(clock: AudioClock) -> None:
    async with reading() as (hub, _dialler):
        pass
    assert not hub.look()


@pytest.mark.parametrize("last_asked_s", [None, 0.001, 0.004])
async def test_where_nobody_asks_the_clock_any_more_audio_is_read_in_time_all_the_same(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, last_asked_s: float | None
) -> None:
    """By the hub's own task, or by the loop once that has given up: it waits no longer then."""
    hub, ready, _ = polling_nothing_real(monkeypatch)

    async def flow() -> None:
        await hub._flow()
        ready.clear()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flow)
        if last_asked_s is not None:
            await trio.sleep(last_asked_s)
            hub._heard_s = trio.current_time()
            hub._wait(hub._heard_s, 0.0)
        ready.append((7, select.EPOLLIN))
        came_s = trio.current_time()
        while ready:
            assert trio.current_time() - came_s < RESTLESS_S + 0.001
            await trio.sleep(0.0005)


async def test_while_the_clock_is_asked_the_hubs_task_sleeps(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, _, polls = polling_nothing_real(monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub._flow)
        for _ in range(200):
            await trio.sleep(RESTLESS_S / 3)
            hub._heard_s = trio.current_time()
            hub._wait(hub._heard_s, 0.0)
        assert polls == []
        await trio.sleep(2 * RESTLESS_S)
        assert polls != []
        nursery.cancel_scope.cancel()


def polling_nothing_real(
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Hub, list[tuple[int, int]], list[float]]:
    """A hub to which audio flows; what its epoll will find, and when it was asked."""
    hub, ready, polls = Hub(), list[tuple[int, int]](), list[float]()

    def poll(wait_s: float, most: int) -> list[tuple[int, int]]:
        polls.append(trio.current_time())
        return ready.copy()

    hub._epoll.close()
    monkeypatch.setattr(hub, "_epoll", SimpleNamespace(poll=poll))
    monkeypatch.setattr(hub, "_serve", lambda *_: ready.clear())
    hub._heard_s = trio.current_time()
    return hub, ready, polls


async def test_what_ends_the_reading_in_the_clock_ends_the_hub_and_not_the_loop(
    clock: AudioClock,
) -> None:
    sink_raises = False

    def sink(data: bytes) -> bool:
        heard.ring()
        if sink_raises:
            raise NoExceptionOfOursError
        return True

    hub, heard = Hub(), Bell()
    async with dialling() as dialler, trio.open_nursery() as nursery:
        client, server = await dialler.pair(hub)

        async def hub_ends_with_it() -> None:
            with pytest.raises(NoExceptionOfOursError):
                await hub.run()
            nursery.cancel_scope.cancel()

        nursery.start_soon(hub_ends_with_it)
        nursery.start_soon(server.read_into, sink, AT_MOST)
        for part in (b"one", b"two"):
            os.write(client.socket.fileno(), part)
            await heard.wait()
            sink_raises = True
        await trio.sleep_forever()
    assert hub._fault is not None, "it was the clock that met it"
    assert clock.wait is None


async def test_of_two_hubs_in_a_loop_one_waits_in_its_clock_and_the_other_as_usual(
    clock: AudioClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow_for_ever(monkeypatch)
    async with (
        reading() as (one, dialler),
        reading() as (two, others),
        trio.open_nursery() as nursery,
    ):
        sinks = []
        for hub, dial in ((one, dialler), (two, others)):
            client, server = await dial.pair(hub)
            sinks.append(Sink())
            nursery.start_soon(server.read_into, sinks[-1], AT_MOST)
            await client.send_all(b"x")
        await until(lambda: all(sink.got == b"x" for sink in sinks))
        assert clock.wait in (one._wait, two._wait)
        nursery.cancel_scope.cancel()
    assert clock.wait is None


async def test_when_a_hub_is_over_the_next_has_the_clock(
    clock: AudioClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow_for_ever(monkeypatch)
    sink = Sink()
    async with reading() as (new, dialler), trio.open_nursery() as nursery:
        client, server = await dialler.pair(new)
        async with reading() as (old, others), trio.open_nursery() as until_then:
            its_client, its_server = await others.pair(old)
            its_sink = Sink()
            until_then.start_soon(its_server.read_into, its_sink, AT_MOST)
            await its_client.send_all(b"x")
            await until(lambda: its_sink.got == b"x")
            nursery.start_soon(server.read_into, sink, AT_MOST)
            await client.send_all(b"x")
            await until(lambda: sink.got == b"x")
            assert clock.wait == old._wait
            until_then.cancel_scope.cancel()
        await client.send_all(b"y")
        await until(lambda: sink.got == b"xy")
        assert clock.wait == new._wait
        nursery.cancel_scope.cancel()


async def test_without_a_hub_it_is_a_clock_like_any_other(clock: AudioClock) -> None:
    with trio.move_on_at(trio.current_time()) as scope:
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert clock.deadline_to_sleep_time(math.inf) == math.inf
    assert clock.deadline_to_sleep_time(0.0) < 0


# -- behind the edge -------------------------------------------------------------------------


async def test_audio_comes_through_the_hub_and_all_else_still_reaches_trio_websocket() -> None:
    app = App()
    async with on_loopback(app.edge()) as net:
        peer = await net.dial()
        await peer.upgrade()
        await peer.send(HELLO)
        await until(lambda: bool(app.sockets) and app.sockets[0].armed)
        assert isinstance(app.sockets[0]._gate.inner, HubStream)
        for n in range(5):
            await peer.send(frame(BINARY, bytes([n]) * 1920))
            await until(lambda n=n: len(app.audio) == n + 1)  # type: ignore[misc]
        await peer.send(frame(TEXT, b"x"), frame(BINARY, b"last"), frame(PING, b"p"))
        answers = [await peer.read(), await peer.read()]  # by two tasks: in either order
        assert sorted(answers) == [(TEXT, b"echo x"), (PONG, b"p")]
        await peer.send(frame(BINARY, b"ab", fin=False), frame(0, b"cd"), frame(TEXT, b"y"))
        assert await peer.read() == (TEXT, b"echo y")
    assert app.audio == [bytes([n]) * 1920 for n in range(5)] + [b"last"]
    assert app.messages == ["hello", "x", b"abcd", "y"]


async def test_a_violation_is_answered_and_its_neighbour_goes_on() -> None:
    app = App()
    edge = app.edge()
    async with on_loopback(edge) as net:
        bad, good = await net.dial(), await net.dial()
        for peer in (bad, good):
            await peer.upgrade()
            await peer.send(HELLO)
        await until(lambda: len(app.sockets) == 2 and all(s.armed for s in app.sockets))
        await bad.send(frame(BINARY, b"first"))
        await until(lambda: app.audio == [b"first"])
        await bad.send(frame(BINARY, b"second") + frame(3))
        assert await bad.close_code() == 1002
        await bad.stream.aclose()
        await good.send(frame(BINARY, b"third") + frame(TEXT, b"x"))
        assert await good.read() == (TEXT, b"echo x")
        await until(lambda: edge.counts["violation 1002 unknown opcode"] == 1)
    assert app.audio == [b"first", b"second", b"third"]


async def test_an_audio_callback_that_raises_ends_its_own_connection_with_1011(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[bytes] = []

    def take(data: bytes) -> None:
        if data == b"bad":
            raise ValueError("a bug of ours")
        heard.append(data)

    async def on_socket(socket: Socket) -> None:
        await socket.receive()
        socket.arm(max_message_bytes=1000, on_audio=take)
        while True:
            await socket.send(f"echo {await socket.receive()!s}")

    edge: Edge = App().edge(on_socket=on_socket)
    async with on_loopback(edge) as net:
        bad, good = await net.dial(), await net.dial()
        for peer in (bad, good):
            await peer.upgrade()
            await peer.send(HELLO)
        await until(lambda: edge.pending == 0)
        await bad.send(frame(BINARY, b"fine"))
        await until(lambda: heard == [b"fine"])
        await bad.send(frame(BINARY, b"bad"))
        assert await bad.close_code() == 1011
        await bad.stream.aclose()
        await good.send(frame(BINARY, b"good"), frame(TEXT, b"x"))
        assert await good.read() == (TEXT, b"echo x")
        await until(lambda: edge.counts["error"] == 1)
    assert heard == [b"fine", b"good"]
    (failure,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert failure.getMessage() == "audio callback failed"


async def test_a_peer_that_resets_in_mid_audio_ends_alone() -> None:
    app = App()
    edge = app.edge()
    async with on_loopback(edge) as net:
        bad, good = await net.dial(), await net.dial()
        for peer in (bad, good):
            await peer.upgrade()
            await peer.send(HELLO)
        await until(lambda: len(app.sockets) == 2 and all(s.armed for s in app.sockets))
        await bad.send(frame(BINARY, b"first"))
        await until(lambda: app.audio == [b"first"])
        await reset(bad.stream)
        await until(lambda: app.ends == [(1006, "")])
        await good.send(frame(BINARY, b"second"), frame(TEXT, b"x"))
        assert await good.read() == (TEXT, b"echo x")
        assert edge.counts["error"] == 0
    assert app.audio == [b"first", b"second"]


async def test_the_peers_close_behind_audio_is_answered() -> None:
    app = App()
    async with on_loopback(app.edge()) as net:
        peer = await net.dial()
        await peer.upgrade()
        await peer.send(HELLO)
        await until(lambda: bool(app.sockets) and app.sockets[0].armed)
        await peer.send(frame(BINARY, b"last"), frame(CLOSE, struct.pack("!H", 1000)))
        assert await peer.close_code() == 1000
        assert await peer.at_end()
    assert app.audio == [b"last"]
    assert app.ends == [(1000, "")]


async def test_who_is_over_budget_is_read_again_when_the_debt_is_worked_off(
    autojump_clock: MockClock,
) -> None:
    autojump_clock.autojump_threshold = math.inf
    app = App()
    limits = EdgeLimits(bytes_per_s=1000, burst_bytes=1000, frame_cost_bytes=100)
    async with on_loopback(app.edge(limits), deadline_s=1000) as net:
        bad, good = await net.dial(), await net.dial()
        for peer in (bad, good):
            await peer.upgrade()
            await peer.send(HELLO)
        await until(lambda: len(app.sockets) == 2 and all(s.armed for s in app.sockets))
        burst = b"".join(frame(BINARY, bytes(992)) for _ in range(10))  # 1000 bytes each
        await bad.send(burst)
        await until(lambda: len(app.audio) == 10)
        await bad.send(frame(BINARY, b"late"))
        await good.send(frame(BINARY, b"good"), frame(TEXT, b"x"))
        assert await good.read() == (TEXT, b"echo x")
        await wait_all_tasks_blocked()
        assert app.audio[10:] == [b"good"]
        autojump_clock.jump(9.0)  # of some 10: 11 000 bytes and a hello, less the burst
        await wait_all_tasks_blocked()
        assert app.audio[10:] == [b"good"]
        autojump_clock.jump(2.0)
        await until(lambda: len(app.audio) == 12)
    assert app.audio[10:] == [b"good", b"late"]


# -- who follows -----------------------------------------------------------------------------


class Follower:
    """Takes reads that begin with "like", and says so."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.needs: tuple[object, ...] = ()
        self.taken: list[tuple[bytes, float]] = []
        self._fault = fault

    def take(self, frame: bytes, now_s: float) -> bool:
        if self._fault is not None:
            raise self._fault
        if not frame.startswith(b"like"):
            return False
        self.taken.append((frame, now_s))
        return True


async def test_a_follower_gets_reads_of_its_length_and_the_sink_what_it_does_not_take(
    autojump_clock: MockClock,
) -> None:
    autojump_clock.autojump_threshold = math.inf
    async with reading() as (hub, dialler):
        client, server = await dialler.pair(hub)
        sink, follower = Sink(), Follower()

        async def sent(data: bytes) -> None:
            before = len(sink.reads) + len(follower.taken)
            await client.send_all(data)
            await until(lambda: len(sink.reads) + len(follower.taken) > before)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.read_into, sink, AT_MOST)
            await wait_all_tasks_blocked()
            await sent(b"like 0")
            server.follow(follower, 6, 3)
            autojump_clock.jump(1.0)
            came_s = trio.current_time()
            for data in (b"like 1", b"other!", b"like", b"like 2", b"like 3", b"like 4"):
                await sent(data)
            assert sink.reads == [b"like 0", b"other!", b"like", b"like 4"]
            assert follower.taken == [(b"like %d" % n, came_s) for n in (1, 2, 3)]
            assert server.unfollow() == 3
            assert server.unfollow() == 0
            server.follow(follower, 6, 3)
            server.unfollow()
            await sent(b"like 5")
            assert sink.reads[4:] == [b"like 5"]
            nursery.cancel_scope.cancel()


async def test_a_stream_without_a_hub_gives_everything_to_the_sink() -> None:
    async with dialling() as dialler, trio.open_nursery() as nursery:
        client, server = await dialler.dial(RawStream)
        sink = Sink()
        server.follow(Follower(), 6, 3)
        nursery.start_soon(server.read_into, sink, AT_MOST)
        await client.send_all(b"like 0")
        await until(lambda: sink.reads == [b"like 0"])
        assert server.unfollow() == 0
        nursery.cancel_scope.cancel()


LIKE = frame(BINARY, b"like" * 100)


@pytest.mark.parametrize("tick_s", [0.0, 0.01])
@pytest.mark.parametrize(
    "behind", [b"l", b"like", b"like 2", b"like 2like 3other!", b"x" * READ_BYTES]
)
async def test_what_comes_behind_a_lone_frame_is_read_in_the_same_tick_and_in_order(
    behind: bytes, tick_s: float, autojump_clock: MockClock
) -> None:
    """No more than its head at first: the frame lies in memory that had to be guessed."""
    autojump_clock.autojump_threshold = math.inf
    sent = b"like 1" + behind
    async with reading(tick_s) as (hub, dialler):
        client, server = await dialler.pair(hub)
        sink, follower = Sink(), Follower()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.read_into, sink, AT_MOST)
            await wait_all_tasks_blocked()
            server.follow(follower, 6, 100)
            await client.send_all(b"like 0")
            await until(lambda: len(follower.taken) == 1)
            await client.send_all(sent)
            await wait_all_tasks_blocked()
            autojump_clock.jump(tick_s)
            # The time stands still, so there is no other tick.
            await until(lambda: len(sink.got) == len(sent))
            nursery.cancel_scope.cancel()
    assert len(follower.taken) == 1
    assert sink.got == sent
    assert sink.reads[0] == sent[: 6 + SHORT_HEAD_BYTES]


class Masked(Follower):
    """Takes `LIKE`, masked as it comes."""

    def take(self, frame: bytes, now_s: float) -> bool:
        return super().take(b"like" if frame == LIKE else frame, now_s)


@asynccontextmanager
async def followed(
    follower: Follower, limits: EdgeLimits
) -> AsyncIterator[tuple[Peer, list[bytes], Edge]]:
    """A peer who was heard once, whose next frames ``follower`` takes; what the rest heard."""
    heard: list[bytes] = []

    def hear(data: bytes) -> Follower:
        heard.append(data)
        return follower

    async def on_socket(socket: Socket) -> None:
        await socket.receive()
        socket.arm(max_message_bytes=1000, on_audio=hear)
        while True:
            await socket.send(f"echo {await socket.receive()!s}")

    edge: Edge = App().edge(limits, on_socket=on_socket)
    async with on_loopback(edge, deadline_s=1000) as net:
        peer = await net.dial()
        await peer.upgrade()
        await peer.send(HELLO)
        await until(lambda: edge.pending == 0)
        await peer.send(LIKE)
        await until(lambda: len(heard) == 1)
        # The first of its kind went the general way, and so does the next, which comes behind.
        await peer.send(LIKE)
        await until(lambda: len(follower.taken) == 1 or follower._fault is not None)
        yield peer, heard, edge


async def test_what_a_follower_took_where_it_was_read_is_charged_all_the_same(
    autojump_clock: MockClock,
) -> None:
    autojump_clock.autojump_threshold = math.inf
    follower = Masked()
    limits = EdgeLimits(bytes_per_s=1000, burst_bytes=100 * len(LIKE), frame_cost_bytes=1)
    async with followed(follower, limits) as (peer, heard, _):
        sent = 1
        while follower.taken[sent - 1 :]:  # as many as may come, one by one
            assert sent < 200, "it is never charged"
            await peer.send(LIKE)
            sent += 1
            await wait_all_tasks_blocked()
        # A hello and the first one were charged, too, and what is charged in lumps may be late.
        assert 99 <= sent <= 99 + 100 / LUMPS + 1
        autojump_clock.jump(10.0)
        await until(lambda: len(follower.taken) == sent)
        await peer.send(frame(TEXT, b"x"))
        assert await peer.read() == (TEXT, b"echo x")
    assert len(heard) == 1


async def test_beside_a_follower_everything_else_is_heard_however_it_comes() -> None:
    follower = Masked()
    async with followed(follower, EdgeLimits()) as (peer, heard, _):
        others = [b"%4d" % n * (100 if n % 100 == 3 else 1) for n in range(3, 600, 50)]
        total = 2
        for n in range(600):  # more than are followed in one go
            if n % 50 == 3:
                await peer.send(frame(BINARY, others[n // 50]))
            at = n % len(LIKE)
            await (peer.send(LIKE[:at], LIKE[at:]) if n % 5 == 4 else peer.send(LIKE))
            total += 2 if n % 50 == 3 else 1
            await until(lambda n=total: len(follower.taken) + len(heard) == n)  # type: ignore[misc]
        assert [one for one in heard if one != heard[0]] == others
        assert len(heard) < 3 * len(others), "the rest was taken"
        await peer.send(LIKE + LIKE + frame(TEXT, b"x"))
        assert await peer.read() == (TEXT, b"echo x")
        assert len(follower.taken) + len(heard) == total + 2
        await peer.send(LIKE + frame(CLOSE, struct.pack("!H", 1000)))
        assert await peer.close_code() == 1000
        assert len(follower.taken) + len(heard) == total + 3


async def test_frames_that_pile_up_behind_a_lone_one_are_taken_like_it(
    autojump_clock: MockClock,
) -> None:
    """The general way costs four times as much, and there is most to do just then."""
    autojump_clock.autojump_threshold = math.inf
    follower = Masked()
    async with followed(follower, EdgeLimits()) as (peer, heard, _):
        total = 1
        for frames in (1, 8, 1, 2, 1, 8):
            await peer.send(LIKE * frames)
            total += frames
            await until(lambda total=total: len(follower.taken) + len(heard) > total)  # type: ignore[misc]
        await peer.send(frame(TEXT, b"x"))
        assert await peer.read() == (TEXT, b"echo x")
    assert len(heard) == 1


async def test_a_follower_that_raises_ends_its_own_connection_with_1011(
    caplog: pytest.LogCaptureFixture,
) -> None:
    follower = Masked()
    async with followed(follower, EdgeLimits()) as (peer, _, edge):
        follower._fault = ValueError("a bug of ours")
        await peer.send(LIKE)
        assert await peer.close_code() == 1011
        await peer.stream.aclose()
        await until(lambda: edge.counts["error"] == 1)
    (failure,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert failure.getMessage() == "audio callback failed"
