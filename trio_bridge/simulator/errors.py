"""What can be wrong with a simulation before it has begun."""

from __future__ import annotations

from trio_bridge.errors import SettingsError


class SimulatorError(SettingsError):
    """A file, an address or a number of the scenario cannot be used; the text says the mend."""
