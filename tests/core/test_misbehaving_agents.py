"""Agents that raise, hang, refuse to stop, flood and talk nonsense, each beside a good one.

The neighbour must lose nothing and hear on time, whatever the other one's agent does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.core.rooms import RATE_HZ, Room, bridge, tone
from trio_bridge.errors import SessionEndedError
from trio_bridge.given import MAX_TEXT
from trio_bridge.meeting import Agent, AudioChunk, Meeting

pytestmark = pytest.mark.usefixtures("autojump_clock")

SPEECH_S = 4.0
LATE_S = 0.1
"""A chunk of 20 ms, what the resampler holds back (37 ms), and a frame."""


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.getMessage() == name]


class Neighbour:
    """A good meeting: its agent hears each chunk, answers in the chat, and speaks."""

    def __init__(self) -> None:
        self.heard_s = 0.0
        self.latest_s = 0.0
        """By how much the latest chunk was late."""
        self.began_s = 0.0
        self.meeting: Meeting | None = None

    async def agent(self, meeting: Meeting) -> None:
        self.meeting = meeting
        async for chunk in meeting.audio(chunk_ms=20):
            assert isinstance(chunk, AudioChunk)
            self.heard_s += chunk.duration_s
            late_s = trio.current_time() - self.began_s - chunk.start_s
            self.latest_s = max(self.latest_s, late_s)

    async def meet(self, room: Room) -> None:
        """Speak for `SPEECH_S`; fails when anything of it was lost or late."""
        control, audio = await room.control("good"), await room.audio("good")
        self.began_s = trio.current_time()
        await audio.hear("alice", tone(SPEECH_S))
        await trio.sleep(0.1)
        session = next(s for s in room.server.registry if s.bot_id == "good")
        ledger = session.ledger
        assert ledger.faults == []
        assert ledger.received == ledger.delivered == SPEECH_S * RATE_HZ
        assert self.heard_s >= SPEECH_S - LATE_S
        assert self.latest_s <= LATE_S
        assert self.meeting is not None
        with trio.fail_after(1):
            await self.meeting.chat("well")
            assert (await control.next("sendmsg"))["message"] == "well"
        await control.leave()
        await audio.leave()


async def beside_a_neighbour(bad: Agent, **settings: Any) -> None:
    """Run ``bad`` in a meeting of its own, with audio and text coming in, beside a good one."""
    neighbour = Neighbour()

    async def agent(meeting: Meeting) -> None:
        await (bad if meeting.bot_id == "bad" else neighbour.agent)(meeting)

    with trio.fail_after(10_000):
        async with bridge(agent, **{"wrap_up_s": 0.5, "teardown_s": 1.0, **settings}) as room:
            control, audio = await room.control("bad"), await room.audio("bad")
            room.nursery.start_soon(control.closed)

            async def talk() -> None:
                with suppress(Exception):  # its meeting may be over by then
                    await control.send({"command": "usermsg", "message": "hello?"})
                    await audio.hear("bruno", tone(SPEECH_S))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk)
                nursery.start_soon(neighbour.meet, room)
            for session in room.server.registry:
                session.end()
            await room.server.registry.empty()


# -- raising ---------------------------------------------------------------------------------


class Odd(BaseException):
    """Neither `Exception` nor any that Python knows."""


RAISED: list[BaseException] = [
    RuntimeError("model fell over"),
    ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
    MemoryError(),
    RecursionError(),
    StopAsyncIteration(),
    trio.TooSlowError(),
    trio.ClosedResourceError(),
    SessionEndedError("of another meeting"),
    asyncio.CancelledError(),
    SystemExit(3),
    GeneratorExit(),
    Odd("odd"),
    BaseExceptionGroup("odd ones", [Odd("odd"), GeneratorExit(), ValueError("x")]),
]


async def raise_now(_: Meeting, error: BaseException) -> None:
    raise error


async def raise_in_a_turn(meeting: Meeting, error: BaseException) -> None:
    async with meeting.turn() as turn:
        await turn.say(tone(0.5), rate_hz=RATE_HZ)
        raise error


async def raise_in_a_child(meeting: Meeting, error: BaseException) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raise_now, meeting, error)
        await trio.sleep_forever()


async def raise_when_it_hears(meeting: Meeting, error: BaseException) -> None:
    async for _ in meeting.events(chunk_ms=20):
        raise error


async def raise_when_cancelled(meeting: Meeting, error: BaseException) -> None:
    try:
        await trio.sleep_forever()
    finally:
        await raise_now(meeting, error)


@pytest.mark.parametrize(
    "where",
    [raise_now, raise_in_a_turn, raise_in_a_child, raise_when_it_hears, raise_when_cancelled],
)
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_whatever_it_raises_wherever_ends_its_own_meeting_only(
    error: BaseException,
    where: Callable[..., Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    await beside_a_neighbour(partial(where, error=error))
    ended = isinstance(error, SessionEndedError) and where is raise_when_cancelled
    failures = events(caplog, "agent failed")
    assert [f.__dict__["bot_id"] for f in failures] == ([] if ended else ["bad"])
    assert events(caplog, "meeting failed") == []


async def test_a_cancellation_kept_from_elsewhere_is_the_agents_failure_and_told_as_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def bad(_: Meeting) -> None:
        kept: list[trio.Cancelled] = []
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as cancelled:
                kept.append(cancelled)
        raise kept[0]

    await beside_a_neighbour(bad)
    (failure,) = events(caplog, "agent failed")
    assert failure.__dict__["bot_id"] == "bad"


@pytest.mark.parametrize(
    "bad",
    [lambda _: None, lambda _: 7, lambda: None, print, None, 7],
    ids=["none", "number", "no argument", "print", "nothing", "no function"],
)
async def test_what_is_no_agent_at_all_fails_in_one_line_that_says_so(
    bad: Any, caplog: pytest.LogCaptureFixture
) -> None:
    neighbour = Neighbour()

    def agent(meeting: Meeting) -> Any:
        return neighbour.agent(meeting) if meeting.bot_id == "good" else bad(meeting)

    async with bridge(cast(Agent, agent)) as room:
        channel = await room.join("/bridge", "bad")
        assert await channel.closed() == (1011, "the agent failed")
        await neighbour.meet(room)
    (failure,) = events(caplog, "agent failed")
    assert failure.exc_info is not None
    group = failure.exc_info[1]
    assert isinstance(group, BaseExceptionGroup)
    text = str(group.exceptions[0])
    assert len(text.splitlines()) == 1
    if bad is print or "lambda _" in getattr(bad, "__name__", ""):
        assert text == "the agent is no coroutine function: write async def"


async def test_an_agent_written_for_asyncio_fails_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def bad(_: Meeting) -> None:
        await asyncio.sleep(1)

    await beside_a_neighbour(bad)
    assert len(events(caplog, "agent failed")) == 1


# -- hanging ---------------------------------------------------------------------------------


async def hang(_: Meeting) -> None:
    await trio.sleep_forever()


async def hang_with_an_ear_open(meeting: Meeting) -> None:
    ear = meeting.events(chunk_ms=20)
    await trio.sleep_forever()
    ear.close()


async def hang_in_a_turn(meeting: Meeting) -> None:
    async with meeting.turn():
        await trio.sleep_forever()


async def listen_slowly(meeting: Meeting) -> None:
    async for _ in meeting.events(chunk_ms=20):
        await trio.sleep(3)


async def refuse_for_a_while(_: Meeting) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(300)


async def swallow_every_cancellation(_: Meeting) -> None:
    ends_s = trio.current_time() + 300
    while trio.current_time() < ends_s:
        with suppress(BaseException), trio.CancelScope(shield=True):
            await trio.sleep(7)


async def refuse_in_a_turn(meeting: Meeting) -> None:
    async with meeting.turn() as turn:
        with trio.CancelScope(shield=True):
            await turn.say(tone(1.0), rate_hz=RATE_HZ)
            await trio.sleep(300)


@pytest.mark.parametrize(
    "bad",
    [hang, hang_with_an_ear_open, hang_in_a_turn, listen_slowly],
    ids=lambda f: f.__name__,
)
async def test_one_that_hangs_is_cancelled_when_its_time_is_over(
    bad: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    await beside_a_neighbour(bad)
    assert events(caplog, "agent failed") == []
    assert events(caplog, "meeting would not stop") == []


@pytest.mark.parametrize(
    "bad",
    [refuse_for_a_while, swallow_every_cancellation, refuse_in_a_turn],
    ids=lambda f: f.__name__,
)
async def test_one_that_refuses_to_stop_is_reported_and_its_bot_may_come_again(
    bad: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    await beside_a_neighbour(bad)
    (stuck,) = events(caplog, "meeting would not stop")
    assert stuck.__dict__["bot_id"] == "bad"
    assert any("agent" in name for name in stuck.__dict__["tasks"])
    async with bridge(bad, wrap_up_s=0.5, teardown_s=1.0) as room:
        first = await room.control()
        await wait_all_tasks_blocked()
        room.session.end(1000, "enough")
        assert await first.closed() == (1000, "enough")
        again = await room.control()
        await wait_all_tasks_blocked()
        assert len(room.server.registry) == 1
        assert room.server.registry.running == 2, "the first one still refuses"
        await again.vanish()


# -- flooding --------------------------------------------------------------------------------


async def flood_chat(meeting: Meeting) -> None:
    for n in range(4_000):
        await meeting.chat(f"{n}")


async def flood_captions_from_many_tasks(meeting: Meeting) -> None:
    async with trio.open_nursery() as nursery:
        for n in range(2_000):
            nursery.start_soon(partial(meeting.caption, "x" * 1_000 + str(n), final=False))


async def flood_pictures(meeting: Meeting) -> None:
    for _ in range(60):
        await meeting.show_image(b"\xff\xd8\xff" + bytes(300_000))


async def flood_speech(meeting: Meeting) -> None:
    async with meeting.turn() as turn, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(partial(turn.say, tone(10.0), rate_hz=RATE_HZ))


async def flood_single_samples(meeting: Meeting) -> None:
    async with meeting.turn() as turn:
        for _ in range(6_000):
            await turn.say(np.zeros(1, np.float32), rate_hz=RATE_HZ)


async def flood_turns(meeting: Meeting) -> None:
    async def speak() -> None:
        async with meeting.turn() as turn:
            await turn.say(tone(0.1), rate_hz=16_000)

    async with trio.open_nursery() as nursery:
        for _ in range(500):
            nursery.start_soon(speak)


async def flood_interrupts(meeting: Meeting) -> None:
    for _ in range(4_000):
        meeting.interrupt()
        await trio.lowlevel.checkpoint()


async def flood_ears(meeting: Meeting) -> None:
    for _ in range(3_000):
        async for _ in meeting.audio(chunk_ms=20):
            break


async def flood_the_log(meeting: Meeting) -> None:
    for _ in range(2_000):
        meeting.log("x" * 1_000, what=object())
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "bad",
    [
        flood_chat, flood_captions_from_many_tasks, flood_pictures, flood_speech,
        flood_single_samples, flood_turns, flood_interrupts, flood_ears, flood_the_log,
    ],
    ids=lambda f: f.__name__,
)  # fmt: skip
async def test_one_that_floods_floods_its_own_meeting(
    bad: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_bridge.session")
    await beside_a_neighbour(bad)
    assert events(caplog, "agent failed") == []
    (ended,) = [
        line for line in events(caplog, "meeting ended") if line.__dict__["bot_id"] == "bad"
    ]
    assert ended.__dict__["ledger"] == "balanced"


# -- talking nonsense ------------------------------------------------------------------------


class Weird:
    """Raises whatever is done to it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no equality")

    def __hash__(self) -> int:
        raise RuntimeError("no hash")


