"""TCP bytes in, HTTP answers or WebSockets out; knows nothing of meetings."""

from trio_bridge.edge.audio_clock import AudioClock
from trio_bridge.edge.head import Refused, Request
from trio_bridge.edge.http import Response
from trio_bridge.edge.limits import EdgeLimits
from trio_bridge.edge.listener import Edge
from trio_bridge.edge.socket import Socket

__all__ = ["AudioClock", "Edge", "EdgeLimits", "Refused", "Request", "Response", "Socket"]
