"""Two workers in one process, on real sockets: what each step of a hand-over does when the
other side is slow, full, gone or mad."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.core.rooms import listener
from tests.edge.peers import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    Loopback,
    close_payload,
    frame,
    head,
)
from tests.fleet.bots import Bot, bots_of, leave, next_message, sound
from trio_bridge.address import Address
from trio_bridge.admission import LOOKS
from trio_bridge.config import Settings
from trio_bridge.edge.frames import text_frame
from trio_bridge.edge.head import Request
from trio_bridge.edge.passing import Passage
from trio_bridge.fleet import siblings
from trio_bridge.fleet.handover import (
    ASK,
    TAKEN,
    YOURS,
    Prefix,
    encode_passage,
    encode_prefix,
)
from trio_bridge.fleet.hatch import Hatch
from trio_bridge.fleet.places import NOT_TAKING, SLACK, Places, new_memory
from trio_bridge.fleet.siblings import Siblings, hatch_path
from trio_bridge.meeting import Agent, Meeting
from trio_bridge.server import Server
from trio_bridge.tokens import BotToken, mint_token
from trio_bridge.wire.hello import encode_hello

(OURS,), (THEIRS,) = bots_of(0, 1), bots_of(1, 1)
DEADLINE_S = 10.0
PASSAGE = Passage(Request("GET", "/bridge", (), "?"), True, b"")
HELLO_AS_SENT_ON = text_frame(encode_hello(THEIRS), masked=True)
HELLO = frame(TEXT, encode_hello(THEIRS).encode())


async def failing(_: Meeting) -> None:
    raise RuntimeError("an agent that fails")


@attrs.define(eq=False)
class Pair:
    """Worker 0, which has the port, and worker 1, which has only its hatch."""

    first: Server
    second: Server
    net: Loopback
    directory: str
    places: Places
    """What the two know of each other, to look at and to change."""
    nursery: trio.Nursery

    def counts(self) -> tuple[int, int, int]:
        edge = self.first.edge
        return (
            edge.counts["passed on"],
            edge.counts["not taken"],
            self.second.edge.counts["adopted"],
        )

    async def visit(self) -> socket.socket:
        """Knock at worker 1's hatch."""
        raw = socket.socket(socket.AF_UNIX)
        raw.setblocking(False)
        await trio.socket.from_stdlib_socket(raw).connect(hatch_path(self.directory, 1))
        return raw


def open_hatch(directory: str, slot: int) -> trio.SocketListener:
    hatch = socket.socket(socket.AF_UNIX)
    hatch.bind(hatch_path(directory, slot))
    hatch.listen()
    return trio.SocketListener(trio.socket.from_stdlib_socket(hatch))


@asynccontextmanager
async def pair(
    path: Path,
    *,
    second: bool = True,
    clocks_s: tuple[float, float] = (0, 0),
    agent: Agent = listener,
    **more: Any,
) -> AsyncIterator[Pair]:
    """Two workers; with ``second=False`` the second one hangs: its hatch lets nobody in.

    ``clocks_s`` is what they believe the time of day to be.
    """
    directory = str(path)
    settings = Settings(port=0, workers=2, host="127.0.0.1", **more)
    before = len(os.listdir("/proc/self/fd"))
    memory = new_memory(2)
    places = Places(directory, 2, memory)
    os.close(memory)
    places.make()
    both = [Siblings(n, 2, directory, places) for n in (0, 1)]
    first, other = (
        Server(agent, settings, one, wall_clock=partial(float, now_s))
        for one, now_s in zip(both, clocks_s, strict=True)
    )
    hatches = [open_hatch(directory, n) for n in (0, 1)]
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            address: Address = await nursery.start(first.run)
            await nursery.start(other.run)
            nursery.start_soon(Hatch(first).serve, hatches[0])
            if second:
                nursery.start_soon(Hatch(other).serve, hatches[1])
            workers = Pair(first, other, Loopback(address.port), directory, places, nursery)
            yield workers
            for peer in workers.net.peers:
                await trio.aclose_forcefully(peer.stream)
            nursery.cancel_scope.cancel()
    for hatch in hatches:
        await hatch.aclose()
    assert not os.listdir(path / "meetings"), "a meeting is said to be on"
    assert places.bots == [NOT_TAKING] * 2, "a worker that has ended would be sent bots"
    places.close()
    assert len(os.listdir("/proc/self/fd")) == before, "descriptors are left"


