"""soxr's streams, and the thread that makes them.

A stream from 48 to 16 kHz has 81 KiB in many blocks, and 100 once it is used; they come and
go with meetings and answers. In one heap with everything else small blocks settle in the holes
that they leave, and the next stream has to go on top: with a hundred meetings 1.7 MiB were in
more holes after half an hour.
glibc gives each thread a heap of its own (unless its tunables say otherwise, or the process has
dozens), and frees what is larger than a KiB to where it came from, whoever frees it. So streams
that are made in a thread which makes nothing else lie among themselves.
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor

import soxr

_makers: list[ThreadPoolExecutor] = []
"""The thread that makes streams, if somebody asked for it."""


def make_streams_apart() -> None:
    """From now on make streams in a thread of their own, in this whole process: for its main
    program to decide.

    A stream then costs who needs it 90 us instead of 20; and he waits for that thread, which
    may be some ms where another computes in Python.
    """
    if not _makers:
        _makers.append(ThreadPoolExecutor(1, "trio_bridge streams"))
        _makers[0].submit(int)  # nothing, but its thread is there before the first meeting


with contextlib.suppress(AttributeError):  # Windows does not fork
    os.register_at_fork(after_in_child=_makers.clear)  # the thread stays with the parent


def open_stream(from_hz: int, to_hz: int, quality: str) -> soxr.ResampleStream:
    """A new stream, mono float32. Any thread may use it, but one at a time."""
    if not _makers:
        return _make(from_hz, to_hz, quality)
    return _makers[0].submit(_make, from_hz, to_hz, quality).result()


def _make(from_hz: int, to_hz: int, quality: str) -> soxr.ResampleStream:
    return soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality=quality)
