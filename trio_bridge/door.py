"""Who may come in: what a peer may cost, and the token that its request must show."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import attrs
import trio

from trio_bridge.config import Settings
from trio_bridge.edge.head import Refused, Request
from trio_bridge.edge.limits import EdgeLimits
from trio_bridge.errors import HandshakeError
from trio_bridge.log import Throttle
from trio_bridge.routes import Route, shown_token, token_is_good
from trio_bridge.tokens import BotToken, TokenError, read_token

log = logging.getLogger(__name__)

POLICY = 1008
HELLO_SLACK_S = 2.0
"""Between our own deadline for the hello, which can say why, and the edge's, which cannot."""


@attrs.frozen
class Door:
    """Judges the token of a request. Its ``repr`` shows no secret."""

    tokens: tuple[str, ...] = attrs.field(repr=False)
    """Any of them is good for every bot."""
    key: str | None = attrs.field(repr=False)
    """What tokens of single bots are made with; neither: everybody is let in."""
    wall_clock: Callable[[], float] = time.time
    """Seconds since 1970: tokens are made elsewhere, and Trio's clock begins anywhere."""
    _refusals: Throttle = attrs.field(factory=Throttle, init=False, repr=False)

    @property
    def open(self) -> bool:
        """Nobody needs a token."""
        return not self.tokens and self.key is None

    def let_in(self, request: Request, route: Route) -> None:
        """Do nothing for a request that may become a WebSocket.

        A token without an id in the path is good here for its own bot only, which nobody has
        named yet: see `check_bot`.

        Raises:
            Refused: 401, with a reason that tells a stranger nothing about any token.
        """
        token = None
        try:
            token = self._read(request, route)
            if token is not None:
                token.check_time(self.wall_clock())
                if route.bot_id is not None:
                    token.check_bot(route.bot_id)
        except TokenError as error:
            if token is not None:  # a genuine one: no stranger can fill the log with these
                self._report(token, request, str(error))
            raise Refused(401, str(error), (("www-authenticate", "Bearer"),)) from error

    def check_bot(self, request: Request, route: Route, bot_id: str) -> None:
        """Check the id of the hello against the token that `let_in` was shown before.

        Whether it has expired since then does not matter: who is in stays in.

        Raises:
            HandshakeError: the token is another bot's.
        """
        try:
            token = self._read(request, route)
            if token is not None:
                token.check_bot(bot_id)
        except TokenError as error:
            raise HandshakeError(str(error), POLICY) from error

    def _report(self, token: BotToken, request: Request, reason: str) -> None:
        """Tell the operator, whom the edge's line for all strangers might not."""
        if self._refusals.admits(trio.current_time()):
            fields = {"reason": reason, "of_bot": token.bot_id, "peer": request.peer}
            more = self._refusals.take_suppressed()
            log.warning("token refused", extra={**fields, "more_before": more})

    def _read(self, request: Request, route: Route) -> BotToken | None:
        """The token of one bot that was shown; None: every bot may come in."""
        authorization = request.get(b"authorization")
        shown = shown_token(
            route, request.query, authorization.decode("latin-1") if authorization else None
        )
        if self.open or (self.tokens and token_is_good(shown, self.tokens)):
            return None
        if self.key is None:
            raise TokenError("a token is needed")
        return read_token(self.key, shown or "")


def edge_limits(settings: Settings) -> EdgeLimits:
    """The edge's limits as the operator wants them."""
    return EdgeLimits(
        head_bytes=settings.head_bytes,
        head_s=settings.head_s,
        pending_per_address=settings.pending_per_address,
        pending=settings.pending,
        allowed_origins=frozenset(settings.allowed_origin),
        hello_s=settings.hello_s + HELLO_SLACK_S,
        hello_bytes=settings.hello_bytes,
        fragments=settings.fragments,
        control_per_s=settings.control_frames_per_s,
        write_s=settings.write_s,
        ping_s=settings.ping_s,
        pong_s=settings.pong_s,
        close_s=settings.close_s,
    )
