"""Speech that waits for its time: PCM16, in pieces of one chunk that are used again and again.

A meeting whose agent talks keeps the pieces it once needed, 190 KiB with the default settings.
Given back between two answers they would be somebody else's by the next: at 100 meetings that
talk in turns what was in use went up and down by 5 MiB, each time in other places of the heap.
Kept, with each meeting's resampler, it stays level to 0.5 MiB. And it has pages of its own, so
that meetings which come and go leave no holes of its size behind. Knows no clock and no
samples, only bytes.
"""

from __future__ import annotations

import mmap

import attrs

BLOCK_BYTES = 128 << 10
"""Pieces come from blocks of so many bytes at least; a page that no piece has used costs
nothing, and all go back to the system with the last piece."""


@attrs.define(eq=False)
class Spool:
    """A queue of bytes that come in any lengths and leave by the piece."""

    piece_bytes: int
    _pieces: list[memoryview | bytes] = attrs.field(factory=list, init=False)
    """Whole ones; `bytes` is one that came back, and may be shorter."""
    _last: memoryview | None = attrs.field(default=None, init=False)
    """As long as a piece; its first `_filled` bytes are what came behind the whole ones."""
    _filled: int = attrs.field(default=0, init=False)
    _spare: list[memoryview] = attrs.field(factory=list, init=False)
    """For later; with those in use never more than were in use once."""
    _block: memoryview = attrs.field(default=memoryview(b""), init=False)
    """What is left of the newest block."""

    @property
    def held_bytes(self) -> int:
        """What it keeps, used or not."""
        last = 0 if self._last is None else 1
        return sum(map(len, self._pieces)) + self.piece_bytes * (last + len(self._spare))

    def append(self, data: bytes) -> None:
        """Put ``data`` behind what waits."""
        at = 0
        while at < len(data):
            if self._last is None:
                self._last = self._spare.pop() if self._spare else self._new_piece()
            part = data[at : at + self.piece_bytes - self._filled]
            self._last[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            at += len(part)
            if self._filled == self.piece_bytes:
                self._pieces.append(self._last)
                self._last, self._filled = None, 0

    def take(self) -> bytes:
        """The oldest piece, or all there is; nothing when there is nothing."""
        if self._pieces:
            piece = self._pieces.pop(0)
            if isinstance(piece, bytes):
                return piece
            self._spare.append(piece)
            return bytes(piece)
        rest = b"" if self._last is None else bytes(self._last[: self._filled])
        self._filled = 0
        return rest

    def put_back(self, piece: bytes) -> None:
        """Undo the last `take`. It comes out again as it is, whatever was appended since."""
        self._pieces.insert(0, piece)

    def clear(self) -> None:
        """Drop what waits, and keep its memory for what comes."""
        self._spare += [piece for piece in self._pieces if isinstance(piece, memoryview)]
        self._pieces.clear()
        self._filled = 0

    def let_go(self) -> None:
        """Drop everything and keep nothing."""
        self.clear()
        self._spare.clear()
        self._last, self._block = None, memoryview(b"")

    def _new_piece(self) -> memoryview:
        if len(self._block) < self.piece_bytes:
            pieces = -(-BLOCK_BYTES // self.piece_bytes)
            self._block = memoryview(mmap.mmap(-1, pieces * self.piece_bytes))
        piece, self._block = self._block[: self.piece_bytes], self._block[self.piece_bytes :]
        return piece