def open_hatch_again(directory: str) -> trio.SocketListener:
    """A worker 1 of the test's own."""
    os.unlink(hatch_path(directory, 1))
    return open_hatch(directory, 1)


async def receive_passage(visit: trio.SocketStream) -> None:
    data = b""
    while not data.endswith(HELLO_AS_SENT_ON):
        more = await visit.receive_some(65536)
        assert more
        data += more


@contextmanager
def crowd(server: Server, bots: int) -> Iterator[None]:
    """So many bots more that the worker has."""
    assert isinstance(server.siblings, Siblings)
    ids = [f"crowd {server.siblings.slot} {n}" for n in range(bots)]
    for bot_id in ids:
        assert server.siblings.claim(bot_id, stay=True) is None
    yield
    for bot_id in ids:
        server.siblings.release(bot_id)


async def heard(server: Server, frames: int) -> None:
    """Wait until the only meeting of ``server`` has heard so many frames, and check it."""
    (session,) = server.registry
    while session.inflow.frames < frames:
        await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    assert session.inflow.frames == frames
    assert not session.ledger.faults


@pytest.mark.parametrize("in_path", [True, False])
async def test_what_comes_with_the_first_message_is_heard_whole(
    in_path: bool, tmp_path: Path
) -> None:
    async with pair(tmp_path) as workers:
        audio = await Bot(workers.net, THEIRS, in_path).open("audio", sound(9))
        await heard(workers.second, 9)
        await audio.send(sound(1))
        await heard(workers.second, 10)
        assert workers.counts() == (1, 0, 1)
        assert len(workers.first.registry) == 0
        assert not workers.first.edge.sockets
        assert workers.first.edge.pending == 0
        await leave(audio)


async def test_ones_own_bot_stays(tmp_path: Path) -> None:
    async with pair(tmp_path) as workers:
        for in_path in (True, False):
            await leave(await Bot(workers.net, OURS, in_path).open("control"))
        assert workers.counts() == (0, 0, 0)


async def test_wherever_the_network_cuts_the_bytes_nothing_is_lost_or_doubled(
    tmp_path: Path,
) -> None:
    """Behind the 101: a ping, the first message in two fragments, half a frame, the rest."""
    text = encode_hello(THEIRS).encode()
    opening = [
        frame(PING, b"hi"),
        frame(TEXT, text[:20], fin=False),
        frame(0, text[20:]),
        sound(2),
    ]
    data = b"".join(opening)
    marks = [0, 1, len(opening[0]) - 1, len(opening[0])]
    end_of_hello = len(b"".join(opening[:3]))
    marks += [end_of_hello + n for n in (-30, -1, 0, 1, 2, 7, 8, 100, len(sound(1)), 2000)]
    async with pair(tmp_path) as workers:
        for cut in marks:
            audio = await workers.net.dial()
            await audio.upgrade(head(target=b"/bridge/audio"))
            await audio.send(data[:cut])
            await trio.testing.wait_all_tasks_blocked()
            await audio.send(data[cut:])
            assert await audio.read() == (PONG, b"hi")
            assert (await next_message(audio))["type"] == "ack"
            await heard(workers.second, 2)
            await audio.send(frame(CLOSE, close_payload(1000)))
            assert await audio.close_code() == 1000
            (session,) = workers.second.registry
            session.end()
            await workers.second.registry.empty()
        assert workers.counts() == (len(marks), 0, len(marks))


async def test_a_worker_that_hangs_is_waited_for_a_moment_and_the_bot_told_to_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(siblings, "HAND_OVER_S", 0.05)
    async with pair(tmp_path, second=False) as workers:
        early = await workers.net.dial()
        await early.send(head(target=f"/{THEIRS}/bridge".encode()))
        status, headers, _ = await early.answer()
        assert (status, headers[b"retry-after"]) == (503, b"1")
        late = await workers.net.dial()
        await late.upgrade()
        await late.send(HELLO)
        assert await late.close_code() == 1013
        await late.send(frame(CLOSE, close_payload(1013)))
        assert await late.at_end()
        assert workers.counts() == (0, 2, 0)


