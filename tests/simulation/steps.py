"""What can happen to a server, as values: a plan is printed, read, cut and replayed.

Every step means something in any state (a frame with no socket to send it on is no frame), so
any part of a plan is a plan: that is what lets Hypothesis shrink it.
"""

from __future__ import annotations

import json
from typing import Any, Literal, get_args

import attrs

from trio_bridge.attendance import Kind

SETTLE = -1
"""A pause until every task waits for something; other pauses are that many scheduler turns."""

Hello = Literal[
    "good", "late", "bad", "binary", "no id", "other path", "bad head", "no such path"
]
"""How a socket introduces itself: "late" ones have to be told to, and may never be."""

How = Literal["close", "close 1001", "close empty", "close bad", "fin", "rst", "silence"]
"""How the bot's end of a socket ends; "silence" is a network that has gone: no FIN, no pong."""

Form = Literal["binary", "headed", "legacy"]

Flaw = Literal["empty", "type", "short", "runs over", "text", "odd byte", "huge"]

Words = Literal[
    "plain", "empty", "partial", "repeated", "unknown", "not JSON", "binary", "ready"
]

Crime = Literal[
    "unmasked", "reserved", "opcode", "not UTF-8", "too big", "pings", "half a frame"
]

Task = Literal[
    "chat",
    "caption",
    "image",
    "speak",
    "speak shielded",
    "interrupt",
    "slow",
    "stop listening",
    "listen twice",
    "stubborn",
    "raise",
    "return",
]


@attrs.frozen
class Join:
    """A new socket. ``raw`` is plain TCP, else what TLS looks like; ``segment_bytes`` is how
    the network cuts what the bot sends."""

    bot: int
    kind: Kind
    hello: Hello
    raw: bool
    segment_bytes: int
    pause: int


@attrs.frozen
class Introduce:
    """The hello of the newest socket that has not said one."""

    bot: int
    pause: int


@attrs.frozen
class End:
    """The bot ends its newest socket of that kind, or the oldest that is still open."""

    bot: int
    kind: Kind
    how: How
    oldest: bool
    pause: int


@attrs.frozen
class Audio:
    """Frames: ``speakers`` taking turns, or our own voice; one after the other in real time if
    ``paced``."""

    bot: int
    form: Form
    speakers: int
    own: bool
    loud: bool
    count: int
    frame_ms: int
    paced: bool
    pause: int


@attrs.frozen
class BadAudio:
    """Messages that are no frames (or, with an odd byte, hardly one)."""

    bot: int
    flaw: Flaw
    count: int
    pause: int


@attrs.frozen
class Say:
    """What somebody in the meeting types, or what the bot should not say."""

    bot: int
    words: Words
    pause: int


@attrs.frozen
class Interrupt:
    bot: int
    count: int
    pause: int


@attrs.frozen
class Order:
    """What the bot's agent does next."""

    bot: int
    task: Task
    amount: int
    pause: int


@attrs.frozen
class Freeze:
    """The bot stops reading its newest socket of that kind, when ``room_bytes`` more still fit
    on the way, or reads on."""

    bot: int
    kind: Kind
    thaw: bool
    room_bytes: int
    pause: int


@attrs.frozen
class Break:
    """The bot breaks RFC 6455."""

    bot: int
    kind: Kind
    crime: Crime
    pause: int


@attrs.frozen
class Stranger:
    """Somebody who is no bot: 0 asks for /health, 1 sends half a head, 2 hangs up."""

    what: int
    pause: int


@attrs.frozen
class Pass:
    """Time passes."""

    time_s: float


@attrs.frozen
class Stop:
    """SIGTERM: `Server.stop`."""

    drain_s: float
    pause: int


Step = (
    Join
    | Introduce
    | End
    | Audio
    | BadAudio
    | Say
    | Interrupt
    | Order
    | Freeze
    | Break
    | Stranger
    | Pass
    | Stop
)
_BY_NAME: dict[str, Any] = {step.__name__: step for step in get_args(Step)}

Ending = Literal["leave", "stop", "stop later", "cancel"]


@attrs.frozen(kw_only=True)
class Plan:
    """One server and what happens to it."""

    bots: int
    schedule: int
    """Seeds Trio's choice of which of the tasks that can run runs first."""
    settings: dict[str, Any]
    listens: bool
    """Agents listen to everything; otherwise to nothing until they are told to."""
    rate_hz: int
    chunk_ms: int | None
    by: Literal["mix", "speaker"]
    steps: tuple[Step, ...]
    ending: Ending

    def text(self) -> str:
        """One line; `read_plan` reads it."""
        fields = attrs.asdict(self, recurse=False)
        fields["steps"] = [
            [type(step).__name__, *attrs.astuple(step, recurse=False)] for step in self.steps
        ]
        return json.dumps(fields, separators=(",", ":"))

    def listing(self) -> str:
        """For a person: the circumstances, then a step a line."""
        circumstances = attrs.asdict(self, recurse=False)
        del circumstances["steps"]
        return "\n".join(
            [str(circumstances), *(f"{n:3}. {step}" for n, step in enumerate(self.steps))]
        )


def read_plan(text: str) -> Plan:
    """The inverse of `Plan.text`."""
    fields = json.loads(text)
    fields["steps"] = tuple(_BY_NAME[name](*values) for name, *values in fields["steps"])
    return Plan(**fields)
