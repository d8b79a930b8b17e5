"""An agent that needs no network: pocketsphinx and espeak-ng in child processes."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

from trio_bridge.agents.local.agent import local
from trio_bridge.agents.local.senses import EXECUTABLE

__all__ = ["available", "local"]


def available() -> str | None:
    """None when the agent can run here, else the reason with the mend, in one line.

    Looks for the parts without importing them.
    """
    missing = [name for name in ("pocketsphinx",) if find_spec(name) is None]
    if find_spec("espeakng_loader") is None and shutil.which(EXECUTABLE) is None:
        missing.append("espeakng-loader")
    if not missing:
        return None
    return f'{" and ".join(missing)} not installed: pip install "trio_bridge[local]"'
