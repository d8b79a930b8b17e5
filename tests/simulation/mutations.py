"""Bugs made on purpose: each is a line of the product that says something else.

They are what the traps in the design and the faults of other bridges look like. A simulation
that does not notice one of them would not notice its like.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import pytest
import trio

from trio_bridge.attendance import Attendance
from trio_bridge.audio.speakers import OwnVoice
from trio_bridge.audio.timeline import Timeline
from trio_bridge.clock import Clock
from trio_bridge.ears import Audience, Ear
from trio_bridge.edge.gate import Gate
from trio_bridge.edge.listener import Edge
from trio_bridge.edge.socket import Socket
from trio_bridge.inbox import Inbox
from trio_bridge.intake import Intake
from trio_bridge.lanes import Lane
from trio_bridge.meeting import Meeting, Turn
from trio_bridge.pacing import Playout
from trio_bridge.pump import Pump
from trio_bridge.registry import Registry
from trio_bridge.server import Server
from trio_bridge.session import Session


@attrs.frozen
class Edit:
    """In the source of ``owner.name`` write ``new`` for ``old``."""

    owner: type
    name: str
    old: str
    new: str


@attrs.frozen
class Mutation:
    """A bug, and a part of what the simulation says when it finds it."""

    bug: str
    says: str
    """A regular expression."""
    edits: tuple[Edit, ...]


def _mutation(bug: str, says: str, *edits: tuple[type, str, str, str]) -> Mutation:
    return Mutation(bug, says, tuple(Edit(*edit) for edit in edits))


MUTATIONS = (
    _mutation(
        "an interrupt cancels the writer in mid-frame",
        "ended; nothing was done to it|words|interrupts",
        (
            Pump,
            "_send",
            "with trio.CancelScope(shield=True):",
            "writing[0] = trio.CancelScope()\n        with writing[0]:",
        ),
        (
            Pump,
            "interrupt",
            "self.interrupts += 1",
            "self.interrupts += 1; writing[0].cancel()",
        ),
    ),
    _mutation(
        "and the gate does not know that half a frame is out",
        "wrote no frame|masked a frame|no documented command|UTF-8|ended; nothing|words|interr",
        (
            Pump,
            "_send",
            "with trio.CancelScope(shield=True):",
            "writing[0] = trio.CancelScope()\n        with writing[0]:",
        ),
        (
            Pump,
            "interrupt",
            "self.interrupts += 1",
            "self.interrupts += 1; writing[0].cancel()",
        ),
        (Gate, "_write_slices", "self.torn = True", "self.torn = False"),
    ),
    _mutation(
        "a stale socket's end detaches the new one from the writer",
        "was told .* of .* (words|interrupts)|were sent",
        (Pump, "detach", "if self._socket is socket:", "if True:"),
    ),
    _mutation(
        "a stale socket's end is the end of the new one",
        "and no meeting is on|too short|are there|is there since|channel did not leave"
        "|were sent|in another meeting|closed with|bad messages",
        (Attendance, "leave", "if not self.holds(link):", "if False:"),
        (Attendance, "leave", "del self._links[link.kind]", "self._links.pop(link.kind, None)"),
        (Session, "_forget", "if not self._attendance.holds(link):", "if False:"),
    ),
    _mutation(
        "a replaced socket is not told to go",
        "and is open|remain|was closed with 1000 ''",
        (Attendance, "join", "if older is not None:", "if False:"),
    ),
    _mutation(
        "what an interrupt flushes is not counted",
        "said = sent",
        (Playout, "flush", "self.flushed += flushed", "pass"),
    ),
    _mutation(
        "an interrupt does not flush",
        "of epoch",
        (Playout, "flush", "self._spool.clear()", "pass"),
        (Playout, "flush", "flushed, self.queued = self.queued, 0", "flushed = 0"),
    ),
    _mutation(
        "the bot is not told of an interrupt",
        "of . interrupts",
        (Pump, "_send_clear", "if await self._send(", "if True or await self._send("),
    ),
    _mutation(
        "speech of an interrupted turn is still queued",
        "of epoch",
        (Turn, "_say", "if self.interrupted:", "if False:"),
        (Pump, "say", "and epoch == self.interrupts", ""),
    ),
    _mutation(
        "speech that waits for room outlives an interrupt",
        "of epoch",
        (Pump, "say", "and epoch == self.interrupts", ""),
    ),
    _mutation(
        "a chunk that was on its way when an interrupt came is sent again",
        "of epoch|after",
        (Pump, "_send_speech", "and epoch == self.interrupts", ""),
    ),
    _mutation(
        "a chunk that could not be sent is lost",
        "were sent",
        (Pump, "_send_speech", "self.playout.put_back(chunk)", "pass"),
    ),
    _mutation(
        "a command that could not be sent is lost",
        "was not told|was told .* words",
        (Pump, "run", "self._commands.put_back(command)", "pass"),
    ),
    _mutation(
        "a connection is never closed",
        "is open|never closed",
        (Gate, "aclose", "await self.inner.aclose()", "pass"),
        (Edge, "_guard", "await trio.aclose_forcefully(stream)", "pass"),
    ),
    _mutation(
        "the grace never ends",
        "and it goes on",
        (Session, "_time_has_passed", "and now_s >= grace_ends_s", "and False"),
    ),
    _mutation(
        "the grace ends too early",
        "too short|and no meeting is on|closed with",
        (Attendance, "leave", "now_s + self.grace_s", "now_s + self.grace_s / 2"),
    ),
    _mutation(
        "the clock forgets whom it was asked for last",
        "and it goes on",
        (Clock, "at", "if first:", "if False:"),
    ),
    _mutation(
        "each channel begins a meeting of its own, with a second agent",
        "second session|no ack|closed with",
        (Registry, "join", "if session is None or session.over:", "if True:"),
    ),
    _mutation(
        "a bot joins any meeting",
        "bot-",
        (
            Registry,
            "join",
            "self._sessions.get(bot_id)",
            "next(iter(self._sessions.values()), None)",
        ),
    ),
    _mutation(
        "a meeting that is over stays in the registry",
        "nobody is there",
        (Registry, "_run", "del self._sessions[session.bot_id]", "pass"),
    ),
    _mutation(
        "the ledger forgets what a slow agent lost",
        "offered = delivered",
        (Lane, "put_nowait", "self.dropped += lost", "pass"),
    ),
    _mutation(
        "silence that was filled in is not counted",
        "placed . filled|heard .* samples",
        (Timeline, "_fill", "self._filled += length", "pass"),
    ),
    _mutation(
        "audio that nobody listens to is booked twice",
        "offered = delivered|is longer|negative|waits",
        (Audience, "hear", "self._heard += len(piece.samples)", "self._heard += 0"),
        (Audience, "leave", "self._past.update", "self._past.subtract"),
    ),
    _mutation(
        "our own voice is not left out",
        "own voice",
        (OwnVoice, "__contains__", "or _fold(speaker.name) in self.names", ""),
    ),
    _mutation(
        "a message typed once is told twice",
        "told something twice",
        (Inbox, "accept", "or message_id in self._seen_ids", ""),
    ),
    _mutation(
        "half a transcript is told",
        "was told 'bot-",
        (Inbox, "accept", "or not said.is_final", ""),
    ),
    _mutation(
        "what is told to an agent that has just begun to wait is not heard",
        "was not told|wait for it",
        (Ear, "__anext__", "and inner.notes.queued:", "and inner.notes.queued > 4096:"),
    ),
    _mutation(
        "one bad frame ends its socket",
        "channel failed|audio callback failed|socket task failed|closed with 1011",
        (Session, "_on_audio", "except FrameError as error:", "except ZeroDivisionError:"),
        (
            Session,
            "_on_audio",
            "self._reject(link, message, error, self.inflow.intake.rejected_in_a_row)",
            "pass",
        ),
    ),
    _mutation(
        "a bad message is not counted",
        "bad messages",
        (Intake, "take", "self.rejected[exc.reason] += 1", "pass"),
    ),
    _mutation(
        "a drain says nothing",
        "was told no Close",
        (Socket, "close", "if ws.closed is None and self._said is None:", "if False:"),
    ),
    _mutation(
        "a drain takes new meetings",
        "while the server drains",
        (Server, "_make_session", "if reason is not None:", "if False:"),
        (Server, "_admit", "if self.draining and alone:", "if False:"),
    ),
    _mutation(
        "a failing agent takes the meeting's nursery with it",
        "log says|ended with|out of the server|nobody stopped",
        (Session, "_run_agent", "except* BaseException", "except* ZeroDivisionError"),
    ),
    _mutation(
        "an agent that shields what it says is not told that its meeting is over",
        "would not stop|nothing goes on",
        (Session, "_live", "self.pump.stop()  #", "#"),
    ),
    _mutation(
        "a turn holds on to what it has said when it is interrupted",
        "were heard|negative",
        (Meeting, "interrupt", "self._turn.freeze()", "pass"),
        (
            Turn,
            "_figures",
            "max(0, sent - playout.unplayed",
            "(sent - 9999999 - playout.unplayed",
        ),
    ),
)


def mutated(edit: Edit, namespace: dict[str, Any]) -> Any:
    """The function (or property) ``edit`` makes of the product's.

    Raises:
        LookupError: the product has changed, and this bug must be made otherwise.
    """
    original = inspect.getattr_static(edit.owner, edit.name)
    function: Any = original.fget if isinstance(original, property) else original
    source = namespace.get(f"source of {edit.owner.__name__}.{edit.name}")
    if source is None:
        source = textwrap.dedent(inspect.getsource(function))
    if edit.old not in source:
        raise LookupError(f"{edit.owner.__name__}.{edit.name} has no {edit.old!r} any more")
    source = source.replace(edit.old, edit.new)
    namespace[f"source of {edit.owner.__name__}.{edit.name}"] = source
    names = {**inspect.getmodule(edit.owner).__dict__, "writing": namespace["writing"]}
    exec(source, names)
    return names[edit.name]


@contextmanager
def bug(mutation: Mutation) -> Iterator[None]:
    """The product with this bug in it."""
    namespace: dict[str, Any] = {"writing": [trio.CancelScope()]}
    with pytest.MonkeyPatch.context() as patch:
        for edit in mutation.edits:
            patch.setattr(edit.owner, edit.name, mutated(edit, namespace))
        yield
