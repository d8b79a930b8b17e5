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

import atexit
import contextlib
import os
import queue
import threading
from concurrent.futures import Future

import soxr

from trio_bridge.heap import Heap

Old = list[soxr.ResampleStream]
"""A stream that nobody else refers to, so that whoever clears this frees it; or none."""
Job = tuple[Future[soxr.ResampleStream], int, int, str] | Old | None
"""To make one, to free one, or to end."""


class Maker:
    """Makes streams, and frees them, in a thread of its own."""

    def __init__(self) -> None:
        self._gone = 0
        """Streams freed so far."""
        self._heap = Heap()
        # Not an executor: the collector may come upon a stream while one is asked for, and an
        # executor's lock would then be waited for by who holds it. This queue has none.
        self._jobs = queue.SimpleQueue[Job]()
        self._thread = threading.Thread(
            target=self._work, name="trio_bridge streams", daemon=True
        )
        self._thread.start()

    def make(self, from_hz: int, to_hz: int, quality: str, old: Old) -> soxr.ResampleStream:
        """A new stream, once the ``old`` one is freed; waits for the thread."""
        self.free(old)
        if not self._thread.is_alive():
            return _make(from_hz, to_hz, quality)
        made = Future[soxr.ResampleStream]()
        self._jobs.put((made, from_hz, to_hz, quality))
        return made.result()

    def free(self, old: Old) -> None:
        """Free a stream by and by; from any thread, also out of the collector."""
        if self._thread.is_alive():
            self._jobs.put(old)
        else:
            old.clear()

    def close(self) -> None:
        """End the thread; from now on who needs a stream makes it himself."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, list):
                self._gone += len(job)
                job.clear()
                continue
            made, from_hz, to_hz, quality = job
            try:
                self._heap.tidy_for_another(self._gone)
                made.set_result(_make(from_hz, to_hz, quality))
            except Exception as fault:  # who asked is told
                made.set_exception(fault)
            del job, made  # while the thread waits it holds nothing


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
        # What it is still to free goes before the interpreter does: soxr's binding reports
        # whatever is left then as leaked, in a dozen lines.
        atexit.register(_makers[0].close)


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
