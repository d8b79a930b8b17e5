"""Which worker of a fleet has which meeting, and how many each has.

Kept so that it outlives every worker. In the fleet's directory lies a link for each bot whose
meeting is on, named after the bot and leading to its worker's slot: of two workers to which the
two sockets of a bot come at once, the file system lets one make it. And all have a few words of
memory in common, of which each worker writes its own two: how many bots it has, and when it
said so.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

SLACK = 2
"""A bot's home, the worker that its id says, begins its meeting while it has no more bots than
so many above the emptiest. The two sockets of a bot, which come some ms apart to any two
workers, are then nearly always sent the same way at once."""
NOT_TAKING = -1
"""Instead of a number of bots: begins no meeting for now."""
STALE_S = 1.0
"""Who has said nothing for so long hangs, and is sent nobody new. Each says something five
times a second."""
TRIES = 100
"""Of one claim. Another is needed when somebody lets go in that very moment."""
_WORDS, _WORD_BYTES = 2, 8


def home_of(bot_id: str, count: int) -> int:
    """Which of ``count`` workers is a bot's home: the same in every process, at any time."""
    return int.from_bytes(_digest(bot_id, 8), "big") % count


def place(bot_id: str, bots: Sequence[int]) -> int | None:
    """The slot of the worker that is to begin the bot's meeting; ``bots`` are those of each.
    None: there is none that takes it."""
    home = home_of(bot_id, len(bots))
    taking = [number for number in bots if number >= 0]
    if not taking:
        return None
    if 0 <= bots[home] <= min(taking) + SLACK:
        return home
    return bots.index(min(taking))


def new_memory(count: int) -> int:
    """Descriptor of the memory of ``count`` workers, to be had until the last has closed it."""
    with tempfile.TemporaryFile() as file:
        file.write(bytes(_WORDS * _WORD_BYTES * count))  # written, so that there is room for it
        file.flush()
        return os.dup(file.fileno())


class Places:
    """What all workers know of each other's meetings. No call waits for another process."""

    def __init__(self, directory: str, count: int, memory: int) -> None:
        """``directory`` is the fleet's; ``memory`` a descriptor of `new_memory`."""
        self._links = Path(directory) / "meetings"
        self._map: mmap.mmap | None = mmap.mmap(memory, _WORDS * _WORD_BYTES * count)
        self._words = memoryview(self._map).cast("q")

    def make(self) -> None:
        """Make the directory of the links, once for all. `OSError` if that fails."""
        self._links.mkdir(mode=0o700)

    def close(self) -> None:
        """The last call, but for `tell`."""
        if self._map is not None:
            self._words.release()
            self._map.close()
            self._map = None

    @property
    def bots(self) -> list[int]:
        """Of each worker; `NOT_TAKING` for one that is that, or hangs."""
        words, since_ns = self._words.tolist(), time.monotonic_ns() - round(STALE_S * 1e9)
        return [
            number if said_ns > since_ns else NOT_TAKING
            for number, said_ns in zip(words[::2], words[1::2], strict=True)
        ]

    def tell(self, slot: int, bots: int) -> None:
        """The worker in ``slot`` has so many, or is `NOT_TAKING`. Nothing, once closed."""
        if self._map is not None:
            self._words[_WORDS * slot] = bots
            self._words[_WORDS * slot + 1] = time.monotonic_ns()

    def owner(self, bot_id: str) -> int | None:
        """The slot of the worker that has the bot; None: nobody. `OSError` if that cannot be
        known."""
        try:
            return int(os.readlink(self._link(bot_id)))
        except FileNotFoundError:
            return None

    def claim(self, bot_id: str, slot: int) -> int:
        """Have the bot in ``slot``, if nobody has it; the slot of who has it now. `OSError` if
        the directory is gone or full."""
        link = self._link(bot_id)
        for _ in range(TRIES):
            with contextlib.suppress(FileExistsError):
                os.symlink(str(slot), link)
                return slot
            owner = self.owner(bot_id)
            if owner is not None:
                return owner
        raise FileExistsError("a bot that comes and goes all the time")

    def release(self, bot_id: str) -> None:
        """Nobody has it any more. For who has claimed it, once; never raises."""
        with contextlib.suppress(OSError):
            os.unlink(self._link(bot_id))

    def clear(self, slot: int) -> None:
        """The worker in ``slot`` is dead: nobody has its bots, and it takes none. `OSError` if
        the directory is gone."""
        self.tell(slot, NOT_TAKING)
        with os.scandir(self._links) as links:
            for link in links:
                with contextlib.suppress(FileNotFoundError):  # another's bot has just left
                    if os.readlink(link) == str(slot):
                        os.unlink(link)

    def _link(self, bot_id: str) -> Path:
        return self._links / _digest(bot_id, 16).hex()


def _digest(bot_id: str, size: int) -> bytes:
    return hashlib.blake2b(bot_id.encode("utf-8", "surrogatepass"), digest_size=size).digest()