NO_TEXT: list[Any] = [None, 7, 1.5, b"bytes", ["a"], {}, Weird(), object, float("nan")]
TEXTS: list[Any] = [
    "",
    "\0",
    "\ud800",
    "a\udfffb",
    "\u202e",
    "\x1b[31m",
    "😀" * 100,
    "x" * 32_768,
]
NO_NUMBER: list[Any] = [None, "16000", b"1", [], float("nan"), float("inf"), 1.5, Weird(), 1j]
NO_RATE: list[Any] = [*NO_NUMBER, 0, -16_000, 3_999, 192_001, 10**30, True, -0.0]
NO_SAMPLES: list[Any] = [
    None, "hello", b"\0\0", 7, 0.5, {}, Weird(), object(), [None], ["a"], [[1.0], [1.0, 2.0]],
    np.zeros((2, 480), np.float32), np.zeros((0, 0)), np.zeros(480, np.int16),
    np.zeros(480, np.complex64), np.zeros(480, bool), np.full(480, 32_767.0),
    np.array(["x"]), np.array(0.5),
]  # fmt: skip
CHOICES: list[Any] = [None, "everyone", 7, "", b"mix", Weird(), ["mix"]]

Call = Callable[[Meeting, Any], Any]


async def _say(meeting: Meeting, samples: Any, rate_hz: Any = RATE_HZ) -> None:
    async with meeting.turn() as turn:
        await turn.say(samples, rate_hz=rate_hz)


