"""What a simulated meeting is: who speaks when, over which wire, on which platform.

Values only, validated when they are made: a `Scenario` that exists can be run.
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

import attrs
import numpy as np

from trio_bridge.simulator.errors import SimulatorError
from trio_bridge.simulator.events import Channel
from trio_bridge.simulator.wavs import Float32, read_wav

Form = Literal["binary", "headed", "legacy"]
Layout = Literal["mixed", "separate"]
Platform = Literal["meet", "zoom", "teams"]
Order = Literal["control", "audio", "together"]
Cut = Literal["clean", "abrupt", "overlap"]

BOT_NAME = "MeetStream Agent"
"""Among the names that a server takes for its own bot's unless it is told otherwise: under any
other name it would hear its own voice as a person's, and answer itself."""

NO_SPEAKER = "NoSpeaker"
"""The name under which MeetStream sends what it can attribute to nobody."""

_LONGEST_S = 7 * 24 * 3600.0
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")


@attrs.frozen
class SpeakerPart:
    """One person saying one thing."""

    name: str
    id: str
    sound: Float32 | str | Path = attrs.field(eq=False)
    """float32 ``(samples,)`` at 48 kHz, full scale ±1.0, or the path of a WAV file."""
    at_s: float = 0.0
    text: str = ""
    """What is said, if known; only passed on to `Spoke`."""

    def load(self) -> Float32:
        """The samples; reads and converts the file, if it is one.

        Raises:
            SimulatorError: the file cannot be used.
        """
        if isinstance(self.sound, np.ndarray):
            return self.sound
        return read_wav(self.sound)


@attrs.frozen
class UserMessage:
    """A ``usermsg`` to send."""

    text: str
    at_s: float
    speaker_name: str | None = None


@attrs.frozen
class Reconnect:
    """A channel that is lost and comes back.

    ``clean`` closes with 1000, ``abrupt`` resets the connection without a word; both come
    back after ``pause_s``. ``overlap`` opens the new socket and then closes the old one.
    """

    channel: Channel
    at_s: float
    how: Cut = "abrupt"
    pause_s: float = 0.5


@attrs.frozen(kw_only=True)
class Scenario:
    """One bot in one meeting. Seconds count from when both channels are open.

    Raises:
        SimulatorError: a value that cannot be run; the text names it.
    """

    url: str = attrs.field(repr=False)  # its path may hold a token; `where` can be shown
    """``ws://HOST:PORT`` or ``wss://``, with the server's path prefix and query, if any."""
    bot_id: str = attrs.field(factory=lambda: str(uuid.uuid4()))
    bot_name: str = BOT_NAME
    """Whose voice `own_voice_echo` is; one of the server's names for its own bot."""
    speakers: tuple[SpeakerPart, ...] = ()
    messages: tuple[UserMessage, ...] = ()
    interrupts_s: tuple[float, ...] = ()
    reconnects: tuple[Reconnect, ...] = ()

    form: Form = "binary"
    layout: Layout = "mixed"
    frame_ms: int = 20
    silence_label: Literal["nobody", "last"] = "nobody"
    """In the mixed layout: whose name silence bears, `NO_SPEAKER` or the last speaker's."""
    platform: Platform = "meet"
    """Only ``meet`` clears its playback queue on the server's ``interrupt``."""
    own_voice_echo: bool = False
    """What the bot plays comes back as meeting audio under the bot's own name."""

    speed: float = 1.0
    """Of the script (speech, messages, ...) against the clock; 0 is as fast as possible.
    Playback and the tail are always in real time."""
    duration_s: float | None = None
    """When to leave. None: `tail_s` after the last thing in the script, and once the bot has
    been silent for a second, but no later than `linger_s` after that."""
    tail_s: float = 5.0
    linger_s: float = 60.0

    control_path: str = "/bridge"
    audio_path: str = "/bridge/audio"
    prefix_bot_id: bool = False
    """Put ``/{bot_id}`` before the configured path, as live bots were seen to do."""
    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), repr=False)
    """For the upgrade requests. May hold secrets: neither shown nor reported."""
    order: Order = "control"
    """Which channel comes first."""
    order_gap_s: float = 0.0
    """Between the first channel's ``ready`` and the second's connection."""
    save: Path | None = None
    """Where to write what the meeting heard: WAV, 48 kHz mono PCM16."""

    def __attrs_post_init__(self) -> None:
        parts = _split(self.url)
        if parts.scheme not in ("ws", "wss", "http", "https") or not parts.hostname:
            raise SimulatorError(f"{self.where!r} is not an address like ws://HOST:PORT")
        if not self.bot_id:
            raise SimulatorError("the bot id is empty")
        if not 1 <= self.frame_ms <= 2000:
            raise SimulatorError(f"a frame of {self.frame_ms} ms; use 1 to 2000")
        for path in (self.control_path, self.audio_path):
            if not path.startswith("/"):
                raise SimulatorError(f"the path {path!r} does not begin with /")
        for name, value in self.headers:
            if not _HEADER_NAME.match(name) or any(ord(c) < 32 for c in value):
                raise SimulatorError(
                    f"{name!r} is not the name of an HTTP header, or its value cannot be one"
                )
        for what, seconds in self._times():
            if not 0 <= seconds <= _LONGEST_S:
                raise SimulatorError(f"{what} is {seconds:g} s; use 0 or more")
        if not 0 <= self.speed <= 1e6:
            raise SimulatorError(f"the speed is {self.speed:g}; use 0 or more")

    @property
    def where(self) -> str:
        """The server's scheme, host and port: what of the URL can be shown to people.

        Its path, query and user part may hold a token.
        """
        parts = _split(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    @property
    def address(self) -> tuple[str, int, bool]:
        """Host, port, and whether to use TLS."""
        parts = _split(self.url)
        secure = parts.scheme in ("wss", "https")
        return parts.hostname or "", parts.port or (443 if secure else 80), secure

    def resource(self, channel: Channel) -> str:
        """The path and query to ask the server for."""
        parts = _split(self.url)
        path = self.control_path if channel == "control" else self.audio_path
        prefix = f"/{quote(self.bot_id, safe='')}" if self.prefix_bot_id else ""
        query = f"?{parts.query}" if parts.query else ""
        return f"{prefix}{parts.path.rstrip('/')}{path}{query}"

    def _times(self) -> list[tuple[str, float]]:
        times = [("a speaker's start", part.at_s) for part in self.speakers]
        times += [("a message's time", message.at_s) for message in self.messages]
        times += [("an interrupt's time", at_s) for at_s in self.interrupts_s]
        times += [("a reconnect's time", cut.at_s) for cut in self.reconnects]
        times += [("a reconnect's pause", cut.pause_s) for cut in self.reconnects]
        times += [("the tail", self.tail_s), ("the linger", self.linger_s)]
        times += [("the gap between the channels", self.order_gap_s)]
        if self.duration_s is not None:
            times.append(("the duration", self.duration_s))
        return times


@attrs.frozen
class _Address:
    scheme: str
    netloc: str
    hostname: str | None
    port: int | None
    path: str
    query: str


def _split(url: str) -> _Address:
    try:
        parts = urlsplit(url)
        return _Address(
            parts.scheme, parts.netloc, parts.hostname, parts.port, parts.path, parts.query
        )
    except ValueError as exc:  # a port that is no number, a broken IPv6 address
        raise SimulatorError(f"the address cannot be read: {exc}") from exc
