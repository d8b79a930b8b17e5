"""Random plans, as Hypothesis strategies: weights are how often a thing is listed."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.simulation.steps import (
    SETTLE,
    Audio,
    BadAudio,
    Break,
    End,
    Freeze,
    Interrupt,
    Introduce,
    Join,
    Order,
    Pass,
    Plan,
    Say,
    Step,
    Stop,
    Stranger,
    Task,
)

MOST_BOTS = 4

_bots = st.integers(0, MOST_BOTS - 1)
_kinds = st.sampled_from(("audio", "control"))
_pauses = st.sampled_from((SETTLE, SETTLE, SETTLE, 0, 0, 1, 2, 3, 5, 8))

_joins = st.builds(
    Join,
    _bots,
    _kinds,
    st.sampled_from(
        (
            *(("good",) * 12),
            *("late", "late", "bad", "binary", "no id", "other path", "bad head"),
            "no such path",
        )
    ),
    st.booleans(),
    st.sampled_from((65_536, 65_536, 65_536, 1_000, 100, 7)),
    _pauses,
)
_tasks: st.SearchStrategy[Task] = st.sampled_from(
    (
        *(("speak",) * 6),
        *(("speak shielded",) * 2),
        *(("chat",) * 4),
        *("caption", "image", "interrupt", "interrupt", "slow", "stop listening"),
        *("listen twice", "stubborn", "raise", "return"),
    )
)
_amounts = st.integers(0, 7)
_orders = st.builds(Order, _bots, _tasks, _amounts, _pauses)
_ends = st.builds(
    End,
    _bots,
    _kinds,
    st.sampled_from(
        (
            *(("close",) * 6),
            *("close 1001", "close empty", "close bad", "fin", "fin", "rst", "rst", "silence"),
        )
    ),
    st.booleans(),
    _pauses,
)
_audio = st.builds(
    Audio,
    _bots,
    st.sampled_from(("binary", "binary", "binary", "headed", "legacy")),
    st.integers(1, 3),
    st.sampled_from((False, False, False, True)),
    st.booleans(),
    st.integers(1, 8),
    st.sampled_from((20, 20, 5, 40, 100)),
    st.booleans(),
    _pauses,
)
_bad_audio = st.builds(
    BadAudio,
    _bots,
    st.sampled_from(("empty", "type", "short", "runs over", "text", "odd byte", "huge")),
    st.integers(1, 4),
    _pauses,
)
_says = st.builds(
    Say,
    _bots,
    st.sampled_from(
        (
            *(("plain",) * 6),
            *("empty", "partial", "repeated", "repeated", "unknown", "not JSON", "binary"),
            "ready",
        )
    ),
    _pauses,
)
_interrupts = st.builds(Interrupt, _bots, st.sampled_from((1, 1, 1, 2, 5)), _pauses)
_rooms = st.sampled_from((0, 60, 2_048, 20_000))
_freezes = st.builds(Freeze, _bots, _kinds, st.booleans(), _rooms, _pauses)
_breaks = st.builds(
    Break,
    _bots,
    _kinds,
    st.sampled_from(
        ("unmasked", "reserved", "opcode", "not UTF-8", "too big", "pings", "half a frame")
    ),
    _pauses,
)
_strangers = st.builds(Stranger, st.integers(0, 2), _pauses)
_times = st.builds(
    Pass, st.sampled_from((0.01, 0.05, 0.1, 0.3, 0.5, 1.0, 1.0, 2.0, 4.9, 5.1, 15.1, 45.0))
)
_stops = st.builds(Stop, st.sampled_from((0.0, 1.0, 30.0)), _pauses)


@st.composite
def _stalls(draw: st.DrawFn) -> list[Step]:
    """The bot does not read, just when there is something to say; then it does, or is lost and
    comes back."""
    bot = draw(_bots)
    frozen = Freeze(bot, "control", False, draw(_rooms), SETTLE)
    tasks = draw(st.lists(_tasks, min_size=1, max_size=3))
    said: list[Step] = [Order(bot, task, draw(_amounts), draw(_pauses)) for task in tasks]
    if draw(st.booleans()):
        said.append(Interrupt(bot, 1, draw(_pauses)))
    wait = Pass(draw(st.sampled_from((0.05, 1.0, 4.9, 5.1))))
    again: Step = Freeze(bot, "control", True, 0, draw(_pauses))
    if draw(st.booleans()):
        again = Join(bot, "control", "good", draw(st.booleans()), 65_536, draw(_pauses))
    return [frozen, *said, wait, again]


_kinds_of_steps: tuple[tuple[int, st.SearchStrategy[Any]], ...] = (
    (5, _joins),
    (9, _orders),
    (3, _ends),
    (5, _audio),
    (1, _bad_audio),
    (3, _says),
    (4, _interrupts),
    (3, _freezes),
    (1, _breaks),
    (1, _strangers),
    (6, _times),
    (1, st.builds(Introduce, _bots, _pauses)),
    (2, _stalls()),
)
_weighted = [strategy for weight, strategy in _kinds_of_steps for _ in range(weight)]
# By number: `one_of` would count a strategy that it is given five times once.
_steps: st.SearchStrategy[Step | list[Step]] = st.sampled_from(range(len(_weighted))).flatmap(
    _weighted.__getitem__
)


def _opening(bot: int, which: int) -> list[Step]:
    """Most bots are there before the first step: there is more to see then."""
    control = Join(bot, "control", "good", bool(which & 4), 65_536, 0 if which & 8 else SETTLE)
    audio = Join(bot, "audio", "good", bool(which & 16), 65_536, SETTLE)
    orders: dict[int, list[Step]] = {0: [control, audio], 1: [audio, control], 3: []}
    return orders.get(which & 3, [control, audio])


_settings = st.fixed_dictionaries(
    {
        "grace_s": st.sampled_from((15.0, 1.0, 0.0)),
        "wrap_up_s": st.sampled_from((2.0, 0.0)),
        "bad_frames": st.sampled_from((500, 3)),
        "ack": st.sampled_from((True, True, True, False)),
        "channels": st.sampled_from((1, 1, 1, 2)),
        "layout": st.sampled_from(("auto", "auto", "mixed", "separate")),
        "own_voice": st.sampled_from(("silence", "drop")),
        "barge_in_ms": st.sampled_from((300, 0, 40)),
        "audio_backlog_ms": st.sampled_from((400, 40)),
        "speech_backlog_ms": st.sampled_from((2_000, 100)),
        "token": st.sampled_from(((), (), ("secret",))),
    }
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """A server, up to `MOST_BOTS` bots that know nothing of each other, and their day."""
    bots = draw(st.integers(1, MOST_BOTS))
    opening = [step for bot in range(bots) for step in _opening(bot, draw(st.integers(0, 31)))]
    # Four lists, because one that may be empty, as it must to be shrunk, is short on average.
    drawn = [step for _ in range(4) for step in draw(st.lists(_steps, max_size=16))]
    steps = [step for some in drawn for step in (some if isinstance(some, list) else [some])]
    if draw(st.integers(0, 7)) == 7:
        steps.insert(draw(st.integers(0, len(steps))), draw(_stops))
    return Plan(
        bots=bots,
        schedule=draw(st.integers(0, 1 << 16)),
        settings=draw(_settings),
        listens=draw(st.sampled_from((True, True, True, False))),
        rate_hz=draw(st.sampled_from((48_000, 48_000, 16_000))),
        chunk_ms=draw(st.sampled_from((20, None))),
        by=draw(st.sampled_from(("mix", "mix", "speaker"))),
        steps=(*opening, *steps),
        ending=draw(st.sampled_from(("leave", "leave", "stop", "stop later", "cancel"))),
    )
