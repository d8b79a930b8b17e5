"""Who blocks the event loop is named, once, by a thread that goes when the server does."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial

import attrs
import pytest
import trio
from trio.testing import open_stream_to_socket_listener

from tests.core.rooms import Door, bridge
from trio_bridge import loop_turns
from trio_bridge.config import Settings
from trio_bridge.edge.audio_clock import AudioClock
from trio_bridge.edge.hub import Hub, HubStream
from trio_bridge.loop_turns import LoopTurns
from trio_bridge.meeting import Meeting
from trio_bridge.server import Server
from trio_bridge.watchdog import Watchdog, watching

LIMIT_MS = 20.0
PATIENT_MS = 250
"""Where a busy machine's own pause must not use up what is reported once a second at most."""
LONG_MS = 60.0
"""Where one is content to be told of turns every `RESTLESS_S`."""
DEADLINE_S = 10.0
NAME = "trio_bridge watchdog"


@attrs.define(eq=False)
class Reports(logging.Handler):
    """What the watchdog logged; what blocks a loop can wait for it here."""

    seen: list[logging.LogRecord] = attrs.field(factory=list)
    blocked: threading.Event = attrs.field(factory=threading.Event)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def __hash__(self) -> int:
        return id(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record)
        if record.getMessage() == "event loop is blocked":
            self.blocked.set()

    def block_until_reported(self) -> None:
        assert self.blocked.wait(DEADLINE_S)
        self.blocked.clear()

    def named(self, event: str) -> list[dict[str, object]]:
        return [r.__dict__ for r in self.seen if r.getMessage() == event]


@pytest.fixture
def reports() -> Iterator[Reports]:
    handler = Reports()
    log = logging.getLogger("trio_bridge.watchdog")
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


def dogs() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


async def test_what_blocks_is_named_with_its_meeting_and_once(reports: Reports) -> None:
    def think_hard() -> None:
        reports.block_until_reported()

    async def child() -> None:
        think_hard()

    async def agent(meeting: Meeting) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        await meeting.chat("done")

    with trio.fail_after(DEADLINE_S):
        async with bridge(agent, watchdog_ms=PATIENT_MS) as room:
            control = await room.control("bot-7")
            await control.next("sendmsg")
    (blocked,) = reports.named("event loop is blocked")
    assert blocked["bot_id"] == "bot-7"
    assert "child" in str(blocked["task"])
    stack = str(blocked["stack"]).split(" < ")
    assert [call.rpartition(" ")[2] for call in stack[-2:]] == ["think_hard", "child"]
    assert "test_watchdog.py:" in stack[-1]
    assert "\n" not in str(blocked["stack"])
    assert isinstance(blocked["blocked_ms"], int)
    assert blocked["blocked_ms"] >= PATIENT_MS
    (again,) = reports.named("event loop runs again")
    assert isinstance(again["blocked_ms"], int)
    assert again["blocked_ms"] >= blocked["blocked_ms"]


async def test_an_agent_that_blocks_again_and_again_is_reported_once_a_second(
    reports: Reports,
) -> None:
    blockages = 0
    with watching(LIMIT_MS):
        for _ in range(2):
            reports.blocked.clear()
            while not reports.blocked.wait(3 * LIMIT_MS / 1000):
                blockages += 1
                await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
    first, second = reports.named("event loop is blocked")
    assert len(reports.named("event loop runs again")) == 2
    assert first["more_before"] == 0
    assert isinstance(second["more_before"], int)
    assert 2 < second["more_before"] <= blockages
    assert "bot_id" not in first


async def test_a_loop_that_waits_or_works_in_short_steps_is_not_blocked(
    reports: Reports,
) -> None:
    with watching(300.0):
        await trio.sleep(0.4)
        ends_s = time.perf_counter() + 0.4
        while time.perf_counter() < ends_s:
            await trio.lowlevel.checkpoint()
    assert reports.seen == []


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> trio.abc.Clock | None:
    """Of the test's loop: one whose sleep a hub can use, where it is asked for."""
    return AudioClock() if getattr(request, "param", "") == "audio clock" else None


audio_clock = pytest.mark.parametrize("clock", ["audio clock"], indirect=True)


