"""What several faults are made of."""

from __future__ import annotations

import trio

from tests.chaos.attack import Attack
from tests.chaos.clients import (
    READ_S,
    answered,
    cut,
    sound,
)
from tests.edge.peers import CLOSE, Peer, close_payload, frame

FRAMES = 10
GONE = (EOFError, OSError, trio.BrokenResourceError)


async def leave_both(control: Peer, audio: Peer) -> None:
    """Close 1000 on both, as a bot that is done."""
    for peer in (audio, control):
        await peer.send(frame(CLOSE, close_payload(1000)))
    for peer in (audio, control):
        with trio.fail_after(READ_S):
            code = await peer.close_code()
        assert code in (1000, 1001), code
        await cut(peer)


async def talks_to(attack: Attack, bot_id: str) -> None:
    """A meeting that works from its beginning to its end."""
    control, audio = await attack.meet(bot_id)
    await audio.send(sound(FRAMES))
    await answered(control, f"heard {FRAMES}", "heard")
    attack.sent[bot_id].add(FRAMES)
    await leave_both(control, audio)


def events(attack: Attack, event: str, bot_id: str) -> int:
    attack.bridge.read_log()
    return sum(
        record.get("event") == event and record.get("bot_id") == bot_id
        for record in attack.bridge.records
    )


async def both_left(attack: Attack, bot_id: str, *, within_s: float) -> None:
    """Wait until the bridge has noticed that both channels are gone."""
    with trio.fail_after(within_s):
        while events(attack, "channel left", bot_id) < 2:  # noqa: ASYNC110  # in its log
            await trio.sleep(0.1)
