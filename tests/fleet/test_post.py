"""What a worker is told when it starts, and the settings that workers need."""

from __future__ import annotations

import socket

import pytest

from trio_bridge.config import Settings
from trio_bridge.errors import SettingsError
from trio_bridge.fleet.places import home_of
from trio_bridge.fleet.post import Post, encode_post, read_post
from trio_bridge.fleet.siblings import add_states
from trio_bridge.fleet.supervisor import own_command
from trio_bridge.fleet.worker import open_lifeline
from trio_bridge.meeting import Meeting
from trio_bridge.server import Server


async def nobody(meeting: Meeting) -> None:
    pass


def test_a_worker_has_all_settings_of_its_fleet_and_leaves_the_orders_unread() -> None:
    settings = Settings(
        workers=2, token=("s3cret", "\udcff"), bot_name=("B\u00f6t",), lead_ms=500
    )
    post = Post(slot=1, directory="/d", listeners=(3, 4), hatch=5, memory=6, settings=settings)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(encode_post(post) + b"5.0\n")
        assert read_post(theirs) == post
        assert theirs.recv(100) == b"5.0\n"
    assert "s3cret" not in repr(post)


@pytest.mark.parametrize(
    "said", [b"", b"\0\0\0\x02[]", b"\0\0\0\x02{}", b"\0\0\0\x01x", b"\0\0"]
)
def test_what_is_no_post_is_one_line(said: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(said)
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(SettingsError, match="unset it"):
            read_post(theirs)


@pytest.mark.parametrize("descriptor", ["x", "", "-1", "987654"])
def test_a_lifeline_that_somebody_made_up_is_one_line(descriptor: str) -> None:
    with pytest.raises(SettingsError, match="unset it"):
        open_lifeline(descriptor)


def test_every_process_finds_the_same_worker_for_a_bot_and_they_share_evenly() -> None:
    assert [home_of(bot, 4) for bot in ("bot-1", "\u00fc", "", "\udcff")] == [0, 3, 0, 2]
    slots = [home_of(f"bot-{n}", 4) for n in range(4_000)]
    assert all(900 < slots.count(slot) < 1_100 for slot in range(4))
    assert {home_of("bot-1", 1)} == {0}


def test_workers_need_plain_tcp_and_a_program_of_their_own() -> None:
    with pytest.raises(SettingsError, match=r"workers.*end TLS in a proxy"):
        Settings(workers=2, tls_cert="cert.pem", tls_key="key.pem")
    with pytest.raises(SettingsError, match=r"trio_bridge\.run"):
        Server(nobody, Settings(workers=2))
    for program in ("", "-"):
        with pytest.raises(SettingsError, match="not in a file"):
            own_command("python", ["python"], program)
    original = ["py", "-X", "dev", "-m", "trio_bridge", "--workers", "2"]
    assert own_command("/bin/python", original, "-m") == ["/bin/python", *original[1:]]


def test_the_states_of_a_fleet_add_up() -> None:
    own = {"status": "ok", "meetings": 1, "meetings_begun": 4}
    other = {"status": "ok", "meetings": 2, "meetings_begun": 5}
    silent = {"status": "no answer"}
    total = add_states(own, {1: own, 0: other})
    assert (total["status"], total["meetings"], total["meetings_begun"]) == ("ok", 3, 9)
    assert total["workers"] == [{"slot": 0, **other}, {"slot": 1, **own}]
    assert add_states(own, {0: own, 1: silent})["status"] == "degraded"
    assert add_states(own, {0: own, 1: silent})["meetings"] == 1
    draining = {**own, "status": "draining"}
    assert add_states(draining, {0: draining, 1: silent})["status"] == "draining"
