"""``python -m trio_bridge``: see `cli`."""

from __future__ import annotations

from trio_bridge.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