CALLS: list[tuple[str, Call, list[Any]]] = [
    ("chat", lambda m, v: m.chat(v), NO_TEXT),
    ("caption", lambda m, v: m.caption(v), NO_TEXT),
    ("caption: final", lambda m, v: m.caption("x", final=v), [None, "yes", 1, Weird()]),
    ("caption: role", lambda m, v: m.caption("x", role=v), CHOICES),
    ("show_image", lambda m, v: m.show_image(v), [
        None, "text", 7, [1, 2], Weird(), b"", b"GIF89a", bytearray(b"BM"),
        b"\xff\xd8\xff" + bytes(512 << 10), memoryview(b"no picture"), np.zeros(3),
    ]),
    ("show_image_url", lambda m, v: m.show_image_url(v), [
        *NO_TEXT, "", "x", "ftp://x/y.png", "javascript:alert(1)", "https://a b", "https://a\n",
        "https://" + "x" * 2_048,
    ]),
    ("log", lambda m, v: m.log(v), NO_TEXT),
    ("interrupt: source", lambda m, v: m.interrupt(v), CHOICES),
    ("say", lambda m, v: _say(m, v), NO_SAMPLES),
    ("say: rate_hz", lambda m, v: _say(m, tone(0.1), v), NO_RATE),
    ("audio: rate_hz", lambda m, v: m.audio(rate_hz=v), NO_RATE),
    ("events: rate_hz", lambda m, v: m.events(rate_hz=v), NO_RATE),
    ("chunk_ms", lambda m, v: m.audio(chunk_ms=v), [*NO_NUMBER, -20, 2_001, 10**30]),
    ("by", lambda m, v: m.audio(by=v), CHOICES),
    ("backlog_ms", lambda m, v: m.events(backlog_ms=v), [*NO_NUMBER[1:], 0, -1, 60_001]),
]  # fmt: skip


