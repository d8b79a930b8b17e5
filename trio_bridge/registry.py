"""Which meetings are on."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator

import attrs
import trio

from trio_bridge.bell import Bell
from trio_bridge.errors import AgentFailedError
from trio_bridge.session import Session

FAILURE_PAUSE_S = 5.0
"""How long a bot whose agent failed is refused: shorter than the 10 s after which bots were
seen to retry, long enough for the other channel of the same attempt."""
FAILURES_REMEMBERED = 1024
"""Bots whose agent failed that are refused at once; beyond, the longest refused is forgotten.
A flood of bots that all fail must cost neither memory nor a walk through all for each."""


@attrs.define(eq=False)
class Registry:
    """The running sessions by ``bot_id``; its nursery is the parent of every one of them."""

    nursery: trio.Nursery
    make_session: Callable[[str], Session]
    ended: Callable[[Session], None] = lambda _: None
    """Called when no task of a session runs any more."""
    _sessions: dict[str, Session] = attrs.field(factory=dict, init=False)
    failures_forgotten: int = attrs.field(default=0, init=False)
    """Before their pause was over, for want of room."""
    _failed_s: OrderedDict[str, float] = attrs.field(factory=OrderedDict, init=False)
    """When each agent failed, the longest ago first."""
    _running: int = attrs.field(default=0, init=False)
    _bell: Bell = attrs.field(factory=Bell, init=False)

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def __contains__(self, bot_id: object) -> bool:
        """Its meeting is on: whoever joins it begins none."""
        session = self._sessions.get(bot_id) if isinstance(bot_id, str) else None
        return session is not None and not session.over

    @property
    def running(self) -> int:
        """Sessions whose tasks still run, those included that are over and would not stop."""
        return self._running

    async def empty(self) -> None:
        """Wait until no session's task runs any more."""
        while self._running:
            await self._bell.wait()

    def join(self, bot_id: str) -> Session:
        """The running session of ``bot_id``, started if need be.

        Raises:
            AgentFailedError: its agent failed less than `FAILURE_PAUSE_S` ago. The bot's second
                channel comes just then, and must not start what has just failed.

        Not async on purpose: with no checkpoint between the look-up and the insert, two
        channels that arrive together cannot create two sessions, and no lock is needed.
        """
        session = self._sessions.get(bot_id)
        if session is None or session.over:
            now_s = trio.current_time()
            if session is not None and session.failed:
                self._remember_failure(bot_id)
            if now_s < self._failed_s.get(bot_id, -math.inf) + FAILURE_PAUSE_S:
                raise AgentFailedError("the agent failed")
            session = self._sessions[bot_id] = self.make_session(bot_id)
            self._running += 1
            self.nursery.start_soon(self._run, session, name=f"meeting {bot_id}")
        return session

    def _remember_failure(self, bot_id: str) -> None:
        now_s, failed_s = trio.current_time(), self._failed_s
        failed_s[bot_id] = now_s
        failed_s.move_to_end(bot_id)
        while (over := now_s >= next(iter(failed_s.values())) + FAILURE_PAUSE_S) or (
            len(failed_s) > FAILURES_REMEMBERED
        ):
            failed_s.popitem(last=False)
            self.failures_forgotten += not over

    async def _run(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            self._running -= 1
            if session.failed:
                self._remember_failure(session.bot_id)
            if self._sessions.get(session.bot_id) is session:
                del self._sessions[session.bot_id]
            self.ended(session)
            self._bell.ring()
