"""What the heap has free goes back to the system.

glibc gives back only what is free at the top of the heap. Below, a page that was in use once
stays resident: after a rush hour of a hundred meetings the process kept 70 MiB of which it used
9, and while meetings talk and come and go it grew by some MiB an hour although what they used
did not, since in each stall of the machine frames pile up where nobody has been yet. Where
there is no glibc this does nothing; other allocators look after it themselves.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

GIVE_BACK_S = 60.0
"""From one time to the next. With a heap of 150 MiB a look costs up to 0.7 ms of the event
loop; to give back 2 of 52 MiB, as a hundred meetings leave each minute, 0.9 ms; 130 of 150 MiB,
once, when most meetings have gone, 13 to 20 ms, and up to 5 each time while they stay free."""
WORTH_IT = 1 / 16
"""Of the heap must be free. Meetings that talk and come and go leave some 10 % of it free, in
pieces, a third of it whole pages."""
HUGE_BYTES, WORTH_MORE = 512 << 20, 1 / 2
"""A heap as large, perhaps of a program that we are a part of, must have this much free: there
it takes tens of ms."""

LARGE_BYTES = 128 << 10
"""From here on a block has pages of its own, which go back the moment it is freed. That is
glibc's value, too, until the first such block is freed; from then on it keeps all up to that
one's size in the heap. Some seconds of speech then leave holes that small blocks nibble at, and
the next as long has to go on top."""
_M_MMAP_THRESHOLD = -3
"""Of <malloc.h>."""


class _Info(ctypes.Structure):
    """``struct mallinfo2`` of <malloc.h>."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    )  # fmt: skip


def _find() -> tuple[Callable[[], _Info], Callable[[int], object]] | None:
    try:
        libc = ctypes.CDLL(None)
        look, trim = libc.mallinfo2, libc.malloc_trim
    except (AttributeError, OSError, TypeError):  # another libc, or older; Windows: no handle
        return None
    look.restype = _Info
    return look, trim


_glibc = _find()


def give_back() -> bool:
    """Give back every whole page that is free, if it may be worth it; whether it was done."""
    if _glibc is None:
        return False
    look, trim = _glibc
    info = look()
    share = WORTH_IT if info.arena < HUGE_BYTES else WORTH_MORE
    if info.fordblks < share * info.arena:
        return False
    trim(0)
    return True


def keep_large_apart() -> bool:
    """Keep blocks of `LARGE_BYTES` and more out of the heap, in this whole process: for its
    main program to decide. Whether it could be done."""
    if _glibc is None:
        return False
    done: int = ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
    return done == 1
