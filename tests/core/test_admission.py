"""Who may begin a meeting: the decision by itself, and what a bot is told of it."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.core.rooms import BOT, Room, bridge, listener, tone
from trio_bridge.admission import (
    BEAT_S,
    LATE_LOOKS,
    LEAST_LATE_MS,
    LOOKS,
    Admission,
    Lag,
    late_limit_ms,
)
from trio_bridge.config import Settings
from trio_bridge.fleet.siblings import add_states
from trio_bridge.meeting import Meeting
from trio_bridge.pulse import measure
from trio_bridge.wire.hello import encode_hello

virtual = pytest.mark.usefixtures("autojump_clock")


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.getMessage() == name]


# -- the decision ----------------------------------------------------------------------------


def test_the_limit_is_half_of_what_a_bot_has_left_when_a_chunk_is_due() -> None:
    settings = Settings()
    percent = settings.max_lag_percent
    assert late_limit_ms(settings.lead_ms, settings.chunk_ms, percent) == 100.0
    assert late_limit_ms(300, 100, 100) == 200.0
    assert late_limit_ms(300, 100, 0) == 0.0
    assert late_limit_ms(100, 100, 50) == LEAST_LATE_MS, "a lead without slack"


def test_late_looks_close_the_door_and_it_opens_again_at_half_the_limit() -> None:
    lag = Lag(100.0)
    assert not any(lag.look(400.0) for _ in range(2)), "once is no overload"
    assert lag.ms == 0.0
    assert lag.look(120.0)
    assert (lag.over, lag.ms) == (True, 120.0)
    for _ in range(LOOKS):  # better, but not well: it stays closed
        assert not lag.look(60.0)
    assert (lag.over, lag.ms) == (True, 60.0)
    calm = [lag.look(5.0) for _ in range(LOOKS)]
    assert calm.index(True) == LOOKS - LATE_LOOKS
    assert calm.count(True) == 1
    assert not lag.over


def test_a_lag_between_the_two_limits_never_closes_an_open_door() -> None:
    lag = Lag(100.0)
    assert not any(lag.look(99.0) for _ in range(100))
    assert not lag.over


def test_without_a_limit_nothing_is_too_late() -> None:
    lag = Lag(0.0)
    assert not any(lag.look(10_000.0) for _ in range(20))
    assert (lag.over, lag.ms) == (False, 10_000.0)


def test_draining_counts_before_full_and_that_before_overloaded() -> None:
    lag = Lag(100.0)
    for _ in range(LATE_LOOKS):
        lag.look(500.0)
    admission = Admission(2, lag)
    assert admission.closed(2, draining=True) == "draining"
    assert admission.closed(2) == "full"
    assert admission.closed(1) == "overloaded"
    assert Admission(2, Lag(100.0)).closed(1) is None


def test_of_several_workers_the_worst_lag_counts_and_one_that_is_full_keeps_none_away() -> None:
    well = {"status": "ok", "meetings": 1, "lag_ms": 2}
    full = {"status": "ok", "meetings": 5, "lag_ms": 90, "reason": "full"}
    total = add_states(full, {0: full, 1: well})
    assert (total["meetings"], total["lag_ms"], total["status"]) == (6, 90, "ok")
    assert "reason" not in total
    assert add_states(full, {0: full, 1: full})["reason"] == "full"
    silent = {"status": "no answer"}
    assert add_states(full, {0: full, 1: silent})["reason"] == "full"
    drained = {**well, "status": "draining", "reason": "draining"}
    assert add_states(drained, {0: drained, 1: well})["reason"] == "draining"


# -- what a bot is told ----------------------------------------------------------------------


async def answer(room: Room, target: str, *lines: str) -> tuple[int, dict[bytes, bytes], bytes]:
    """The answer to one request on a connection of its own: status, headers, body."""
    head = [f"GET {target} HTTP/1.1", "Host: x", "Connection: close", *lines, "", ""]
    stream = await room.door.open_stream()
    await stream.send_all("\r\n".join(head).encode())
    data = b"".join([part async for part in stream])
    top, _, body = data.partition(b"\r\n\r\n")
    status, *rest = top.split(b"\r\n")
    pairs = (line.partition(b": ") for line in rest)
    return int(status.split()[1]), {name.lower(): value for name, _, value in pairs}, body


async def refused_upgrade(room: Room, target: str) -> dict[bytes, bytes]:
    """The headers of the 503 with which an upgrade is answered."""
    status, headers, _ = await answer(
        room,
        target,
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    assert status == 503
    return headers


async def ready(room: Room) -> tuple[int, dict[str, Any]]:
    """The status and the body of ``/ready``; ``/health`` says 200 whatever it is."""
    assert (await answer(room, "/health"))[0] == 200
    status, _, body = await answer(room, "/ready")
    return status, json.loads(body)


@virtual
async def test_a_new_bot_beyond_the_most_is_refused_before_the_upgrade_or_at_the_hello(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bridge(listener, max_sessions=2, grace_s=5.0) as room:
        assert (await ready(room))[0] == 200
        first, _ = await room.control("a"), await room.control("b")
        headers = await refused_upgrade(room, "/new/bridge")
        assert int(headers[b"retry-after"]) > 0
        unknown = await room.join("/bridge/audio", "new")
        assert await unknown.closed() == (1013, "full: try again later")
        status, state = await ready(room)
        assert (status, state["reason"], state["status"]) == (503, "full", "ok")
        assert state["refused"] == 2
        assert room.server.served == 2
        # Nobody who is in suffers: second channels and reconnects, whatever their path says.
        await room.join("/a/bridge/audio", "a")
        await room.audio("b")
        await first.vanish()
        await room.join("/a/bridge", "a")
        await wait_all_tasks_blocked()
        assert [set(s._attendance._links) for s in room.server.registry] == [
            {"audio", "control"}
        ] * 2
        again = await room.join("/b/bridge", "b")
        await again.leave()
    (line,) = events(caplog, "new meeting refused")
    assert (line.__dict__["reason"], line.__dict__["meetings"]) == ("full", 2)


@virtual
async def test_a_bot_in_its_grace_keeps_its_place_and_leaves_it_when_that_is_over() -> None:
    async with bridge(listener, max_sessions=1, grace_s=15.0) as room:
        lost = await room.control("a")
        await lost.vanish()
        await trio.sleep(10)
        assert await room.refusal("/new/bridge") == 503
        back = await room.join("/a/bridge", "a")
        await back.vanish()
        await trio.sleep(16)
        await room.control("new")
        assert room.server.served == 2


@virtual
async def test_a_meeting_that_would_not_stop_takes_its_room_until_it_does() -> None:
    release = trio.Event()

    async def stubborn(_: Meeting) -> None:
        with trio.CancelScope(shield=True):
            await release.wait()

    async with bridge(stubborn, max_sessions=1, wrap_up_s=0.1, teardown_s=0.1) as room:
        control, audio = await room.control(), await room.audio()
        await control.leave()
        await audio.leave()
        await trio.sleep(60)
        assert await (await room.join("/bridge")).closed() == (1013, "full: try again later")
        assert await room.refusal(f"/{BOT}/bridge") == 503, "its meeting is over: it is new"
        release.set()
        await room.server.registry.empty()
        await room.control()


@virtual
async def test_refusals_are_logged_once_a_second_with_how_many_were_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bridge(listener, max_sessions=1) as room:
        await room.control()
        for _ in range(50):
            assert await room.refusal("/new/bridge") == 503
        assert trio.current_time() < 1.0
        await trio.sleep(1.1)
        await room.refusal("/new/bridge")
        assert room.server.admission.refused == {"full": 51}
    lines = events(caplog, "new meeting refused")
    assert [line.__dict__["more_before"] for line in lines] == [0, 49]


@virtual
async def test_an_overloaded_loop_refuses_new_meetings_only_and_opens_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with bridge(listener, grace_s=5.0) as room:
        control = await room.control("in")
        lag = room.server.admission.lag
        for _ in range(LATE_LOOKS):
            lag.look(150.0)
        assert await room.refusal("/new/bridge") == 503
        late = await room.join("/bridge", "new")
        assert await late.closed() == (1013, "overloaded: try again later")
        status, state = await ready(room)
        assert (status, state["reason"], state["lag_ms"]) == (503, "overloaded", 150)
        await room.audio("in")
        await control.vanish()
        await room.join("/in/bridge", "in")
        await trio.sleep(BEAT_S * (LOOKS + 1))  # on a virtual clock no look is late
        assert (await ready(room))[0] == 200
        await room.join("/new/bridge", "new")
        await wait_all_tasks_blocked()
        assert room.server.served == 2
    assert len(events(caplog, "no longer overloaded")) == 1


@virtual
async def test_while_it_drains_the_reason_says_so() -> None:
    async with bridge(listener) as room:
        await room.control()
        room.server.stop(drain_s=30.0)
        assert b"retry-after" in await refused_upgrade(room, "/new/bridge")
        status, state = await ready(room)
        assert (status, state["reason"], state["status"]) == (503, "draining", "draining")


@virtual
async def test_of_two_bots_for_the_last_place_one_gets_it_with_both_of_its_channels() -> None:
    for _ in range(20):  # which of them is Trio's to choose
        async with bridge(listener, max_sessions=1) as room:
            paths = ["/a/bridge", "/a/bridge/audio", "/b/bridge", "/b/bridge/audio"]
            channels = [await room.connect(path) for path in paths]
            async with trio.open_nursery() as nursery:
                for path, channel in zip(paths, channels, strict=True):
                    nursery.start_soon(channel.send, encode_hello(path[1]))
            await wait_all_tasks_blocked()
            assert room.server.served == 1
            assert set(room.session._attendance._links) == {"audio", "control"}
            loser = 2 if room.session.bot_id == "a" else 0
            for channel in channels[loser : loser + 2]:
                assert (await channel.closed())[0] == 1013


# -- the measure -----------------------------------------------------------------------------


@virtual
async def test_on_a_virtual_clock_no_loop_is_ever_late(autojump_clock: MockClock) -> None:
    lag = Lag(20.0)
    with trio.move_on_after(60):
        await measure(lag)
    assert (lag.ms, lag.over) == (0.0, False)


async def test_what_runs_before_and_after_the_wake_up_is_measured(
    autojump_clock: MockClock,
) -> None:
    """A hog is a step that takes long: on the virtual clock it jumps ahead."""
    lag = Lag(100.0)
    lags_ms: list[float] = []

    async def hog(step_s: float) -> None:
        while True:
            await trio.sleep(BEAT_S / 4)
            autojump_clock.jump(step_s)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(measure, lag)
        nursery.start_soon(hog, 0.01)
        await trio.sleep(10 * LOOKS * BEAT_S)
        assert lag.ms <= 20
        assert not lag.over
        nursery.start_soon(hog, 0.3)
        await trio.sleep(10 * LOOKS * BEAT_S)
        lags_ms.append(lag.ms)
        assert lag.over
        nursery.cancel_scope.cancel()
    assert lags_ms[0] >= 100


@pytest.mark.parametrize("period_s", [0.1105, 0.15, 0.2])
async def test_a_hog_in_step_with_the_measure_is_seen_all_the_same(
    period_s: float, autojump_clock: MockClock
) -> None:
    """An even beat always woke up at the end of the same step, and saw a fifth of it."""
    lag = Lag(100.0)

    async def hog() -> None:
        while True:
            await trio.sleep(period_s - 0.1)
            autojump_clock.jump(0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(measure, lag)
        nursery.start_soon(hog)
        seen_ms = []
        for _ in range(10):
            await trio.sleep(LOOKS * BEAT_S)
            seen_ms.append(lag.ms)
        assert min(seen_ms) >= 25
        assert max(seen_ms) >= 75
        nursery.cancel_scope.cancel()


@virtual
async def test_the_measure_wakes_the_loop_five_times_a_second_and_no_frame_pays_for_it() -> (
    None
):
    class Steps(trio.abc.Instrument):
        count = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.count += task.name == "trio_bridge.pulse.measure"

    steps = Steps()
    async with bridge(listener) as room:
        audio = await room.audio()
        trio.lowlevel.add_instrument(steps)
        await audio.hear("alice", tone(10.0))
        trio.lowlevel.remove_instrument(steps)
    assert steps.count == pytest.approx(2 * 10 / BEAT_S, abs=15)  # a beat is two steps
