"""A Trio bridge between MeetStream meeting bots and AI agents."""

from trio_bridge.address import Address
from trio_bridge.cli import run
from trio_bridge.config import Settings
from trio_bridge.edge import AudioClock
from trio_bridge.errors import (
    BridgeError,
    HandshakeError,
    SessionEndedError,
    SettingsError,
    SocketClosedError,
    WireError,
)
from trio_bridge.meeting import (
    Agent,
    AudioChunk,
    Ear,
    Event,
    Interrupt,
    Meeting,
    Speaker,
    SpeakerChange,
    Turn,
    UnknownMessage,
    UserMessage,
    Utterance,
)
from trio_bridge.server import Server, serve

__all__ = [
    "Address",
    "Agent",
    "AudioChunk",
    "AudioClock",
    "BridgeError",
    "Ear",
    "Event",
    "HandshakeError",
    "Interrupt",
    "Meeting",
    "Server",
    "SessionEndedError",
    "Settings",
    "SettingsError",
    "SocketClosedError",
    "Speaker",
    "SpeakerChange",
    "Turn",
    "UnknownMessage",
    "UserMessage",
    "Utterance",
    "WireError",
    "run",
    "serve",
]