@asynccontextmanager
async def audio_flowing(
    hear: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[trio.SocketStream]:
    """A loop that looks for audio all the time, and who sends it; `hear` is called for each
    read, the first of which has been."""
    monkeypatch.setattr("trio_bridge.edge.hub.QUIET_S", math.inf)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    client = await open_stream_to_socket_listener(listener)
    hub, first = Hub(0.001), trio.Event()
    server = HubStream(await listener.accept(), hub)

    def sink(_: bytes) -> bool:
        first.set()
        hear()
        return True

    async with listener, client, server, trio.open_nursery() as nursery:
        nursery.start_soon(hub.run)
        nursery.start_soon(server.read_into, sink, 1 << 16)
        with trio.fail_after(DEADLINE_S):
            await client.send_all(b"first")
            await first.wait()
            yield client
        nursery.cancel_scope.cancel()


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Trio's calls after its wait for I/O."""
    calls, after_io_wait = list[float](), LoopTurns.after_io_wait

    def after(self: LoopTurns, timeout: float) -> None:
        calls.append(timeout)
        after_io_wait(self, timeout)

    monkeypatch.setattr(LoopTurns, "after_io_wait", after)
    return calls


async def turns_begin(turns: LoopTurns, turn: Callable[[], Awaitable[None]]) -> None:
    """Until ``turns`` has noticed a few, of the many that ``turn`` makes."""
    began = set[float]()
    for _ in range(1_000_000):
        began.add(turns.began_s)
        if len(began) > 5:
            return
        await turn()
    pytest.fail("it noticed none")


def the_turns() -> LoopTurns:
    turns = loop_turns._open.get()
    assert turns is not None
    return turns


@audio_clock
async def test_while_audio_flows_its_reader_tells_of_turns_and_behind_it_trio_does_again(
    clock: AudioClock, hooks: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with watching(LONG_MS):
        async with audio_flowing(bool, monkeypatch):
            hooks.clear()
            await turns_begin(the_turns(), partial(trio.sleep, 0.001))
            assert hooks == []
        await trio.sleep(0.01)
        assert hooks != []


@audio_clock
async def test_that_a_loop_turns_which_never_rests_while_audio_flows_is_told_all_the_same(
    clock: AudioClock, hooks: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks its clock then: the hub's own task says so."""
    with watching(LONG_MS):
        async with audio_flowing(bool, monkeypatch):
            hooks.clear()
            await turns_begin(the_turns(), trio.lowlevel.checkpoint)
            assert hooks == []


@audio_clock
@pytest.mark.parametrize("where", ["where it is read", "in a task"])
async def test_what_blocks_while_audio_flows_is_named(
    clock: AudioClock, reports: Reports, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = trio.Event()

    def hear() -> None:
        if blocking and where == "where it is read":
            reports.block_until_reported()
        if blocking:
            heard.set()

    blocking = False
    with watching(PATIENT_MS):
        async with audio_flowing(hear, monkeypatch) as client:
            blocking = True
            await client.send_all(b"x")
            await heard.wait()
            if where == "in a task":
                reports.block_until_reported()
            await trio.sleep(0.01)
    (blocked,) = reports.named("event loop is blocked")
    assert isinstance(blocked["blocked_ms"], int)
    assert blocked["blocked_ms"] >= PATIENT_MS
    assert "block_until_reported" in str(blocked["stack"])
    (again,) = reports.named("event loop runs again")
    assert isinstance(again["blocked_ms"], int)
    assert again["blocked_ms"] >= blocked["blocked_ms"]


@audio_clock
async def test_who_watches_strictly_keeps_trios_hooks_and_who_comes_meanwhile_has_them_back(
    clock: AudioClock, hooks: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with watching(LONG_MS):
        with watching(LIMIT_MS):
            async with audio_flowing(bool, monkeypatch):
                hooks.clear()
                await trio.sleep(0.01)
                assert hooks != []
        async with audio_flowing(bool, monkeypatch):
            hooks.clear()
            await trio.sleep(0.01)
            assert hooks == [], "the strict one has gone"
            with watching(LIMIT_MS):
                await trio.sleep(0.01)
                assert hooks != []


@audio_clock
async def test_who_leaves_while_audio_flows_takes_trios_hooks_along(
    clock: AudioClock, hooks: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        stack.enter_context(watching(LONG_MS))
        async with audio_flowing(bool, monkeypatch):
            stack.close()
            hooks.clear()
        await trio.sleep(0.01)
        assert hooks == []


@audio_clock
async def test_a_hook_that_trio_has_dropped_is_missed_by_nobody(
    clock: AudioClock, hooks: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with watching(LONG_MS):
        trio.lowlevel.remove_instrument(the_turns())
        async with audio_flowing(bool, monkeypatch):
            await trio.sleep(0.01)
        await trio.sleep(0.01)
        assert hooks == []


async def test_several_servers_in_one_loop_share_a_watchdog_and_the_last_takes_it_along() -> (
    None
):
    before = len(dogs())

    async def no_agent(_: Meeting) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        scopes: list[trio.CancelScope] = []
        servers: list[Server] = []
        for _ in range(3):
            server = Server(no_agent, Settings())

            async def run(
                server: Server = server,
                *,
                task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
            ) -> None:
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as inner:
                        await inner.start(server.run, [Door()])
                        task_status.started(scope)

            scopes.append(await nursery.start(run))
            servers.append(server)
        for scope, server in zip(scopes, servers, strict=True):
            assert len(dogs()) == before + 1
            scope.cancel()
            await server.stopped.wait()
    assert len(dogs()) == before


async def test_two_loops_in_two_threads_have_one_each(reports: Reports) -> None:
    def other_loop() -> None:
        async def main() -> None:
            with watching(LIMIT_MS):
                reports.block_until_reported()
                await trio.lowlevel.checkpoint()

        trio.run(main)

    with watching(60_000.0):
        before = len(dogs())
        await trio.to_thread.run_sync(other_loop)
        assert len(dogs()) == before
    (blocked,) = reports.named("event loop is blocked")
    assert "other_loop" in str(blocked["stack"]) or "main" in str(blocked["stack"])


async def test_zero_is_no_watchdog() -> None:
    before = dogs()
    with watching(0):
        assert dogs() == before


@contextmanager
def raising_handler() -> Iterator[None]:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the log is broken")

    broken = Broken()
    log = logging.getLogger("trio_bridge.watchdog")
    log.addHandler(broken)
    try:
        yield
    finally:
        log.removeHandler(broken)


async def test_a_log_that_raises_ends_neither_the_watch_nor_the_loop(
    reports: Reports,
) -> None:
    with watching(LIMIT_MS):
        with raising_handler():
            reports.block_until_reported()
            await trio.lowlevel.checkpoint()
        while not reports.blocked.wait(3 * LIMIT_MS / 1000):
            await trio.lowlevel.checkpoint()
    assert len(reports.named("event loop is blocked")) == 2


def test_a_watchdog_that_is_left_when_its_loop_is_gone_goes_too() -> None:
    """As when a run crashed and its wreck is cleared away later."""
    before = len(dogs())
    dog = Watchdog()

    async def wrecked() -> None:
        dog.join(1.0)

    trio.run(wrecked)
    assert len(dogs()) == before + 1
    dog.leave(1.0)
    assert len(dogs()) == before
