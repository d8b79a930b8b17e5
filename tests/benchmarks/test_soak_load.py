"""The soak's loop: what it read late itself is not the server's doing, and nothing else is."""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import attrs
import pytest

from benchmarks import soak_bot, soak_load
from benchmarks.playback import RATE_HZ
from benchmarks.soak_load import SoakLoad
from benchmarks.wsclient import LinkError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

CHUNK = json.dumps(
    {"command": "sendaudio", "audiochunk": base64.b64encode(bytes(RATE_HZ // 5)).decode()}
).encode()
"""0.1 s."""
CONNECT_S = 0.005


@attrs.define
class World:
    """A clock that only the test moves, and a server that says what the test makes it say."""

    now_s: float = 100.0
    connect_s: float = CONNECT_S
    links: list[FakeLink] = attrs.field(factory=list)
    on_open: Callable[[FakeLink], object] = lambda _: None

    def monotonic(self) -> float:
        self.now_s += 1e-5
        return self.now_s

    def connect(self, *arguments: object) -> FakeLink:
        link = FakeLink(self, *arguments)
        self.now_s += self.connect_s
        self.links.append(link)
        self.on_open(link)
        return link


class FakeLink:
    """A `Link` to nobody: readable when something was said, and ended once it said Close."""

    def __init__(self, world: World, *arguments: object) -> None:
        _, self.path, _, _, self.on_message = arguments
        self.socket, self._server = socket.socketpair()
        self._said: deque[bytes] = deque()
        self._ended = False
        self.waiting = 0

    def says(self, message: bytes) -> None:
        self._said.append(message)
        self._server.send(b"x")

    def drain(self) -> None:
        self.socket.recv(1)
        if self._ended:
            raise LinkError("the server closed")
        assert callable(self.on_message)
        self.on_message(self._said.popleft())

    def flush(self) -> None:
        pass

    def send(self, frame: bytes) -> None:
        pass

    def close(self) -> None:
        self.socket.close()
        self._server.close()

    def say_close(self, code: int) -> None:
        self._ended = True
        self._server.send(b"x")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World()
    clock = SimpleNamespace(monotonic=world.monotonic)
    monkeypatch.setattr(soak_load, "time", clock)
    monkeypatch.setattr(soak_bot, "time", clock)
    monkeypatch.setattr(soak_bot, "Link", world.connect)
    monkeypatch.setattr(soak_load, "waited_ns", lambda _: 0)
    yield world
    for link in world.links:
        link.close()


def a_load(bots: int = 1) -> SoakLoad:
    return SoakLoad(os.getpid(), 0, bots, 1, 1e9)


def talking(world: World, load: SoakLoad) -> FakeLink:
    """One bot with both its sockets, whose queue holds 0.3 s from now on."""
    (bot,) = load.bots
    for kind in soak_load.BOTH:
        load._watch(bot, bot.open(kind))
    (control,) = (link for link in world.links if link.path == "/bridge")
    for _ in range(3):
        control.says(CHUNK)
        load._read(0.0)
    return control


def test_a_chunk_that_lay_in_the_socket_while_the_loop_was_stalled_is_not_late(
    world: World,
) -> None:
    load = a_load()
    control = talking(world, load)
    control.says(CHUNK)
    world.now_s += 0.4  # this process is not run, and then it reads
    load._read(0.0)
    assert [gap.cause for gap in load.bots[0].playback.gaps] == ["client"]
    assert load.stalls == 1


def test_a_chunk_that_comes_late_while_the_loop_goes_round_is_the_servers(
    world: World,
) -> None:
    load = a_load()
    control = talking(world, load)
    for _ in range(40):
        world.now_s += 0.01
        load._clock()
    control.says(CHUNK)
    load._read(0.0)
    assert [gap.cause for gap in load.bots[0].playback.gaps] == ["server"]
    assert load.stalls == 0


def test_a_server_that_takes_long_over_a_handshake_has_not_stalled_the_loop(
    world: World,
) -> None:
    load = a_load()
    control = talking(world, load)
    world.connect_s = 0.4
    load._watch(load.bots[0], load.bots[0].open("audio"))
    control.says(CHUNK)
    load._read(0.0)
    assert [gap.cause for gap in load.bots[0].playback.gaps] == ["server"]
    assert load.stalls == 0


def test_a_bot_that_is_talked_to_at_once_is_read_while_the_others_connect(
    world: World,
) -> None:
    """Else its first chunks are late by as much as two hundred handshakes take."""
    load = a_load(bots=100)

    def talk_to_the_first(link: FakeLink) -> None:
        first = world.links[1] if len(world.links) > 1 else None
        if first is not None and len(world.links) % 18 == 2:  # 0.1 s more every 0.09 s
            first.says(CHUNK)

    world.on_open = talk_to_the_first
    load.run(0.01)
    first = load.bots[0].playback
    assert first.samples == 12 * RATE_HZ // 10
    assert first.gaps == []
    assert load.stalls == 0