@pytest.mark.parametrize(("what", "call", "values"), CALLS, ids=[name for name, _, _ in CALLS])
async def test_nonsense_is_refused_in_one_line_and_the_meeting_goes_on(
    what: str, call: Call, values: list[Any]
) -> None:
    refused: list[str] = []

    async def agent(meeting: Meeting) -> None:
        for value in values:
            with pytest.raises((TypeError, ValueError)) as caught:  # noqa: PT012 - some await
                result = call(meeting, value)
                if isinstance(result, Awaitable):
                    await result
            refused.append(str(caught.value))
        await meeting.chat("still here")
        await _say(meeting, tone(0.2))
        await meeting.chat("and speaking")
        await trio.sleep_forever()

    async with bridge(agent) as room:
        control = await room.control()
        assert (await control.next("sendmsg"))["message"] == "still here"
        await control.next("sendaudio")
        assert (await control.next("sendmsg"))["message"] == "and speaking"
        assert room.session.ledger.faults == []
    for text in refused:
        assert text.startswith(what), text
        assert text.isprintable(), "one line, and nothing that a terminal obeys"
        assert len(text) < 200


async def test_what_a_stranger_wrote_can_be_repeated_however_long_it_is() -> None:
    async def agent(meeting: Meeting) -> None:
        await meeting.chat("x" * 1_000_000)
        await meeting.caption("\U0001f600" * 40_000)
        await trio.sleep_forever()

    async with bridge(agent) as room:
        control = await room.control()
        said = (await control.next("sendmsg"))["message"]
        assert said == "x" * (MAX_TEXT - 1) + "\u2026"
        assert len((await control.next("sendchat"))["text"]) == MAX_TEXT


