"""The other workers as one of them sees them: whose a bot is, the way there, how they are."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import struct
from collections import Counter
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
from trio_bridge.fleet.places import NOT_TAKING, Places, place, slot_of
from trio_bridge.log import Throttle

log = logging.getLogger(__name__)

HAND_OVER_S = 5.0
"""From the visit to the answer. It takes 1 ms; a worker that is just being started anew, while
its visitors queue, takes most of a second."""
ASK_S = 0.5
"""A worker that is well answers in a few ms; probes give up after a second."""
MAX_STATE_BYTES = 64 << 10


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

    Without their places, when the directory is gone or full, each bot is its own worker's.
    """

    slot: int
    count: int
    directory: str
    """Where each worker's hatch is, and the places of all meetings."""
    _places: Places = attrs.field(
        default=attrs.Factory(lambda self: Places(self.directory, self.count), takes_self=True),
        init=False,
    )
    _held: Counter[str] = attrs.field(factory=Counter, init=False)
    """Bots that are ours, and how often."""
    _lost: Throttle = attrs.field(factory=Throttle, init=False)

    def carrier(self, bot_id: str) -> Carrier | None:
        """The way to the worker that has the bot's meeting, or would begin it; None: it is
        ours."""
        if bot_id in self._held:
            return None
        try:
            slot = self._places.owner(bot_id)
        except OSError as exc:
            slot = self._own_slot(bot_id, exc)
        return self._way_to(self._place(bot_id) if slot is None else slot)

    def claim(self, bot_id: str, *, stay: bool) -> Carrier | None:
        """The same, and if it is ours nobody else begins its meeting until `release` has been
        called as often. With ``stay`` it is ours if nobody has it: it was sent here."""
        if bot_id not in self._held:
            try:
                slot = self._places.owner(bot_id)
                if slot is None:
                    slot = self.slot if stay else self._place(bot_id)
                if slot == self.slot:
                    slot = self._places.claim(bot_id, slot)
            except OSError as exc:
                slot = self.slot if stay else self._own_slot(bot_id, exc)
            if slot != self.slot:
                return self._way_to(slot)
        self._held[bot_id] += 1
        return None

    def release(self, bot_id: str) -> None:
        """One of those who claimed it is done with it."""
        self._held[bot_id] -= 1
        if not self._held[bot_id]:
            del self._held[bot_id]
            with contextlib.suppress(OSError):
                self._places.release(bot_id)

    def tell(self, meetings: int | None) -> None:
        """We have so many; None: we begin none for now."""
        self._places.tell(self.slot, NOT_TAKING if meetings is None else meetings)

    def close(self) -> None:
        """The last call."""
        self._places.close()

    def _place(self, bot_id: str) -> int:
        return place(bot_id, self._places.meetings)

    def _own_slot(self, bot_id: str, fault: OSError) -> int:
        if self._lost.admits(trio.current_time()):
            log.error("places of meetings are lost", extra={"reason": str(fault)})
        return slot_of(bot_id, self.count)

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
