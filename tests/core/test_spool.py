"""The queue of speech: whatever goes in comes out, a piece at a time, in memory used again."""

from __future__ import annotations

import sys
import weakref

from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.spool import Spool

OPERATIONS = st.lists(
    st.binary(min_size=1, max_size=40)
    | st.sampled_from(["take", "take", "take and put back", "clear", "let go"]),
    max_size=60,
)


@given(st.integers(1, 12), OPERATIONS)
def test_what_comes_out_is_what_went_in_and_what_is_held_is_what_was_needed(
    piece_bytes: int, operations: list[bytes | str]
) -> None:
    spool, waits, most = Spool(piece_bytes), b"", 0
    for operation in operations:
        if isinstance(operation, bytes):
            spool.append(operation)
            waits += operation
            most = max(most, len(waits))
        elif operation.startswith("take"):
            piece = spool.take()
            assert waits.startswith(piece)
            assert len(piece) == min(len(waits), piece_bytes)
            if operation == "take":
                waits = waits[len(piece) :]
            else:
                spool.put_back(piece)
                assert spool.take() == piece
                waits = waits[len(piece) :]
        else:
            spool.clear() if operation == "clear" else spool.let_go()
            waits, most = b"", 0 if operation == "let go" else most
        assert len(waits) <= spool.held_bytes <= most + 2 * piece_bytes
    assert b"".join(iter(spool.take, b"")) == waits


def test_a_piece_that_came_back_comes_out_as_it_was() -> None:
    spool = Spool(10)
    spool.append(b"abcde")
    piece = spool.take()
    spool.append(b"fghijklmnopqr")
    spool.put_back(piece)
    assert [spool.take() for _ in range(4)] == [b"abcde", b"fghijklmno", b"pqr", b""]


def test_one_answer_after_the_other_is_kept_in_the_same_memory() -> None:
    spool = Spool(1_000)
    spool.append(bytes(20_500))
    pieces = {id(piece) for piece in (*spool._pieces, spool._last)}
    for _ in range(3):
        while spool.take():
            pass
        spool.append(bytes(20_500))
        assert {id(piece) for piece in (*spool._pieces, spool._last)} == pieces
        assert spool.held_bytes == 21_000


def test_what_was_let_go_is_nobodys() -> None:
    spool = Spool(1_000)
    spool.append(bytes(2_500))
    piece = spool._pieces[0]
    assert isinstance(piece, memoryview)
    pages = weakref.ref(piece.obj)
    spool.let_go()
    assert spool.held_bytes == 0
    assert sys.getrefcount(piece) == 2
    del piece
    assert pages() is None
