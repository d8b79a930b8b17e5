"""The bots, sockets and agent around the sessions of the `session` target, and their judge.

A socket is an object, so that a run takes milliseconds; all behind it is the real thing.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import attrs
import numpy as np
import trio

from trio_bridge.channel import serve_channel
from trio_bridge.config import Settings
from trio_bridge.edge.follower import Follower
from trio_bridge.edge.frames import OnAudio, OnText
from trio_bridge.edge.socket import Socket
from trio_bridge.errors import SessionEndedError, SocketClosedError
from trio_bridge.log import Throttle
from trio_bridge.meeting import Meeting
from trio_bridge.registry import Registry
from trio_bridge.routes import Route
from trio_bridge.session import Session

RATE_HZ = 48_000
BOTS = ("bot-0", "bot-1")
WIRE_CODES = {1000, 1001, 1003, 1008, 1011}
SETTINGS = Settings(
    bot_name=("My Agent",), bad_frames=4, grace_s=5.0, wrap_up_s=0.5, audio_backlog_ms=100,
    speech_backlog_ms=500, hello_s=2.0,
)  # fmt: skip

_HEAD_AND_KEY = bytes(8)


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
    on_audio: OnAudio | None = None
    on_text: OnText | None = None
    follower: Follower | None = None
    follows_bytes: int = 0
    _gone: trio.Event = attrs.field(factory=trio.Event, init=False)
    _inbox: trio.MemorySendChannel[str | bytes] = attrs.field(init=False)
    _outbox: trio.MemoryReceiveChannel[str | bytes] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._inbox, self._outbox = trio.open_memory_channel[str | bytes](1_000)

    def arm(
        self,
        *,
        max_message_bytes: int,
        on_audio: OnAudio | None = None,
        on_text: OnText | None = None,
    ) -> None:
        assert max_message_bytes > 0
        self.on_audio, self.on_text = on_audio, on_text
        self.follower = None

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
            self.on_audio = self.on_text = self.follower = None
            self._inbox.close()
            self._gone.set()

    def say(self, message: str | bytes) -> None:
        """The bot sends ``message``, and the edge has read it."""
        if self.closed is not None:
            return
        if isinstance(message, bytes) and self.on_audio is not None:
            follower, alike = self.follower, len(message) == self.follows_bytes
            self.follower, self.follows_bytes = None, len(message)
            frame = _HEAD_AND_KEY + message  # a key of zeros masks nothing
            if follower and alike and follower.take(frame, trio.current_time()):
                self.follower = follower
            else:
                self.follower = self.on_audio(message)
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
                cast(Socket, wire), route, self.registry, SETTINGS, Throttle(),
                claim=lambda _: None, release=lambda _: None, check_bot=lambda _: None,
            )  # fmt: skip
            assert onward is None
        except SocketClosedError:
            pass  # the edge closes it then, with nothing to say
        wire.hang_up(1000)

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
