"""What the heap has free goes back to the system: each minute, and before a meeting begins
where another has ended.

glibc gives back only what is free at the top of the heap. Below, a page that was in use once
stays resident. After a rush hour of a hundred meetings the process kept 70 MiB of which it used
9. And not only what is free is resident for that: of the 81 KiB that a new resampler has, 27
are not written to at first, and some never. Where they lie over pages that an ended meeting's
had written to, those stay. A hundred meetings that ended and began grew so by 1.8 to 5.6 MiB an
hour when what was free went back each minute only: by then it was in use again.
Where there is no glibc this does nothing; other allocators look after it themselves.
"""

from __future__ import annotations

import ctypes
import math
import time

GIVE_BACK_S = 60.0
"""From one time to the next. It costs the event loop 0.3 ms with a hundred meetings (30 MiB of
heap, of which 1 to 2 go back and are in use again by and by) and 0.6 ms with four hundred; to
give back 130 MiB, 13 ms, once, when most meetings have gone."""
DEAR_S = 0.002
"""Of the processor. Where it took longer twice in a row, as with a heap of many GiB, what
begins does not wait for it until a minute has passed. Once says nothing: there was a rush
hour's to give back, or a hypervisor took the processor, whose time counts as the machine's."""

LARGE_BYTES = 128 << 10
"""From here on a block has pages of its own, which go back the moment it is freed. That is
glibc's value, too, until the first such block is freed; from then on it keeps all up to that
one's size in the heap. Some seconds of speech then leave holes that small blocks nibble at, and
the next as long has to go on top."""
_M_MMAP_THRESHOLD = -3
"""Of <malloc.h>."""


def _find() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows: no handle
        return None
    if not hasattr(libc, "malloc_trim"):  # another libc
        return None
    libc.malloc_trim.argtypes = [ctypes.c_size_t]
    return libc


_glibc = _find()


def give_back() -> bool:
    """Give every whole page that is free, of all threads' heaps, back to the system; whether
    any went."""
    return _glibc is not None and _glibc.malloc_trim(0) == 1


class Heap:
    """What malloc has, as somebody looks after it whose things come and go."""

    __slots__ = ("_dear", "_dear_until_s", "_gone")

    def __init__(self) -> None:
        self._gone = 0
        """How many were gone when it was tidied last."""
        self._dear = 0
        """How many times in a row it took long."""
        self._dear_until_s = -math.inf

    def tidy(self, gone: int) -> None:
        """Give back what is free; ``gone`` is how many there were that are no more."""
        self._gone = gone
        began_s = time.thread_time()
        give_back()
        self._dear = self._dear + 1 if time.thread_time() - began_s > DEAR_S else 0
        self._dear_until_s = time.monotonic() + GIVE_BACK_S if self._dear > 1 else -math.inf

    def tidy_for_another(self, gone: int) -> None:
        """One more begins: the same, if one has gone since and it is not dear."""
        if gone != self._gone and time.monotonic() >= self._dear_until_s:
            self.tidy(gone)


def keep_large_apart() -> bool:
    """Keep blocks of `LARGE_BYTES` and more out of the heap, in this whole process: for its
    main program to decide. Whether it could be done."""
    return _glibc is not None and _glibc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES) == 1
