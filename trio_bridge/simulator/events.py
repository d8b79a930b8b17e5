"""What happens in a simulated meeting, told as it happens.

``at_s`` is seconds on Trio's clock since both channels had introduced themselves; what comes
before that (`Joined`) is at zero.
"""

from __future__ import annotations

import math
from typing import Literal

import attrs

Channel = Literal["control", "audio"]


@attrs.frozen
class Joined:
    """A channel is open and its first message is on its way."""

    at_s: float
    channel: Channel


@attrs.frozen
class Spoke:
    """A person begins to speak."""

    at_s: float
    speaker_name: str
    duration_s: float
    text: str
    """What is said, where the scenario knows it; otherwise empty."""


@attrs.frozen
class MessageSent:
    """We sent a ``usermsg``."""

    at_s: float
    text: str


@attrs.frozen
class InterruptSent:
    """We sent an ``interrupt``."""

    at_s: float


@attrs.frozen
class ChatPosted:
    """The server wrote into the meeting's chat."""

    at_s: float
    text: str


@attrs.frozen
class CaptionPosted:
    """The server wrote a transcript line; ``text`` is the line so far."""

    at_s: float
    role: str
    text: str
    is_final: bool


@attrs.frozen
class AudioStarted:
    """The bot begins to be heard: the first audio after a silence or a cut."""

    at_s: float


@attrs.frozen
class AudioStopped:
    """The bot fell silent. Known for certain only a while after ``at_s``."""

    at_s: float
    played_s: float
    cut: bool
    """An ``interrupt`` command ended it."""


@attrs.frozen
class Cleared:
    """The server's ``interrupt`` command came in."""

    at_s: float
    dropped_s: float
    """Queued speech that was thrown away; 0 on platforms that clear nothing."""
    left_s: float
    """Queued speech that will still be heard."""


@attrs.frozen
class ImageShown:
    """The server set the bot's picture: by its bytes or by an address."""

    at_s: float
    size_bytes: int
    url: str


@attrs.frozen
class FaultSeen:
    """The server broke the protocol, or the transport failed; the meeting goes on."""

    at_s: float
    reason: str


@attrs.frozen
class Closed:
    """A channel is closed; ``code`` as in RFC 6455 §7.4, 1006 when it just died."""

    at_s: float
    channel: Channel
    code: int
    reason: str
    by: Literal["bot", "server"]


SimEvent = (
    Joined
    | Spoke
    | MessageSent
    | InterruptSent
    | ChatPosted
    | CaptionPosted
    | AudioStarted
    | AudioStopped
    | Cleared
    | ImageShown
    | FaultSeen
    | Closed
)


@attrs.define(eq=False)
class Stamps:
    """The times before printed lines. They never run backwards, though some things are known
    only when later ones are printed already."""

    places: int
    """After the decimal point."""
    _last_s: float = attrs.field(default=-math.inf, init=False)

    def stamp(self, at_s: float) -> tuple[float, str]:
        """The time to print before a line; and what to print after it, empty or when it was."""
        at_s = round(at_s, self.places)
        if at_s >= self._last_s:
            self._last_s = at_s
            return at_s, ""
        return self._last_s, f" (at {at_s:.{self.places}f} s)"
