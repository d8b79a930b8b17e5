"""What a path asks for: which channel, of which bot, with which secret. Sans-I/O.

MeetStream's bots were seen to put their id before the configured path, so every form is
accepted with and without it: ``/bridge``, ``/bridge/audio``, ``/{bot_id}/bridge``, the same
behind ``/t/{token}``, and any of them with a slash at the end.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Literal

import attrs


@attrs.frozen
class Route:
    """A WebSocket path that was understood."""

    kind: Literal["audio", "control"]
    bot_id: str | None
    """The id in the path, which must be the ready message's; None when there is none."""
    token: str | None = attrs.field(repr=False)


def read_route(path: str) -> Route | None:
    """The route of a request path (percent-decoded), or None when it is none of ours."""
    parts = path.strip("/").split("/")
    kind: Literal["audio", "control"] = "control"
    if parts[-1:] == ["audio"]:
        kind = "audio"
        parts.pop()
    if parts[-1:] != ["bridge"]:
        return None
    parts.pop()
    token = None
    if "t" in parts[-2:-1]:
        token = parts.pop()
        parts.pop()
    elif parts[:1] == ["t"] and len(parts) == 3:
        token = parts[1]
        del parts[:2]
    if len(parts) > 1 or parts == [""]:
        return None
    return Route(kind, parts[0] if parts else None, token)


def shown_token(
    route: Route, query: Mapping[str, str], authorization: str | None
) -> str | None:
    """The secret that a request shows: in its path, as ``?token=`` or as a bearer token."""
    if route.token is not None:
        return route.token
    if "token" in query:
        return query["token"]
    scheme, _, credentials = (authorization or "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else None


def token_is_good(shown: str | None, accepted: tuple[str, ...]) -> bool:
    """Whether ``shown`` is one of ``accepted``; in a time that does not tell how nearly."""
    if not accepted:
        return True
    given = _bytes(shown or "")
    good = [hmac.compare_digest(given, _bytes(token)) for token in accepted]
    return any(good)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # how Python reads the environment
