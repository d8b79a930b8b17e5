"""Who takes a channel's audio where it is read, as long as each frame is like the last."""

from __future__ import annotations

from typing import Protocol


class Follower(Protocol):
    """Takes frames that are like the one before, as they are."""

    @property
    def needs(self) -> tuple[object, ...]:
        """What `take`, and whoever it wakes, will look at."""

    def take(self, frame: bytes, now_s: float) -> bool:
        """Hear ``frame``, which came at ``now_s``; False: nothing was done.

        It has as many bytes as the whole frame (head, key and masked payload) for which this
        follower was given, and maybe nothing else in common with it. Must not wait.
        """
