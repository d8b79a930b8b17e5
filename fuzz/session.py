"""Sessions of two bots: op-codes in; whatever they are, the books balance and nothing is left.

The real registry, sessions, channels and clock run on a virtual clock, with sockets that are
objects and an agent that does what it is told. After each operation, and once everything is
quiet: every ledger balances, no bot has two agents, and what goes out is a command with its
bot's id. Speech of an interrupted turn is never sent after the interrupt, nor newer speech
before the bot was told to drop the old. No more is received than was sent. At the end, and the
end comes within the grace: no session, no task and no open socket is left, every socket was
closed with a code that a Close may carry, and nothing was logged as an error but what the
agent was told to do.

The input: two bytes an operation, the second is what it needs to know. After each, all run
that can; with the top bit of the first byte the next one comes before that.
"""

from __future__ import annotations

import base64
import json
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import attrs
import numpy as np
import trio
from hypothesis import strategies as st
from trio.testing import MockClock

from fuzz.target import Target
from trio_bridge.channel import serve_channel
from trio_bridge.clock import Clock
from trio_bridge.config import Settings
from trio_bridge.edge.socket import Socket
from trio_bridge.errors import SessionEndedError, SocketClosedError
from trio_bridge.log import Throttle
from trio_bridge.meeting import Meeting
from trio_bridge.registry import Registry
from trio_bridge.routes import Route
from trio_bridge.session import Session
from trio_bridge.wire.frames import AudioFrame, encode_frame, encode_legacy_frame
from trio_bridge.wire.hello import encode_hello

RATE_HZ = 48_000
BOTS = ("bot-0", "bot-1")
MOST_OPERATIONS = 64
WIRE_CODES = {1000, 1001, 1003, 1008, 1011}
SPEAKERS = ("Ann", "Bo", "NoSpeaker", "My Agent")
SETTINGS = Settings(
    bot_name=("My Agent",), bad_frames=4, grace_s=5.0, wrap_up_s=0.5, audio_backlog_ms=100,
    speech_backlog_ms=500, hello_s=2.0,
)  # fmt: skip
END_S = SETTINGS.grace_s + SETTINGS.wrap_up_s + SETTINGS.teardown_s + 15.0
"""Both bots gone for good: the grace, the agent's last words, a failed agent's pause."""


class ToldToFailError(Exception):
    """What the agent raises when it is told to."""


