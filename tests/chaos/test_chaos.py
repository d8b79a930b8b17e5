"""Faults against ``python -m trio_bridge`` in a process of its own, beside live meetings."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

import pytest
import trio

from tests.chaos.arena import SETTLE_S, ledger_faults, loud_lines
from tests.chaos.attack import Attack, Fault
from tests.chaos.bridge import running_bridge
from tests.chaos.clients import answered, cut, dial, go_deaf, reset, sound
from tests.chaos.conftest import SEED, Siege
from tests.chaos.faults import QUICK
from tests.edge.peers import Peer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

DEADLINE_S = 60.0
TCP_INFO_UNACKED = 24
"""Offset of tcpi_unacked, Linux, <linux/tcp.h>."""


def in_seeded_order(faults: tuple[Fault, ...]) -> list[Fault]:
    order = list(faults)
    random.Random(SEED).shuffle(order)
    return order


@pytest.mark.parametrize("fault", in_seeded_order(QUICK), ids=lambda fault: fault.__name__)
async def test_a_fault_is_gone_in_five_seconds_and_no_neighbour_notices(
    siege: Siege, fault: Fault
) -> None:
    with trio.fail_after(DEADLINE_S):
        outcome = await siege.arena.suffer(fault, siege.baseline)
    assert outcome.wrong == [], f"seed {SEED}"


async def test_the_neighbours_books_are_exact_and_their_playback_had_no_gap(
    siege: Siege,
) -> None:
    siege.over = True
    with trio.fail_after(DEADLINE_S):
        report, wrong = await siege.arena.dismiss()
    assert wrong == []
    assert all(bot["frames"] and bot["answers"] for bot in report["bots"])


async def test_nothing_is_logged_as_an_error_that_was_not_made_to_happen(siege: Siege) -> None:
    await trio.lowlevel.checkpoint()
    assert siege.arena.loud() == []


async def test_when_all_have_left_the_process_is_as_before_the_first(siege: Siege) -> None:
    if not siege.over:
        await siege.arena.dismiss()
    _, counts = await siege.arena.settled(siege.arena.empty)
    assert counts == siege.arena.empty


async def test_sigterm_with_meetings_on_tells_every_bot_1001_and_loses_no_frame(
    tmp_path: Path,
) -> None:
    # --drain-s 1: they do not end by themselves, so they are told after a second.
    with running_bridge(tmp_path, 0) as bridge:
        attack = Attack(bridge, random.Random(SEED), 1)
        peers: list[Peer] = []
        with trio.fail_after(DEADLINE_S):
            for frames in range(1, 6):
                bot_id = attack.new_bot()
                control, audio = await attack.meet(bot_id)
                peers += [control, audio]
                await audio.send(sound(frames))
                await answered(control, f"heard {frames}", "heard")
                attack.sent[bot_id].add(frames)
            late = attack.new_bot("storm")
            peers += await attack.meet(late)  # its agent talks on
            began_s = trio.current_time()
            bridge.terminate()
            async with trio.open_nursery() as nursery:
                for peer in peers:
                    nursery.start_soon(told_1001, peer)
            took_s = trio.current_time() - began_s
            status = await trio.to_thread.run_sync(bridge.process.wait)
        await cut(*peers)
        assert status == 0
        assert took_s < SETTLE_S
        bridge.read_log()
        assert ledger_faults(bridge.records, attack.sent) == []
        assert loud_lines(bridge.records, Counter()) == []
        codes = [r["code"] for r in bridge.records if r["event"] == "meeting ended"]
        assert codes == [1001] * 6


async def told_1001(peer: Peer) -> None:
    assert await peer.close_code() == 1001


async def test_a_deaf_client_acknowledges_nothing_and_says_nothing() -> None:
    """What `half_open_for_a_while` is made of is what it says: a machine that is gone."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listeners[0] as listener:
        peer = await dial(listener.socket.getsockname()[1])
        stream = await listener.accept()
        go_deaf(peer)
        await stream.send_all(b"anybody there?")
        with trio.move_on_after(0.3) as scope:
            await stream.receive_some(1)
        assert scope.cancelled_caught
        info = stream.socket.getsockopt(6, 11, 104)  # IPPROTO_TCP, TCP_INFO
        assert int.from_bytes(info[TCP_INFO_UNACKED : TCP_INFO_UNACKED + 4], sys.byteorder) == 1
        reset(peer)
        await trio.aclose_forcefully(stream)
