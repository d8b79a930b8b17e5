"""``python -m tests.chaos.victim PORT BOT_ID``: a bot that streams until it is killed.

It writes a dot for every frame that it has handed to the kernel.
"""

from __future__ import annotations

import json
import sys
import time

from benchmarks.wsclient import BINARY, Link, masked

FRAME_S = 0.02
PCM = b"\x01\x00\xff\xff" * 480


def main() -> None:
    """Stream both ways."""
    port, bot_id = int(sys.argv[1]), sys.argv[2]
    hello = json.dumps({"type": "ready", "bot_id": bot_id})
    control = Link(port, "/bridge", hello, None)
    audio = Link(port, "/bridge/audio", hello, None)
    frame = masked(BINARY, b"\x01\x02\x00u1\x05\x00Alice" + PCM)
    due_s = time.monotonic()
    while True:
        due_s += FRAME_S
        time.sleep(max(0.0, due_s - time.monotonic()))
        audio.send(frame)
        sys.stdout.write(".")
        sys.stdout.flush()
        control.drain()


if __name__ == "__main__":
    main()
