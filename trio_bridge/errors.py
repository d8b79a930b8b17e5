"""Every error this package raises on purpose, in one tree."""

from __future__ import annotations


class BridgeError(Exception):
    """Base class: catch this to catch everything the bridge itself reports."""


class WireError(BridgeError):
    """The peer broke its own protocol. Ends a message or a channel, never the server."""


class HandshakeError(WireError):
    """A channel did not introduce itself properly, or not in time.

    ``close_code`` is the WebSocket close code the peer is told: 1003 for a first message that
    is not a valid ``ready``, 1008 for one that breaks a rule of ours.
    """

    def __init__(self, reason: str, close_code: int = 1003) -> None:
        super().__init__(reason)
        self.reason = reason
        self.close_code = close_code


class SocketClosedError(BridgeError):
    """The WebSocket is gone; ``code`` its close code (RFC 6455 §7.4), 1006 if it died."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"closed with {self.code} {self.reason}".rstrip()


class SessionEndedError(BridgeError):
    """The meeting ended between being looked up and being joined, or while it was used."""


class AgentFailedError(SessionEndedError):
    """The meeting's agent failed a moment ago; its bot is not let in again so soon."""


class SettingsError(BridgeError):
    """A setting, file or name given by the operator cannot be used; the text says the mend."""
