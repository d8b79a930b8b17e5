"""What a meeting costs while nothing happens in it, in tasks."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.core.rooms import bridge, listener

pytestmark = pytest.mark.usefixtures("autojump_clock")

CLIENT_READERS = 2
"""The tasks of our own end of a bot's two sockets."""


async def test_a_meeting_has_a_task_for_each_of_its_waits_and_no_more() -> None:
    """Its life, its agent and its pump; for each socket the connection and trio-websocket's
    reader. A task with its nursery takes 4 KiB."""
    async with bridge(listener) as room:

        async def living() -> int:
            await wait_all_tasks_blocked()
            return trio.lowlevel.current_statistics().tasks_living

        await room.control("bot-0")
        await room.audio("bot-0")
        before = await living()
        for bot_id in ("bot-1", "bot-2", "bot-3"):
            await room.control(bot_id)
            await room.audio(bot_id)
        assert await living() - before == 3 * (3 + 2 * 2 + CLIENT_READERS)
