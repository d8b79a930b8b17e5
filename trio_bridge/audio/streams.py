"""soxr's streams, and the thread that makes and frees them.

A stream from 48 to 16 kHz has 81 KiB in many blocks, and 100 once it is used; they come and
go with meetings and answers. In one heap with everything else small blocks settle in the holes
that they leave, and the next stream has to go on top: with a hundred meetings 1.7 MiB were in
more holes after half an hour.
glibc gives each thread a heap of its own (unless its tunables say otherwise, or the process has
dozens). So streams that are made in a thread which makes nothing else lie among themselves; and
they are freed there, since of what has a KiB or less a thread keeps some that it has freed for
what it needs next. And before one is made, what others have left is given back: of a new stream
a third is not written to, and where that lies over pages which were, they stay resident, ever
more of them.
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor

import soxr

from trio_bridge.heap import Heap

Old = list[soxr.ResampleStream]
"""A stream that nobody else refers to, so that whoever clears this frees it; or none."""


class Maker:
    """Makes streams, and frees them, in a thread of its own."""

    def __init__(self) -> None:
        self._gone = 0
        """Streams freed so far."""
        self._heap = Heap()
        self._thread = ThreadPoolExecutor(1, "trio_bridge streams")
        self._thread.submit(int)  # nothing, but it is there before the first meeting

    def make(self, from_hz: int, to_hz: int, quality: str, old: Old) -> soxr.ResampleStream:
        """A new stream, once the ``old`` one is freed; waits for the thread."""
        return self._thread.submit(self._make, from_hz, to_hz, quality, old).result()

    def free(self, old: Old) -> None:
        """Free a stream by and by; from any thread, also while it ends."""
        with contextlib.suppress(RuntimeError):  # the interpreter ends, or `close` was called
            self._thread.submit(self._free, old)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _make(self, from_hz: int, to_hz: int, quality: str, old: Old) -> soxr.ResampleStream:
        self._free(old)
        self._heap.tidy_for_another(self._gone)
        return _make(from_hz, to_hz, quality)

    def _free(self, old: Old) -> None:
        self._gone += len(old)
        old.clear()


_makers: list[Maker] = []
"""The one, if somebody asked for it."""


def make_streams_apart() -> None:
    """From now on make streams in a thread of their own, in this whole process: for its main
    program to decide.

    With a hundred meetings a stream then costs who needs it 0.4 ms instead of 20 us, and he
    waits for that thread, which may be some ms where another computes in Python.
    """
    if not _makers:
        _makers.append(Maker())


with contextlib.suppress(AttributeError):  # Windows does not fork
    os.register_at_fork(after_in_child=_makers.clear)  # the thread stays with the parent


def open_stream(from_hz: int, to_hz: int, quality: str, old: Old) -> soxr.ResampleStream:
    """A new stream, mono float32, made once the ``old`` one is freed, so that it may have its
    place. Any thread may use it, but one at a time."""
    if _makers:
        return _makers[0].make(from_hz, to_hz, quality, old)
    old.clear()
    return _make(from_hz, to_hz, quality)


def free_stream(old: Old) -> None:
    """Free a stream that is not needed any more, now or in a moment."""
    if _makers and old:
        _makers[0].free(old)
    else:
        old.clear()


def _make(from_hz: int, to_hz: int, quality: str) -> soxr.ResampleStream:
    return soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality=quality)
