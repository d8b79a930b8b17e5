"""Which worker of a fleet has which meeting, and how many each has.

Kept in the fleet's directory, so that it outlives every worker: a link for each bot whose
meeting is on, named after the bot and leading to its worker's slot. Of two workers to which the
two sockets of a bot come at once, the file system lets one make it. Beside the links lies a
file with a number for each worker, which all have in memory and only that worker changes (the
supervisor when it is dead).
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

SLACK = 2
"""A bot's own worker, the one its id says, takes it while it has no more meetings than so many
above the emptiest. The bot's two sockets, which come some ms apart to any two workers, are then
nearly always sent the same way at once."""
NOT_TAKING = -1
"""Instead of a number of meetings: begins none for now."""
TRIES = 100
"""Of one claim. Another is needed when somebody lets go in that very moment."""
_WORD_BYTES = 8


def slot_of(bot_id: str, count: int) -> int:
    """Which of ``count`` workers a bot's own is: the same in every process, at any time."""
    return int.from_bytes(_digest(bot_id, 8), "big") % count


def place(bot_id: str, meetings: Sequence[int]) -> int:
    """The slot of the worker that begins the bot's meeting; ``meetings`` are those of each."""
    own = slot_of(bot_id, len(meetings))
    taking = [number for number in meetings if number >= 0]
    if not taking or 0 <= meetings[own] <= min(taking) + SLACK:
        return own
    return meetings.index(min(taking))


class Places:
    """What all workers know of each other's meetings. No call waits for another process.

    Its methods raise `OSError` where the directory is gone or full.
    """

    def __init__(self, directory: str, count: int) -> None:
        """``directory`` is the fleet's; whoever comes first makes what is needed in it."""
        self._links = Path(directory) / "meetings"
        self._links.mkdir(mode=0o700, exist_ok=True)
        size = _WORD_BYTES * count
        descriptor = os.open(
            Path(directory) / "numbers", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            os.ftruncate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._numbers = memoryview(self._map).cast("q")

    def close(self) -> None:
        """The last call."""
        self._numbers.release()
        self._map.close()

    @property
    def meetings(self) -> list[int]:
        """Of each worker; `NOT_TAKING` for one that begins none."""
        return self._numbers.tolist()

    def tell(self, slot: int, meetings: int) -> None:
        """The worker in ``slot`` has so many, or is `NOT_TAKING`. One word, written at once."""
        self._numbers[slot] = meetings

    def owner(self, bot_id: str) -> int | None:
        """The slot of the worker that has the bot's meeting; None: nobody."""
        try:
            return int(os.readlink(self._link(bot_id)))
        except FileNotFoundError:
            return None

    def claim(self, bot_id: str, slot: int) -> int:
        """Have the bot's meeting in ``slot``, if nobody has it; the slot of who has it now."""
        link = self._link(bot_id)
        for _ in range(TRIES):
            with contextlib.suppress(FileExistsError):
                os.symlink(str(slot), link)
                return slot
            owner = self.owner(bot_id)
            if owner is not None:
                return owner
        raise FileExistsError("a meeting that begins and ends all the time")

    def release(self, bot_id: str) -> None:
        """Nobody has it any more. For who has claimed it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._link(bot_id))

    def clear(self, slot: int) -> None:
        """The worker in ``slot`` is dead: nobody has its meetings, and it begins none."""
        self.tell(slot, NOT_TAKING)
        with os.scandir(self._links) as links:
            for link in links:
                with contextlib.suppress(FileNotFoundError):  # another worker's has ended
                    if os.readlink(link) == str(slot):
                        os.unlink(link)

    def _link(self, bot_id: str) -> Path:
        return self._links / _digest(bot_id, 16).hex()


def _digest(bot_id: str, size: int) -> bytes:
    return hashlib.blake2b(bot_id.encode("utf-8", "surrogatepass"), digest_size=size).digest()
