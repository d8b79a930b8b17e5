"""Arrival stamps: shared by every server under test, so that stamping costs all the same.

A server writes (bot, samples handed over so far, when) into a file that was made for it and
is mapped whole before the first bot comes; nothing is written out at the end, so a server that
is killed has lost nothing. Knows no server and no network.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

FILE_VARIABLE = "BENCH_STAMPS"
"""Environment variable with the path of the file to stamp into."""
TALK_VARIABLE = "BENCH_TALK_EVERY"
"""Environment variable: every how many-th bot is spoken to all the time; 0 for none."""
CUT_VARIABLE = "BENCH_CUT_MS"
"""Environment variable: the length of a consumer's chunks in ms; 0 for as they come."""
ALWAYS_TALK_FROM = 100_000
"""Bots with this number and above are spoken to all the time, in any load."""
BOT_PREFIX = "bench-"

_WORDS_A_STAMP = 3
_WORD_BYTES = 8


def bot_id_of(index: int) -> str:
    """The bot_id of the ``index``-th bot; negative ones are not measured."""
    return f"{BOT_PREFIX}{index}"


def index_of(bot_id: str) -> int:
    """The inverse of `bot_id_of`."""
    return int(bot_id.removeprefix(BOT_PREFIX))


def is_spoken_to(index: int) -> bool:
    """Whether the agent says a tone to this bot."""
    every = int(os.environ.get(TALK_VARIABLE, "0"))
    if index >= ALWAYS_TALK_FROM:
        return True
    return every > 0 and index >= 0 and index % every == 0


def cut_ms() -> int:
    """How long the consumers' chunks are to be; 0 for as they come."""
    return int(os.environ.get(CUT_VARIABLE, "0"))


def make_stamp_file(path: Path, capacity: int) -> None:
    """An empty file with room for ``capacity`` stamps."""
    with path.open("wb") as file:
        file.truncate(capacity * _WORDS_A_STAMP * _WORD_BYTES)


def read_stamps(path: Path) -> npt.NDArray[np.int64]:
    """int64 ``(n, 3)``: bot index, samples handed over so far, CLOCK_MONOTONIC in ns.

    Of every process that stamped, one after the other.
    """
    return np.concatenate(read_stamps_of_each(path))


def read_stamps_of_each(path: Path) -> list[npt.NDArray[np.int64]]:
    """The same, of each process by itself."""
    found = []
    for file in (path, *sorted(path.parent.glob(f"{path.name}.*"))):
        stamps = np.fromfile(file, np.int64).reshape(-1, _WORDS_A_STAMP)
        found.append(stamps[stamps[:, 2] > 0])
    return found


class Stamps:
    """Write end of a stamp file. What no longer fits is left out, and so counts as lost."""

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            # Populated now: a page fault in mid-run would be charged to a frame.
            self._map = mmap.mmap(
                file.fileno(), 0, flags=mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            )
        self._words = memoryview(self._map).cast("q")
        self._at = 0

    def note(self, bot: int, samples: int) -> None:
        """``bot``'s consumer has been handed ``samples`` samples in all, as of now."""
        at = self._at
        words = self._words
        if at + _WORDS_A_STAMP <= len(words):
            words[at] = bot
            words[at + 1] = samples
            words[at + 2] = time.monotonic_ns()
            self._at = at + _WORDS_A_STAMP


def open_stamps() -> Stamps:
    """A stamp file beside the one that the environment names and as large, for this process:
    a server may have several.

    Raises:
        KeyError: none is named; these programs are started by the benchmark only.
    """
    given = Path(os.environ[FILE_VARIABLE])
    own = given.with_name(f"{given.name}.{os.getpid()}")
    make_stamp_file(own, given.stat().st_size // (_WORDS_A_STAMP * _WORD_BYTES))
    return Stamps(str(own))
