"""What runs in a child process: the recogniser or the voice behind two pipes.

Started as ``run("hear")`` or ``run("speak")``. It answers one request at a time and ends when
its standard input does, so a parent that dies, however it dies, leaves no child behind.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import BinaryIO

from trio_bridge.agents.local.framing import (
    FAILED,
    HEAD,
    OK,
    Message,
    decode_head,
    encode,
)

Work = Callable[[bytes], bytes]


def load(kind: str) -> Work:
    """The work of a child of this kind; loading its models takes up to a second."""
    if kind == "hear":
        from trio_bridge.agents.local.recogniser import Recogniser

        return Recogniser().work
    if kind == "speak":
        from trio_bridge.agents.local.synthesiser import Synthesiser

        return Synthesiser().work
    raise ValueError(f"no worker of kind {kind!r}")


def serve(requests: BinaryIO, replies: BinaryIO, load_work: Callable[[], Work]) -> None:
    """Answer until ``requests`` ends. A failed request, or a model that does not load, is
    answered with its reason; only bytes that are not ours raise.

    Raises:
        FramingError: the parent is not ours.
    """
    work: Work | None = None
    while (head := _read(requests, HEAD.size)) is not None:
        length, number, _ = decode_head(head)
        if (body := _read(requests, length)) is None:
            return
        try:
            if work is None:
                work = load_work()
            reply = Message(number, OK, work(body))
        except Exception as error:  # whatever it is, the parent must hear of it
            reply = Message(number, FAILED, f"{type(error).__name__}: {error}".encode())
        replies.write(encode(reply))
        replies.flush()


def run(kind: str) -> None:
    """Serve this process's own standard input and output."""
    # Ctrl-C reaches the whole process group; the parent ends us in its own order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # C libraries print what they like: their stdout becomes stderr, the pipe is ours alone.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        serve(sys.stdin.buffer, replies, lambda: load(kind))
    except BrokenPipeError:
        os._exit(0)  # the parent is gone; closing the pipe again would only complain


def _read(stream: BinaryIO, length: int) -> bytes | None:
    """Exactly ``length`` bytes, or None where the stream ended before."""
    data = stream.read(length)
    return data if len(data) == length else None
