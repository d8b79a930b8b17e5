"""Who gets in with what, through the whole server; and what a refusal says, and to whom."""

from __future__ import annotations

import logging

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.core.rooms import BOT, Room, bridge, listener
from tests.edge.peers import TEXT, Peer, frame, head
from trio_bridge.door import Door
from trio_bridge.meeting import Meeting
from trio_bridge.tokens import BotToken, mint_token
from trio_bridge.wire.hello import encode_hello

pytestmark = pytest.mark.usefixtures("autojump_clock")

KEY = "k" * 32
UNTIL_S = 1_700_000_000
TOKEN = mint_token(KEY, BotToken(BOT, UNTIL_S))
PLACES = ["path", "id before it", "id behind it", "query", "bearer"]


@attrs.define
class Clock:
    """A wall clock that shows what it is told to."""

    now_s: float = UNTIL_S - 60.0

    def __call__(self) -> float:
        return self.now_s


async def never_called(meeting: Meeting) -> None:
    raise AssertionError


async def knock(room: Room, target: str, *lines: str) -> Peer:
    peer = Peer(await room.door.open_stream())
    await peer.send(head(*(line.encode() for line in lines), target=target.encode()))
    return peer


async def show(room: Room, token: str, place: str, *, bot_id: str = BOT) -> Peer:
    """Ask for an upgrade and show ``token`` in one of `PLACES`."""
    match place:
        case "path":
            return await knock(room, f"/t/{token}/bridge")
        case "id before it":
            return await knock(room, f"/{bot_id}/t/{token}/bridge/audio")
        case "id behind it":
            return await knock(room, f"/t/{token}/{bot_id}/bridge")
        case "query":
            return await knock(room, f"/bridge/audio?token={token}")
    return await knock(room, "/bridge", f"Authorization: Bearer {token}")


async def say_hello(peer: Peer, bot_id: str = BOT) -> tuple[int, bytes]:
    """Upgrade and introduce ourselves; what the server says first."""
    assert (await peer.answer())[0] == 101
    await peer.send(frame(TEXT, encode_hello(bot_id).encode()))
    return await peer.read()


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    events = ("request refused", "channel refused")
    return [vars(r)["reason"] for r in caplog.records if r.getMessage() in events]


