"""The other side of the bridge: a MeetStream bot that works against any MeetStream server."""

from trio_bridge.simulator.bot import RecordingError, simulate
from trio_bridge.simulator.errors import SimulatorError
from trio_bridge.simulator.expectations import Expectations
from trio_bridge.simulator.report import Report
from trio_bridge.simulator.scenario import Reconnect, Scenario, SpeakerPart, UserMessage

__all__ = [
    "Expectations",
    "Reconnect",
    "RecordingError",
    "Report",
    "Scenario",
    "SimulatorError",
    "SpeakerPart",
    "UserMessage",
    "simulate",
]