async def test_odd_values_that_make_sense_are_taken() -> None:
    async def agent(meeting: Meeting) -> None:
        for text in TEXTS:
            await meeting.chat(text)
        await meeting.show_image(cast(bytes, bytearray(b"\xff\xd8\xff\xe0")))
        await _say(meeting, [0.1] * 4_800, 48_000.0)
        await _say(meeting, np.zeros(1_600, np.float16), np.int64(16_000))
        await _say(meeting, np.zeros(9_600, np.float64)[::-2], np.uint16(48_000))
        await _say(meeting, np.array([]))
        meeting.audio(rate_hz=cast(int, np.int32(8_000)), chunk_ms=cast(int, 20.0)).close()
        meeting.log("with %s in it", args="x", name="y", message=float("nan"))
        await meeting.chat("done")
        await trio.sleep_forever()

    async with bridge(agent) as room:
        control = await room.control()
        got = [(await control.next("sendmsg"))["message"] for _ in TEXTS]
        lone = str.maketrans("\ud800\udfff", "\ufffd\ufffd")
        assert got == [text.translate(lone) for text in TEXTS]
        assert (await control.next("sendmsg"))["message"] == "done"
        assert room.session.ledger.faults == []


@pytest.mark.parametrize("rate_hz", [RATE_HZ, 24_000])
async def test_nan_and_infinity_are_silence_and_the_author_is_told_once_a_second(
    rate_hz: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def agent(meeting: Meeting) -> None:
        block = np.full(rate_hz // 100, 0.5, np.float32)
        block[3], block[4], block[5] = np.nan, np.inf, -np.inf
        async with meeting.turn() as turn:
            for _ in range(50):
                await turn.say(block, rate_hz=rate_hz)
        await meeting.chat("done")
        await trio.sleep_forever()

    async with bridge(agent) as room:
        control = await room.control()
        await control.next("sendaudio")
        assert (await control.next("sendmsg"))["message"] == "done"
        assert room.session.ledger.said == RATE_HZ // 2
        assert room.session.ledger.faults == []
    told = events(caplog, "speech was not finite: silence instead")
    assert len(told) == 1
    assert told[0].__dict__["samples"] == 3
    assert told[0].__dict__["bot_id"] == "bot-1"


async def test_a_turn_within_a_turn_is_told_the_mend_instead_of_waiting_for_itself() -> None:
    said: list[str] = []

    async def agent(meeting: Meeting) -> None:
        async with meeting.turn():
            with pytest.raises(RuntimeError) as caught:
                async with meeting.turn():
                    pass
            said.append(str(caught.value))
        await meeting.chat("done")
        await trio.sleep_forever()

    async with bridge(agent) as room:
        control = await room.control()
        await control.next("sendmsg")
    assert said == ["this task is in a turn already: leave its async with block"]