def reports(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What the operator is told of genuine tokens: why, and whose."""
    records = [vars(r) for r in caplog.records if r.getMessage() == "token refused"]
    assert all(record["levelname"] == "WARNING" for record in records)
    return [(record["reason"], record["of_bot"]) for record in records]


@pytest.mark.parametrize("place", PLACES)
async def test_a_token_of_one_bot_lets_it_in_wherever_it_is_shown(place: str) -> None:
    clock = Clock(UNTIL_S - 0.001)
    async with bridge(listener, wall_clock=clock, token_key=KEY) as room:
        opcode, payload = await say_hello(await show(room, TOKEN, place))
        assert (opcode, b"ack" in payload) == (TEXT, True)
        assert room.session.bot_id == BOT


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (TOKEN, "the token has expired"),
        (mint_token("o" * 32, BotToken(BOT, UNTIL_S + 9)), "a token is needed"),
        (TOKEN[:-1] + ("A" if TOKEN[-1] != "A" else "B"), "a token is needed"),
        (KEY, "a token is needed"),
        ("v1...", "a token is needed"),
    ],
)
async def test_a_token_that_is_no_good_is_401_and_costs_no_session_and_no_agent(
    place: str, token: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    clock = Clock(UNTIL_S)  # on the dot
    async with bridge(never_called, wall_clock=clock, token_key=KEY) as room:
        peer = await show(room, token, place)
        status, headers, body = await peer.answer()
        assert (status, headers[b"www-authenticate"]) == (401, b"Bearer")
        assert body.decode() == f"{reason}\n"
        assert await peer.at_end()
        await wait_all_tasks_blocked()
        assert room.server.served == 0
        assert not room.server.edge.sockets
        if reason == "the token has expired":
            await (await show(room, token, place)).answer()  # the second one in a second
    assert refusals(caplog) == [reason]
    assert reports(caplog) == ([(reason, BOT)] if "expired" in reason else [])
    assert token not in caplog.text


@pytest.mark.parametrize("place", ["id before it", "id behind it"])
async def test_a_token_of_another_bot_is_401_where_the_path_has_the_id(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with bridge(never_called, wall_clock=Clock(), token_key=KEY) as room:
        peer = await show(room, TOKEN, place, bot_id="bot-2")
        assert (await peer.answer())[0] == 401
        assert room.server.served == 0
    assert refusals(caplog) == ["the token is another bot's"]
    assert reports(caplog) == [("the token is another bot's", BOT)]


@pytest.mark.parametrize("place", ["path", "query", "bearer"])
async def test_a_token_of_another_bot_is_1008_where_only_the_hello_has_the_id(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with bridge(never_called, wall_clock=Clock(), token_key=KEY) as room:
        peer = await show(room, TOKEN, place)
        opcode, payload = await say_hello(peer, "bot-2")
        assert (opcode, payload) == (8, b"\x03\xf0the token is another bot's")
        assert room.server.served == 0
    assert refusals(caplog) == ["the token is another bot's"]


async def test_a_meeting_outlives_its_token_but_a_new_socket_needs_a_new_one() -> None:
    clock = Clock()
    async with bridge(listener, wall_clock=clock, token_key=KEY) as room:
        control, audio = await show(room, TOKEN, "path"), await show(room, TOKEN, "query")
        for peer in (audio, control):
            assert (await say_hello(peer))[0] == TEXT
        clock.now_s = UNTIL_S + 3_600
        await trio.sleep(19)  # before a ping
        await control.send(frame(TEXT, b'{"type": "ready", "bot_id": "bot-1"}'))
        await wait_all_tasks_blocked()
        assert len(room.server.edge.sockets) == 2
        assert room.session.ignored == 1  # it was heard
        assert (await (await show(room, TOKEN, "path")).answer())[0] == 401
        fresh = mint_token(KEY, BotToken(BOT, UNTIL_S + 3_601))
        assert (await say_hello(await show(room, fresh, "path")))[0] == TEXT
        assert room.server.served == 1


async def test_a_token_that_expires_between_the_101_and_the_hello_is_still_good() -> None:
    clock = Clock()
    async with bridge(listener, wall_clock=clock, token_key=KEY) as room:
        peer = await show(room, TOKEN, "query")
        assert (await peer.answer())[0] == 101
        clock.now_s = UNTIL_S
        await peer.send(frame(TEXT, encode_hello(BOT).encode()))
        assert (await peer.read())[0] == TEXT


async def test_a_plain_token_beside_the_key_is_good_for_every_bot() -> None:
    async with bridge(listener, wall_clock=Clock(), token=("plain",), token_key=KEY) as room:
        for token, bot_id in (("plain", "bot-2"), ("plain", BOT), (TOKEN, BOT)):
            assert (await say_hello(await show(room, token, "path"), bot_id))[0] == TEXT
        assert (await (await show(room, "other", "path")).answer())[0] == 401
        assert (await (await knock(room, "/bridge")).answer())[0] == 401


async def test_without_the_key_a_bots_token_opens_nothing() -> None:
    async with bridge(never_called, wall_clock=Clock(), token=("plain",)) as room:
        assert (await (await show(room, TOKEN, "path")).answer())[0] == 401


async def test_without_tokens_and_key_whatever_is_shown_is_let_in() -> None:
    async with bridge(listener, wall_clock=Clock(UNTIL_S)) as room:
        assert (await say_hello(await show(room, TOKEN, "path"), "bot-2"))[0] == TEXT


def test_a_door_shows_no_secret() -> None:
    assert KEY not in repr(Door(("plain-one",), KEY))
    assert "plain-one" not in repr(Door(("plain-one",), KEY))