async def test_a_worker_that_is_not_there_is_no_failure(tmp_path: Path) -> None:
    async with pair(tmp_path) as workers:
        os.unlink(hatch_path(workers.directory, 1))
        peer = await workers.net.dial()
        await peer.upgrade()
        await peer.send(HELLO)
        assert await peer.close_code() == 1013
        assert workers.counts() == (0, 1, 0)
        assert workers.first.edge.counts["error"] == 0


async def test_a_worker_that_ends_takes_nobody(tmp_path: Path) -> None:
    async with pair(tmp_path) as workers:
        await workers.second.edge.drain()
        peer = await workers.net.dial()
        await peer.upgrade()
        await peer.send(HELLO)
        assert await peer.close_code() == 1013
        assert workers.counts() == (0, 1, 0)


async def test_a_worker_that_has_just_begun_to_drain_refuses_whom_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as workers:
        for bot_id in (OURS, bots_of(1, 2)[1]):  # for whom the two go on
            await Bot(workers.net, bot_id).open("control")
        workers.second.stop(600.0)
        with monkeypatch.context() as patch:  # the first one has not seen it yet
            patch.setattr(siblings, "place", lambda *_: 1)
            early = await Bot(workers.net, THEIRS, in_path=True).knock()
            assert (await early.answer())[0] == 503
            late = await Bot(workers.net, THEIRS).open("control")
        assert await late.read() == (CLOSE, close_payload(1001, b"going away"))
        workers.first.stop(600.0)  # then it is not even tried
        again = await Bot(workers.net, THEIRS, in_path=True).knock()
        assert (await again.answer())[0] == 503
        assert workers.counts() == (3, 0, 3)


async def test_a_bot_that_leaves_while_it_is_handed_over_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Close waits unread behind the hello, and travels with the rest."""
    async with pair(tmp_path) as workers:
        peer = await workers.net.dial()
        await peer.upgrade()
        await peer.send(HELLO, frame(CLOSE, close_payload(1000)))
        assert await peer.close_code() == 1000
        assert workers.counts() == (1, 0, 1)


async def test_what_we_began_to_close_is_not_given_away(
    tmp_path: Path,
) -> None:
    """The hello's deadline strikes, or we drain, while the other worker is still to answer."""
    async with pair(tmp_path, second=False) as workers:
        peer = await workers.net.dial()
        await peer.upgrade()
        await peer.send(HELLO)
        async with open_hatch_again(workers.directory) as stub, await stub.accept() as visit:
            await receive_passage(visit)
            workers.nursery.start_soon(workers.first.edge.drain)
            assert await peer.close_code() == 1001
            await visit.send_all(TAKEN)
            assert await visit.receive_some(1) == b""  # nothing was committed
        assert workers.counts() == (0, 1, 0)


async def test_a_worker_that_dies_with_the_connection_in_its_hands_leaves_it_with_us(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path, second=False) as workers:
        peer = await workers.net.dial()
        await peer.upgrade()
        await peer.send(HELLO)
        async with open_hatch_again(workers.directory) as stub, await stub.accept() as visit:
            await receive_passage(visit)  # and dies
        assert await peer.close_code() == 1013


# -- whose a new meeting is -------------------------------------------------------------------


@pytest.mark.parametrize("in_path", [True, False])
async def test_a_new_bot_goes_to_the_emptier_worker_and_its_other_socket_follows(
    in_path: bool, tmp_path: Path
) -> None:
    async with pair(tmp_path) as workers:
        bot = Bot(workers.net, OURS, in_path)
        with crowd(workers.first, 3):
            audio = await bot.open("audio", sound(9))
        await heard(workers.second, 9)
        assert workers.places.owner(OURS) == 1
        with crowd(workers.second, 100):  # who is in a meeting is not placed again
            control = await bot.open("control")
        assert workers.counts() == (2, 0, 2)
        assert (len(workers.first.registry), len(workers.second.registry)) == (0, 1)
        for peer in (audio, control):
            await leave(peer)
        await workers.second.registry.empty()
        assert workers.places.owner(OURS) is None


