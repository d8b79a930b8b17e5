"""The other workers as one of them sees them: who has a bot, the way there, how they are."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import struct
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from trio_bridge.edge.passing import Carrier, HandOverError, Offer, Passage
from trio_bridge.fleet.handover import (
    ASK,
    TAKEN,
    YOURS,
    Prefix,
    encode_passage,
    encode_prefix,
)
from trio_bridge.fleet.places import NOT_TAKING, Places, home_of, place
from trio_bridge.log import Throttle

log = logging.getLogger(__name__)

HAND_OVER_S = 5.0
"""From the visit to the answer. It takes 1 ms; a worker that is just being started anew, while
its visitors queue, takes most of a second."""
ASK_S = 0.5
"""A worker that is well answers in a few ms; probes give up after a second."""
MAX_STATE_BYTES = 64 << 10
SENT_S, MOST_SENT = 0.3, 1024
"""So long a bot may be on its way to its worker before it is counted there; and how many are
remembered, the latest."""


def hatch_path(directory: str, slot: int) -> str:
    return str(Path(directory) / str(slot))


@attrs.frozen
class Visit:
    """Another worker would take a connection, and waits for it."""

    _socket: socket.socket
    _connection: socket.socket

    def commit(self) -> None:
        # Not earlier: a descriptor on its way keeps the connection open, and a worker that
        # hangs would never close it. One byte always fits, the kernel's buffer is empty.
        rights = struct.pack("i", self._connection.fileno())
        try:
            self._socket.sendmsg([YOURS], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except OSError as exc:
            raise HandOverError("the worker is gone") from exc

    def close(self) -> None:
        self._socket.close()


@attrs.define(eq=False)
class Siblings:
    """The workers of one fleet, of which this process is the one in ``slot``.

    Where nobody can know who has which bot, because the directory is gone or full, each bot's
    home has it.
    """

    slot: int
    count: int
    directory: str
    """Where each worker's hatch is."""
    _places: Places
    _held: dict[str, int] = attrs.field(factory=dict, init=False)
    """Bots that are ours, and how often each is held."""
    _linked: set[str] = attrs.field(factory=set, init=False)
    """Those of which the others can know it."""
    _taking: bool = attrs.field(default=False, init=False)
    _sent: OrderedDict[str, tuple[int, float]] = attrs.field(factory=OrderedDict, init=False)
    """Bots that we have placed just now and to which slot, until when: nobody counts them yet,
    and all that come at once would go to the same worker."""
    _on_their_way: Counter[int] = attrs.field(factory=Counter, init=False)
    """How many of those by slot."""
    _lost: Throttle = attrs.field(factory=Throttle, init=False)

    def carrier(self, bot_id: str) -> Carrier | None:
        """The way to the worker that has the bot, or is to begin its meeting; None: it is ours,
        if only to be refused because nobody takes it."""
        if bot_id in self._held:
            return None
        try:
            slot = self._slot_of(bot_id, stay=False)
        except OSError as exc:
            slot = self._home_of(bot_id, exc)
        return self._way_to(slot)

    def claim(self, bot_id: str, *, stay: bool) -> Carrier | None:
        """The same, and if it is ours nobody else takes it until `release` has been called as
        often. With ``stay`` it is ours if nobody has it: it was sent here, and if each looked
        anew where it should be it might be sent to and fro."""
        if bot_id not in self._held:
            try:
                slot = self._slot_of(bot_id, stay=stay)
                if slot == self.slot:
                    slot = self._places.claim(bot_id, slot)
                    self._linked.add(bot_id)
            except OSError as exc:
                slot = self._home_of(bot_id, exc)
            if slot != self.slot:
                self._linked.discard(bot_id)
                return self._way_to(slot)
        self._held[bot_id] = self._held.get(bot_id, 0) + 1
        self.tell(self._taking)
        return None

    def release(self, bot_id: str) -> None:
        """One of those who claimed it is done with it."""
        self._held[bot_id] -= 1
        if self._held[bot_id]:
            return
        del self._held[bot_id]
        if bot_id in self._linked:
            self._linked.remove(bot_id)
            self._places.release(bot_id)
        self.tell(self._taking)

    def tell(self, taking: bool) -> None:
        """That we are there, how many bots we have, and whether we begin new meetings."""
        self._taking = taking
        self._places.tell(self.slot, len(self._held) if taking else NOT_TAKING)

    @property
    def taken_elsewhere(self) -> bool:
        """Some other worker begins new meetings."""
        return any(n >= 0 for slot, n in enumerate(self._places.bots) if slot != self.slot)

    def _slot_of(self, bot_id: str, *, stay: bool) -> int:
        slot = self._places.owner(bot_id)
        if slot is None and not stay:
            slot = self._place(bot_id)
        return self.slot if slot is None else slot

    def _place(self, bot_id: str) -> int | None:
        sent, on_their_way, now_s = self._sent, self._on_their_way, time.monotonic()
        while sent and (len(sent) > MOST_SENT or now_s >= next(iter(sent.values()))[1]):
            _, (slot, _) = sent.popitem(last=False)
            on_their_way[slot] -= 1
        bots = self._places.bots
        known = sent.get(bot_id)
        if known is not None and bots[known[0]] != NOT_TAKING:
            return known[0]  # with its other socket
        for slot, number in on_their_way.items():
            bots[slot] += number if bots[slot] != NOT_TAKING else 0
        placed = place(bot_id, bots)
        if placed is not None and known is None:
            sent[bot_id] = placed, now_s + SENT_S
            on_their_way[placed] += 1
        return placed

    def _home_of(self, bot_id: str, fault: OSError) -> int:
        if self._lost.admits(trio.current_time()):
            log.error("nobody can know who has which bot", extra={"reason": str(fault)})
        return home_of(bot_id, self.count)

    def _way_to(self, slot: int) -> Carrier | None:
        return None if slot == self.slot else partial(self._offer, slot)

    async def add_up(self, own: Mapping[str, object]) -> dict[str, object]:
        """``own`` state and the others', asked at once and answered within `ASK_S`, as one.

        Numbers are added, of the lags the worst is taken. ``status`` is ours, or ``degraded``
        when it is ok and another's is not; ``workers`` has each by itself, with ``no answer``
        for one that gave none. There is a ``reason`` when we drain, or nobody who answers takes
        new meetings.
        """
        states: dict[int, Mapping[str, object]] = {self.slot: own}

        async def ask(slot: int) -> None:
            states[slot] = await self._ask(slot)

        async with trio.open_nursery() as nursery:
            for slot in range(self.count):
                if slot != self.slot:
                    nursery.start_soon(ask, slot)
        return add_states(own, states)

    async def _offer(self, slot: int, connection: socket.socket, passage: Passage) -> Offer:
        data = encode_passage(passage)
        with contextlib.ExitStack() as undo:
            raw = undo.enter_context(_unix_socket())
            try:
                with trio.fail_after(HAND_OVER_S):
                    visit = trio.socket.from_stdlib_socket(raw)
                    await visit.connect(hatch_path(self.directory, slot))
                    await _send_all(visit, data)
                    answer = await visit.recv(1)
            except (OSError, trio.TooSlowError) as exc:
                raise HandOverError(f"worker {slot} does not answer: {exc!r}") from exc
            if answer != TAKEN:
                raise HandOverError(f"worker {slot} is full, or about to end")
            undo.pop_all()
        return Visit(raw, connection)

    async def _ask(self, slot: int) -> Mapping[str, object]:
        data = b""
        with _unix_socket() as raw:
            try:
                with trio.fail_after(ASK_S):
                    visit = trio.socket.from_stdlib_socket(raw)
                    await visit.connect(hatch_path(self.directory, slot))
                    await _send_all(visit, encode_prefix(Prefix(ASK)))
                    while len(data) < MAX_STATE_BYTES and (more := await visit.recv(4096)):
                        data += more
                state: Any = json.loads(data)
            except (OSError, ValueError, trio.TooSlowError):
                state = None
        return state if isinstance(state, dict) else {"status": "no answer"}


def add_states(
    own: Mapping[str, object], states: Mapping[int, Mapping[str, object]]
) -> dict[str, object]:
    """One state of the states of all slots; see `Siblings.add_up`."""
    total = dict(own)
    for name, value in own.items():
        if isinstance(value, int | float):
            told = [state.get(name) for state in states.values()]
            numbers = [number for number in told if isinstance(number, int | float)]
            total[name] = max(numbers) if name.endswith("_ms") else sum(numbers)
    answered = [state for state in states.values() if "meetings" in state]
    if own.get("reason") != "draining" and not all("reason" in state for state in answered):
        total.pop("reason", None)
    if own["status"] == "ok" and any(s.get("status") != "ok" for s in states.values()):
        total["status"] = "degraded"
    total["workers"] = [{"slot": slot, **states[slot]} for slot in sorted(states)]
    return total


def _unix_socket() -> socket.socket:
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    raw.setblocking(False)
    return raw


async def _send_all(visit: trio.socket.SocketType, data: bytes) -> None:
    while data:
        data = data[await visit.send(data) :]