@attrs.define(eq=False)
class Wire:
    """A bot's socket, from both ends; what `channel` and `session` see of an edge's."""

    world: World
    bot_id: str
    kind: str
    request: Any = attrs.field(factory=lambda: SimpleNamespace(peer="192.0.2.1"))
    closed: int | None = None
    """The code with which either side closed it."""
    stalled: bool = False
    on_audio: Callable[[bytes], None] | None = None
    on_text: Callable[[str], None] | None = None
    _gone: trio.Event = attrs.field(factory=trio.Event, init=False)
    _inbox: trio.MemorySendChannel[str | bytes] = attrs.field(init=False)
    _outbox: trio.MemoryReceiveChannel[str | bytes] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._inbox, self._outbox = trio.open_memory_channel[str | bytes](1_000)

    def arm(
        self,
        *,
        max_message_bytes: int,
        on_audio: Callable[[bytes], None] | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        assert max_message_bytes > 0
        self.on_audio, self.on_text = on_audio, on_text

    async def receive(self) -> str | bytes:
        try:
            return await self._outbox.receive()
        except trio.EndOfChannel:
            raise SocketClosedError(self.closed or 1006) from None

    async def send(self, text: str) -> None:
        if self.closed is None:
            self.world.judge_command(self, text)
        await trio.lowlevel.checkpoint()
        if self.stalled:  # until the write's deadline, or the connection is cut
            with trio.move_on_after(5):
                await self._gone.wait()
            self.hang_up(1006)
        if self.closed is not None:
            raise SocketClosedError(self.closed)
        self.world.note_command(self, text)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        assert code in WIRE_CODES, code
        assert len(reason.encode()) <= 123, reason
        self.hang_up(code)
        await trio.lowlevel.checkpoint()

    def hang_up(self, code: int) -> None:
        if self.closed is None:
            self.closed = code
            self.on_audio = self.on_text = None
            self._inbox.close()
            self._gone.set()

    def say(self, message: str | bytes) -> None:
        """The bot sends ``message``, and the edge has read it."""
        if self.closed is not None:
            return
        if isinstance(message, bytes) and self.on_audio is not None:
            self.on_audio(message)
        elif isinstance(message, str) and self.on_text is not None:
            self.on_text(message)
        else:
            self._inbox.send_nowait(message)


@attrs.define(eq=False)
class World:
    """Everything that runs, and what was asked of it."""

    registry: Registry = attrs.field(init=False)
    wires: list[Wire] = attrs.field(factory=list)
    sent: Counter[str] = attrs.field(factory=Counter)
    """Samples by bot, in frames that could have been heard."""
    agents: Counter[str] = attrs.field(factory=Counter)
    """That run, by bot."""
    orders: dict[str, trio.MemorySendChannel[tuple[str, int]]] = attrs.field(factory=dict)
    levels: dict[int, tuple[Session, int]] = attrs.field(factory=dict)
    """What tells a turn's speech from another's: its amplitude, and the epoch it began in."""
    cleared: dict[int, int] = attrs.field(factory=dict)
    """Sessions whose bot was told to drop our speech, with the epoch of which it was told."""
    sessions: list[Session] = attrs.field(factory=list)
    """All there ever were."""

    # -- the agent -------------------------------------------------------------------------

    async def agent(self, meeting: Meeting) -> None:
        """Hears everything and does what `orders` say; its turns end where the meeting does."""
        bot_id = meeting.bot_id
        self.agents[bot_id] += 1
        assert self.agents[bot_id] == 1, "a bot has two agents"
        self.orders[bot_id], orders = trio.open_memory_channel(1_000)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, meeting, nursery.cancel_scope)
                async for order, arg in orders:
                    await self._obey(meeting, nursery, order, arg)
                    if order == "return":
                        nursery.cancel_scope.cancel()
        except* SessionEndedError:
            pass
        finally:
            self.agents[bot_id] -= 1

    async def _listen(self, meeting: Meeting, scope: trio.CancelScope) -> None:
        async for _ in meeting.events(chunk_ms=20):
            pass
        scope.cancel()

    async def _obey(
        self, meeting: Meeting, nursery: trio.Nursery, order: str, arg: int
    ) -> None:
        if order == "speak":
            nursery.start_soon(self._speak, meeting, (arg + 1) * 10)
        elif order == "chat":
            nursery.start_soon(meeting.chat, "words " * arg)
        elif order == "interrupt":
            meeting.interrupt()
        elif order == "raise":
            raise ToldToFailError
        elif order == "listen":
            nursery.start_soon(self._overhear, meeting, arg)

    async def _speak(self, meeting: Meeting, duration_ms: int) -> None:
        async with meeting.turn() as turn:
            level = len(self.levels) + 1
            session = self._session(meeting)
            self.levels[level] = session, session.pump.interrupts
            samples = np.full(RATE_HZ * duration_ms // 1000, level / 32_768, np.float32)
            for half in np.array_split(samples, 2):
                await turn.say(half, rate_hz=RATE_HZ)

    async def _overhear(self, meeting: Meeting, chunks: int) -> None:
        """A second ear that hears each speaker alone, for a while."""
        ear = meeting.audio(by="speaker", rate_hz=16_000)
        async for _ in ear:
            chunks -= 1
            if chunks < 0:
                return

    def _session(self, meeting: Meeting) -> Session:
        return next(session for session in self.sessions if session.meeting is meeting)

    # -- the bots --------------------------------------------------------------------------

    async def attend(self, wire: Wire) -> None:
        """The edge's task of one socket."""
        route = Route("audio" if wire.kind == "audio" else "control", None, None)
        try:
            onward = await serve_channel(
                cast(Socket, wire), route, self.registry, SETTINGS, Throttle(), lambda _: None
            )
            assert onward is None
        except SocketClosedError:
            pass  # the edge closes it then, with nothing to say
        wire.hang_up(1000)

    def make_session(self, clock: Clock, bot_id: str) -> Session:
        session = Session(bot_id, self.agent, SETTINGS, clock)
        self.sessions.append(session)
        return session

    def judge_command(self, wire: Wire, text: str) -> None:
        """What goes out is right, and goes out in the right order."""
        fields = json.loads(text)
        if wire.kind == "audio":
            assert fields["type"] == "ack"
            return
        assert fields["bot_id"] == wire.bot_id, "a command for another bot"
        if fields["command"] != "sendaudio":
            return
        heard = np.frombuffer(base64.b64decode(fields["audiochunk"]), "<i2")
        assert 0 < len(heard) <= RATE_HZ * SETTINGS.chunk_ms // 1000
        for level in np.unique(heard):
            session, epoch = self.levels[int(level)]
            assert session.bot_id == wire.bot_id, "another meeting's speech"
            assert epoch == session.pump.interrupts, "speech of an interrupted turn"
            cleared = self.cleared.get(id(session), 0)
            assert cleared == epoch, "newer speech before the interrupt"

    def note_command(self, wire: Wire, text: str) -> None:
        """``text`` has gone out."""
        if json.loads(text).get("command") == "interrupt":
            for session in self.sessions:
                if session.pump._socket is wire:
                    self.cleared[id(session)] = session.pump.interrupts

    # -- the oracle ------------------------------------------------------------------------

    def look(self) -> None:
        """What holds at any moment."""
        received: Counter[str] = Counter()
        for session in self.sessions:
            assert session.ledger.faults == [], session.ledger.faults
            received[session.bot_id] += session.ledger.received
        assert received <= self.sent, "more was received than was sent"
        assert len(self.registry) <= len(BOTS)

    def look_around(self) -> None:
        """What holds while nothing moves: who is there is written to."""
        for session in self.registry:
            link = session._attendance._links.get("control")
            if link is not None and not session.over:
                wire = cast(Wire, link.socket)
                if wire.closed is None:
                    assert session.pump._socket is wire, "nobody writes to the control socket"

    def look_back(self) -> None:
        """What holds when everybody has gone."""
        assert self.registry.running == 0, "a meeting goes on"
        assert len(self.registry) == 0
        assert not +self.agents, "an agent goes on"
        for wire in self.wires:
            assert wire.closed is not None, "a socket is open"


# -- the operations --------------------------------------------------------------------------


def _join(world: World, nursery: trio.Nursery, kind: str, arg: int) -> None:
    wire = Wire(world, BOTS[arg & 1], kind)
    world.wires.append(wire)
    wire.say(encode_hello(wire.bot_id) if arg < 240 else ("{}", "", "[", b"\1")[arg & 3])
    nursery.start_soon(world.attend, wire)


def _leave(world: World, arg: int) -> None:
    if world.wires:
        code = (1000, 1000, 1001, 1006)[arg & 3]
        world.wires[-1 - (arg >> 2) % len(world.wires)].hang_up(code)


def _talk(world: World, kind: str, arg: int, message: str | bytes) -> None:
    """The newest socket, or now and then an older one, says something."""
    wires = [wire for wire in world.wires if wire.kind == kind and wire.bot_id == BOTS[arg & 1]]
    if wires:
        wires[-1 - (arg >> 6) % len(wires)].say(message)


def _hear(world: World, arg: int) -> None:
    name = SPEAKERS[arg >> 1 & 3]
    length = (0, 1, 96, 480, 960, 4_800, 48_000, 96_001)[arg >> 3 & 7]
    world.sent[BOTS[arg & 1]] += length
    level = 8_000 if arg & 2 else 0
    frame = AudioFrame(name, name, np.full(length, level, "<i2").tobytes())
    encode = encode_legacy_frame if arg >= 200 else encode_frame
    _talk(world, "audio", arg, encode(frame))


CONTROL = (
    '{"command": "interrupt"}',
    '{"command": "usermsg", "message": "hi", "id": "7"}',
    "{",
    "[]",
    '{"type": "ready", "bot_id": "x"}',
    '{"type": "transcript", "is_final": false}',
    '{"a": NaN}',
    '{"command": "dance"}',
)
BAD_AUDIO = (b"", b"\1", b"\2\0\0\0\0", b"\1\xff\xff", b"\0\0\0\2{}a", b"\0\0\0\1{", "x", "{}")
ORDERS = ("speak", "chat", "interrupt", "raise", "return", "listen")
Operation = Callable[[World, trio.Nursery, int], None]


def _order(order: str, world: World, nursery: trio.Nursery, arg: int) -> None:
    orders = world.orders.get(BOTS[arg & 1])
    if orders is not None:  # else there was no agent yet
        orders.send_nowait((order, arg >> 1))


def _stall(world: World, nursery: trio.Nursery, arg: int) -> None:
    if world.wires:
        world.wires[-1 - (arg >> 1) % len(world.wires)].stalled = bool(arg & 1)


def _end(world: World, nursery: trio.Nursery, arg: int) -> None:
    for session in world.registry:
        if session.bot_id == BOTS[arg & 1]:
            session.end(1001, "going away")


OPERATIONS: dict[str, Operation] = {
    "audio": lambda world, nursery, arg: _join(world, nursery, "audio", arg),
    "control": lambda world, nursery, arg: _join(world, nursery, "control", arg),
    "leave": lambda world, nursery, arg: _leave(world, arg),
    "hear": lambda world, nursery, arg: _hear(world, arg),
    "hear Ann": lambda world, nursery, arg: _hear(world, arg & ~6),
    "bad audio": lambda world, nursery, arg: _talk(
        world, "audio", arg, BAD_AUDIO[arg >> 1 & 7]
    ),
    "control says": lambda world, nursery, arg: _talk(
        world, "control", arg, CONTROL[arg >> 1 & 7]
    ),
    "stall": _stall,
    "end": _end,
    **{order: partial(_order, order) for order in ORDERS},
}
NAMES = (*OPERATIONS, "wait")
"""`wait` lets time pass; it is not in the table because it awaits."""
WAITS_S = (0.005, 0.02, 0.1, 0.2, 0.5, 1.0, 6.0, 25.0)
AT_ONCE = 0x80


def operation(name: str, arg: int = 0, *, at_once: bool = False) -> bytes:
    """One operation of an input for `check`."""
    return bytes([NAMES.index(name) | (AT_ONCE if at_once else 0), arg])


def check(data: bytes) -> None:
    """Do what ``data`` says.

    Raises:
        AssertionError: the promise in the module's docstring is broken.
    """
    log = _Errors()
    logger = logging.getLogger("trio_bridge")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(log)
    try:
        trio.run(_play, data, clock=MockClock(autojump_threshold=0))
    except* AssertionError as broken:
        raise _leaf(broken) from None
    except* Exception as escaped:
        leaf = _leaf(escaped)
        raise AssertionError(f"{type(leaf).__name__} escaped: {leaf}") from leaf
    finally:
        logger.removeHandler(log)
        logger.propagate = propagate
    assert not log.events, log.events


async def _play(data: bytes) -> None:
    world, clock = World(), Clock()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        world.registry = Registry(nursery, partial(world.make_session, clock))
        async with trio.open_nursery() as edge:
            for first, arg in zip(data[::2][:MOST_OPERATIONS], data[1::2], strict=False):
                name = NAMES[(first & ~AT_ONCE) % len(NAMES)]
                if name == "wait":
                    await trio.sleep(WAITS_S[arg & 7])
                else:
                    OPERATIONS[name](world, edge, arg)
                if not first & AT_ONCE:
                    await trio.testing.wait_all_tasks_blocked()
                    world.look_around()
                world.look()
            for wire in world.wires:
                wire.hang_up(1006)
            with trio.move_on_after(END_S) as late:
                await world.registry.empty()
            assert not late.cancelled_caught, "a meeting would not end"
            world.look()
        world.look_back()
        nursery.cancel_scope.cancel()


class _Errors(logging.Handler):
    """Keeps what was logged as an error and was not asked for."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.events: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or not isinstance(_leaf(error), ToldToFailError):
            self.events.append(f"{record.getMessage()}: {error!r}")


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


_args = st.integers(0, 3) | st.integers(0, 255)
"""Mostly the first bot, and the newest socket."""
_names = st.sampled_from(NAMES) | st.sampled_from(["hear", "control says", "speak", "wait"])
_operations = st.builds(
    lambda name, at_once, arg: operation(name, arg, at_once=at_once),
    _names,
    st.sampled_from([False, False, True]),
    _args,
)
_joined = (operation("audio"), operation("control"))
messages = st.builds(
    lambda both, rest: both + b"".join(rest),
    st.sampled_from([b"".join(_joined), b"".join(reversed(_joined)), _joined[1], b""]),
    st.lists(_operations, max_size=MOST_OPERATIONS - 2),
)

TARGET = Target("session", check, messages, tuple(operation(name) for name in NAMES))