async def test_a_socket_is_sent_after_the_other_one_before_anybody_has_the_bot(
    tmp_path: Path,
) -> None:
    """Both come at once; what the first one's worker counts changes meanwhile."""
    async with pair(tmp_path, second=False) as workers:
        with crowd(workers.first, 3):
            early = await Bot(workers.net, OURS).knock()
            assert (await early.answer())[0] == 101
            await trio.testing.wait_all_tasks_blocked()  # it waits for the other one's hatch
        assert workers.first.siblings is not None
        assert workers.first.siblings.carrier(OURS) is not None
        assert workers.first.siblings.carrier(bots_of(0, 2)[1]) is None


async def test_bots_that_all_come_at_once_are_counted_where_they_are_sent(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as workers:
        first = workers.first.siblings
        assert isinstance(first, Siblings)
        with crowd(workers.first, 20):
            away = [first.carrier(bot_id) is not None for bot_id in bots_of(0, 60)]
            assert abs(away.count(True) - 20 - away.count(False)) <= 2 * SLACK
            for n in range(2 * siblings.MOST_SENT):
                first.carrier(f"flood-{n}")
            assert len(first._sent) <= siblings.MOST_SENT + 1


@pytest.mark.parametrize("in_path", [True, False])
async def test_who_was_sent_here_stays_whatever_the_numbers_say_now(
    in_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two workers that change their minds could send it to and fro."""
    async with pair(tmp_path) as workers:
        adopted = workers.second.edge.counts
        monkeypatch.setattr(siblings, "place", lambda *_: 0 if adopted["adopted"] else 1)
        await leave(await Bot(workers.net, OURS, in_path).open("control"))
        assert workers.counts() == (1, 0, 1)
        assert workers.second.served == 1


async def test_of_two_workers_that_would_both_begin_a_meeting_one_does(tmp_path: Path) -> None:
    """Its sockets came at once, each to a worker that had the fewest meetings as it looked."""
    async with pair(tmp_path) as workers:
        places = workers.places
        control = await workers.net.dial()
        await control.upgrade(head(target=f"/{OURS}/bridge".encode()))  # it is ours so far
        assert places.claim(OURS, 1) == 1
        await control.send(frame(TEXT, encode_hello(OURS).encode()))
        assert (await next_message(control))["command"] == "ack"
        assert workers.counts() == (1, 0, 1)
        assert (len(workers.first.registry), len(workers.second.registry)) == (0, 1)
        await leave(control)


async def test_a_full_or_a_draining_worker_is_sent_nobody_new(tmp_path: Path) -> None:
    async with pair(tmp_path, max_sessions=1) as workers:
        places = workers.places
        ours = await Bot(workers.net, OURS).open("control")
        assert places.bots == [NOT_TAKING, 0]
        another = await Bot(workers.net, bots_of(0, 2)[1]).open("control")
        assert workers.counts() == (1, 0, 1)
        assert places.bots == [NOT_TAKING, NOT_TAKING]
        await leave(ours)
        (session,) = workers.first.registry
        session.end()
        await workers.first.registry.empty()
        assert places.bots == [0, NOT_TAKING]
        workers.first.stop(10.0)
        assert places.bots == [NOT_TAKING, NOT_TAKING]
        await leave(another)


@pytest.mark.parametrize("in_path", [True, False])
async def test_a_worker_that_drains_alone_sends_new_bots_to_the_others_and_keeps_its_own(
    in_path: bool, tmp_path: Path
) -> None:
    async with pair(tmp_path) as workers:
        ours, other = (Bot(workers.net, bot_id, in_path) for bot_id in bots_of(0, 2))
        control = await ours.open("control")
        workers.first.stop(600.0)
        new = await other.open("control")
        audio = await ours.open("audio", sound(3))
        await heard(workers.first, 3)
        assert (len(workers.first.registry), len(workers.second.registry)) == (1, 1)
        workers.second.stop(600.0)
        for bot in (ours, Bot(workers.net, bots_of(0, 3)[2], in_path)):
            refused = await bot.knock()
            assert (await refused.answer())[0] == 503
        for peer in (control, audio, new):
            await leave(peer)


async def test_an_overloaded_worker_is_sent_nobody_new_until_it_has_caught_up(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as workers:
        places = workers.places
        lag = workers.first.admission.lag
        ours = await Bot(workers.net, OURS).open("control")
        for late_ms, said in ((10_000.0, NOT_TAKING), (0.0, 1)):
            lag._looks.extend([late_ms] * LOOKS)
            while places.bots[0] != said:
                await trio.lowlevel.checkpoint()
        await leave(ours)


async def test_a_bot_whose_agent_failed_is_refused_where_it_was_until_it_may_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_bridge.server.FAILURE_PAUSE_S", 0.3)
    async with pair(tmp_path, agent=failing) as workers:
        places = workers.places
        bot = Bot(workers.net, OURS)
        with crowd(workers.first, 3):
            first = await bot.open("control")
        assert await first.close_code() == 1011
        await workers.second.registry.empty()
        assert places.bots == [0, 1], "a worker whose agents fail must not seem the emptiest"
        with crowd(workers.second, 3):
            again = await bot.open("audio")
        assert await again.close_code() == 1011
        assert (workers.first.served, workers.second.served) == (0, 1)
        with trio.fail_after(DEADLINE_S):
            while places.owner(OURS) is not None:
                await trio.lowlevel.checkpoint()


async def test_without_the_places_each_bot_is_its_own_workers_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with pair(tmp_path) as workers:
        links = tmp_path / "meetings"
        links.rename(tmp_path / "gone")
        for in_path in (True, False):
            for bot_id in (OURS, THEIRS):
                await leave(await Bot(workers.net, bot_id, in_path).open("control"))
        assert (workers.first.served, workers.second.served) == (1, 1)
        assert workers.counts() == (2, 0, 2)
        assert "nobody can know who has which bot" in caplog.text
        (tmp_path / "gone").rename(links)


# -- visitors of the hatch -------------------------------------------------------------------


@pytest.mark.parametrize("word", [b"", b"?", YOURS], ids=["nothing", "another", "alone"])
async def test_a_visitor_that_gives_nothing_after_all_is_shown_out(
    word: bytes, tmp_path: Path
) -> None:
    async with pair(tmp_path) as workers:
        with await workers.visit() as raw:
            visit = trio.socket.from_stdlib_socket(raw)
            await visit.send(encode_passage(PASSAGE))
            assert await visit.recv(1) == TAKEN
            await visit.send(word)
            visit.shutdown(socket.SHUT_WR)
            assert await visit.recv(1) == b""
        assert workers.second.edge.counts["adopted"] == 0


async def test_connections_beside_a_wrong_word_are_closed(tmp_path: Path) -> None:
    async with pair(tmp_path) as workers:
        ours, theirs = socket.socketpair()
        with ours, theirs, await workers.visit() as raw:
            visit = trio.socket.from_stdlib_socket(raw)
            await visit.send(encode_passage(PASSAGE))
            assert await visit.recv(1) == TAKEN
            two = struct.pack("ii", theirs.fileno(), theirs.fileno())
            raw.sendmsg([YOURS], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, two)])
            theirs.close()
            assert await visit.recv(1) == b""
            assert ours.recv(1) == b""  # both copies are gone


async def test_a_full_worker_says_so(tmp_path: Path) -> None:
    async with pair(tmp_path) as workers:
        places = [workers.second.edge._lobby.enter(str(n)) for n in range(512)]
        peer = await workers.net.dial()
        await peer.upgrade()
        await peer.send(HELLO)
        assert await peer.close_code() == 1013
        assert workers.counts() == (0, 1, 0)
        for leave_place in places:
            assert leave_place is not None
            leave_place()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        encode_prefix(Prefix(b"tbH9")),
        encode_prefix(Prefix(b"tbH1", 1 << 31, 0)),
        encode_prefix(Prefix(b"tbH1", 2, 0)) + b"{}",
        encode_prefix(Prefix(b"tbH1", 4, 4)) + b"null",
        encode_passage(PASSAGE)[:-1],
    ],
    ids=["nothing", "http", "purpose", "too much", "not a head", "null", "early end"],
)
async def test_a_mad_visitor_is_shown_out_and_the_hatch_stays_open(
    said: bytes, tmp_path: Path
) -> None:
    async with pair(tmp_path) as workers:
        with await workers.visit() as raw:
            visit = trio.socket.from_stdlib_socket(raw)
            await visit.send(said)
            visit.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):  # it left something unread
                assert await visit.recv(10) == b""
        await leave(await Bot(workers.net, THEIRS).open("control"))


async def test_a_silent_visitor_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_bridge.fleet.hatch.HAND_OVER_S", 0.05)
    async with pair(tmp_path) as workers:
        with await workers.visit() as raw:
            assert await trio.socket.from_stdlib_socket(raw).recv(10) == b""


async def test_every_worker_answers_for_the_whole_fleet(tmp_path: Path) -> None:
    async with pair(tmp_path) as workers:
        for bot_id in (OURS, THEIRS):
            await Bot(workers.net, bot_id).open("control")
        for server in (workers.first, workers.second):
            assert server.siblings is not None
            total = await server.siblings.add_up(server.state())
            assert (total["status"], total["meetings"], total["meetings_begun"]) == ("ok", 2, 2)


async def test_a_worker_that_answers_with_nonsense_gave_no_answer(tmp_path: Path) -> None:
    async def answer(stub: trio.SocketListener, said: bytes) -> None:
        async with await stub.accept() as visit:
            assert await visit.receive_some(100) == encode_prefix(Prefix(ASK))
            await visit.send_all(said)

    async with pair(tmp_path, second=False) as workers, open_hatch_again(str(tmp_path)) as stub:
        for said in (b"", b"[]", b"{", b"\xff"):
            workers.nursery.start_soon(answer, stub, said)
            assert workers.first.siblings is not None
            total = await workers.first.siblings.add_up(workers.first.state())
            assert total["status"] == "degraded"
            assert total["workers"] == [
                {"slot": 0, **workers.first.state()},
                {"slot": 1, "status": "no answer"},
            ]


# -- tokens of one bot -----------------------------------------------------------------------

KEY = "k" * 32
UNTIL_S = 1_000


@pytest.mark.parametrize("in_path", [True, False])
async def test_a_token_of_one_bot_is_good_wherever_its_bot_is_served(
    in_path: bool, tmp_path: Path
) -> None:
    async with pair(tmp_path, token_key=KEY) as workers:
        for bot_id, server in ((OURS, workers.first), (THEIRS, workers.second)):
            token = mint_token(KEY, BotToken(bot_id, UNTIL_S))
            audio = await Bot(workers.net, bot_id, in_path, token).open("audio", sound(9))
            await heard(server, 9)
            await leave(audio)
        assert workers.counts() == (1, 0, 1)


@pytest.mark.parametrize(("bot_id", "token_of"), [(OURS, THEIRS), (THEIRS, OURS)])
async def test_a_token_of_another_bot_is_refused_where_it_is_shown(
    bot_id: str, token_of: str, tmp_path: Path
) -> None:
    token = mint_token(KEY, BotToken(token_of, UNTIL_S))
    async with pair(tmp_path, token_key=KEY) as workers:
        late = await Bot(workers.net, bot_id, False, token).knock()
        assert (await late.answer())[0] == 101  # whose it is, nobody has said
        assert await late.close_code() == 1008
        early = await Bot(workers.net, bot_id, True, token).knock()
        assert (await early.answer())[0] == 401
        assert workers.counts() == (0, 0, 0)
        assert workers.first.served == workers.second.served == 0


async def test_a_token_that_expires_on_its_way_is_judged_where_the_101_comes_from(
    tmp_path: Path,
) -> None:
    token = mint_token(KEY, BotToken(THEIRS, UNTIL_S))
    clocks_s = (UNTIL_S - 0.1, UNTIL_S + 0.1)
    async with pair(tmp_path, token_key=KEY, clocks_s=clocks_s) as workers:
        refused = await Bot(workers.net, THEIRS, True, token).knock()
        assert (await refused.answer())[0] == 401
        assert workers.second.served == 0
        control = await Bot(workers.net, THEIRS, False, token).open("control")
        assert workers.second.served == 1
        assert workers.counts() == (2, 0, 2)
        await leave(control)
