"""What can fail inside the `local` agent."""

from __future__ import annotations

from trio_bridge.errors import BridgeError


class AgentError(BridgeError):
    """The recogniser or the voice could not do what was asked; the text says which and why."""
