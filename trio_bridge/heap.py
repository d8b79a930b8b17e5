"""What the heap has free goes back to the system, when that is most of it.

glibc gives back only what is free at the top of the heap. Below, a page that was in use once
stays resident: after a rush hour of a hundred meetings the process kept 70 MiB of which it used
9. While meetings go on nothing is given back, since they need it again within seconds: given
back each minute, 2 of 125 MiB went and came back by and by, about 1 in a quarter of an hour.
Where there is no glibc this does nothing; other allocators look after it themselves.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

GIVE_BACK_S = 60.0
"""From one time to the next. With a heap of 150 MiB a look costs up to 0.7 ms of the event
loop, and to give back 130 of them 13 ms, once, when most meetings have gone."""
MOSTLY = 0.5
"""Of the heap must be free. Meetings that talk and come and go leave 5 to 10 % of it free."""

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
    """Give back every whole page that is free, if most of the heap is; whether it was."""
    if _glibc is None:
        return False
    look, trim = _glibc
    info = look()
    if info.fordblks < MOSTLY * info.arena:
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
