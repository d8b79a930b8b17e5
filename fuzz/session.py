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

import logging
from collections.abc import Callable
from functools import partial

import numpy as np
import trio
from hypothesis import strategies as st
from trio.testing import MockClock

from fuzz.target import Target
from fuzz.world import BOTS, SETTINGS, ToldToFailError, Wire, World
from trio_bridge.clock import Clock
from trio_bridge.registry import Registry
from trio_bridge.session import Session
from trio_bridge.wire.frames import AudioFrame, encode_frame, encode_legacy_frame
from trio_bridge.wire.hello import encode_hello

MOST_OPERATIONS = 64
SPEAKERS = ("Ann", "Bo", "NoSpeaker", "My Agent")
END_S = SETTINGS.grace_s + SETTINGS.wrap_up_s + SETTINGS.teardown_s + 15.0
"""Both bots gone for good: the grace, the agent's last words, a failed agent's pause."""


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


def _make_session(world: World, clock: Clock, bot_id: str) -> Session:
    session = Session(bot_id, world.agent, SETTINGS, clock)
    world.sessions.append(session)
    return session


async def _play(data: bytes) -> None:
    world, clock = World(), Clock()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        world.registry = Registry(nursery, partial(_make_session, world, clock))
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
