"""`Cutter`: a byte stream in; audio, frames for trio-websocket, or one `Violation` out.

What comes out, and in which order, is the same wherever the network cut the stream and
however often other tasks had their turn. Up to the violation nothing is lost, invented or
reordered: it is what an independent reading of RFC 6455 §5.2 finds. A frame above the limit
is refused by its header, before its payload is waited for. wsproto, the parser inside
trio-websocket, finds no fault with any frame that it is given.

The input: one byte of modes, one byte n, n bytes that say how long the first n pieces are
(0 is 256), the stream. What is left after those pieces is one more.
"""

from __future__ import annotations

import struct

import attrs
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, ParseFailed

from fuzz.target import Target, require_plain
from trio_bridge.edge.frames import BINARY, CLOSE, PING, PONG, TEXT, Cutter, Violation
from trio_bridge.edge.limits import EdgeLimits

LIMITS = EdgeLimits(hello_bytes=200, fragments=4, control_per_s=3)
ARMED_BYTES = 70_000
"""Longest message once armed: above 65 535, so that all three forms of the length are used."""
SINGLY = 2_000
"""So many bytes are also fed one by one; more would only be slow."""
NEVER, AT_ONCE, AFTER_HELLO = range(3)
MODES = 6
Outcome = list[tuple[str, object]]


@attrs.frozen
class Case:
    """One input, taken apart."""

    arming: int
    """`NEVER`, `AT_ONCE`, or `AFTER_HELLO`, which is when the edge does it."""
    closing: bool
    """Our Close is under way: from the first byte, or with `AFTER_HELLO` from the hello on.
    Nobody arms a connection that is closing already."""
    pieces: list[bytes]
    """None is empty: an empty read is the end of a stream, not a part of it."""

    @property
    def stream(self) -> bytes:
        return b"".join(self.pieces)

    def closes(self, *, armed: bool) -> bool:
        """Whether our Close is under way, on a connection that is ``armed`` or not."""
        return self.closing and (armed or self.arming != AFTER_HELLO)


def check(data: bytes) -> None:
    """Cut ``data`` in every way there is and compare.

    Raises:
        AssertionError: the promise in the module's docstring is broken.
    """
    case = _case(data)
    stream = case.stream
    whole = _outcome(case, [stream] if stream else [])
    assert _outcome(case, case.pieces) == whole, "the cuts have a meaning"
    assert _outcome(case, case.pieces, turn=1) == whole, "the length of a turn has a meaning"
    singly = [stream[i : i + 1] for i in range(min(len(stream), SINGLY))]
    rest = [stream[SINGLY:]] if len(stream) > SINGLY else []
    assert _outcome(case, singly + rest) == whole, "single bytes are read otherwise"
    by_frame = [frame for frame, _ in _frames(stream)[0]]
    if beyond := stream[sum(map(len, by_frame)) :]:
        by_frame.append(beyond)
    assert _outcome(case, by_frame) == whole, "a frame a read is read otherwise"
    _compare(case, whole)
    _accepted_by_wsproto(case, whole)


def _case(data: bytes) -> Case:
    mode = data[0] % MODES if data else 0
    count = data[1] if len(data) > 1 else 0
    sizes, rest = data[2 : 2 + count], data[2 + count :]
    pieces = []
    for size in sizes:
        pieces.append(rest[: size or 256])
        rest = rest[size or 256 :]
    return Case(mode % 3, mode >= 3, [piece for piece in (*pieces, rest) if piece])


def _outcome(case: Case, pieces: list[bytes], turn: int = 64) -> Outcome:
    """Feed ``pieces`` one by one; tell in order all that came out."""
    cutter = Cutter(LIMITS)
    seen: Outcome = []

    def hear(payload: bytes) -> None:
        seen.append(("audio", payload))

    def read(text: str) -> None:
        seen.append(("text", text))

    armed = case.arming == AT_ONCE
    if armed:
        cutter.arm(ARMED_BYTES, hear, read)
    try:
        for piece in pieces:
            closes = case.closes(armed=armed)
            rest = piece if closes else cutter.hear_usual(piece, turn, 0.0)
            if not rest:
                continue
            cutter.feed(rest)
            while cutter.pending:
                if cutter.message_seen and case.arming == AFTER_HELLO and not armed:
                    armed = True
                    cutter.arm(ARMED_BYTES, hear, read)
                frame = cutter.cut(0.0, turn=turn, closing=case.closes(armed=armed))
                if frame is not None:
                    seen.append(("frame", frame))
    except Violation as violation:
        seen.append(("violation", (violation.code, violation.reason)))
    except Exception as exc:
        raise AssertionError(f"{type(exc).__name__} escaped") from exc
    else:
        seen.append(("frames", cutter.frames))
    return seen


def _compare(case: Case, outcome: Outcome) -> None:
    """Hold ``outcome`` against frames that were found by reading the RFC, not our code."""
    frames, announced = _frames(case.stream)
    *seen, (verdict, said) = outcome
    expected: Outcome = []
    fragmented = False
    armed = case.arming == AT_ONCE
    for frame, payload in frames:
        opcode, fin = frame[0] & 0x0F, frame[0] >= 0x80
        closing = case.closes(armed=armed)
        direct = armed and not fragmented and not closing
        if frame[0] == 0x82 and direct:
            expected.append(("audio", payload))
        elif frame[0] == 0x81 and direct:
            expected.append(("text", payload.decode(errors="replace")))
        elif not closing or opcode == CLOSE:
            expected.append(("frame", frame))
        if opcode < CLOSE:
            fragmented = not fin
            armed = armed or (fin and case.arming == AFTER_HELLO)
    if verdict == "frames":
        assert said == len(frames), "frames were miscounted"
        assert seen == expected, "something was lost, invented or reordered"
        limit = ARMED_BYTES if armed else LIMITS.hello_bytes
        assert announced <= limit, "too long a frame is waited for"
    else:
        assert isinstance(said, tuple)
        code, reason = said
        assert code in (1002, 1007, 1008, 1009), code
        require_plain(reason)
        assert seen == expected[: len(seen)], "something was lost, invented or reordered"


def _frames(stream: bytes) -> tuple[list[tuple[bytes, bytes]], int]:
    """All complete masked frames and their payloads; the size of one that has only begun."""
    frames: list[tuple[bytes, bytes]] = []
    while len(stream) >= 2:
        size, at = stream[1] & 0x7F, 2
        if size >= 126:
            at = 4 if size == 126 else 10
            if len(stream) < at:
                break
            size = int.from_bytes(stream[2:at], "big")
        start, end = at + 4, at + 4 + size
        if len(stream) < end:
            return frames, size
        key, masked = stream[at:start], stream[start:end]
        stretched = (key * (size // 4 + 1))[:size]
        number = int.from_bytes(masked, "big") ^ int.from_bytes(stretched, "big")
        frames.append((stream[:end], number.to_bytes(size, "big")))
        stream = stream[end:]
    return frames, 0


def _accepted_by_wsproto(case: Case, outcome: Outcome) -> None:
    if case.closing:
        return  # then it is given the peer's Close out of the middle of what came
    parser = FrameProtocol(client=False, extensions=[])
    for kind, frame in outcome:
        if kind == "frame":
            assert isinstance(frame, bytes)
            try:
                parser.receive_bytes(frame)
                for _ in parser.received_frames():
                    pass
            except ParseFailed as exc:
                raise AssertionError(f"wsproto was given a bad frame: {exc}") from exc


def write_frame(opcode: int, payload: bytes, *, fin: bool = True, mask: bytes) -> bytes:
    """One client frame; any ``opcode`` up to 127, reserved bits included."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = b"\xfe" + struct.pack("!H", size)
    else:
        length = b"\xff" + struct.pack("!Q", size)
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bytes([(0x80 if fin else 0) | opcode]) + length + mask + masked


def write_case(stream: bytes, sizes: bytes = b"", *, arming: int, closing: bool) -> bytes:
    """An input for `check`; the inverse of how it takes one apart."""
    return bytes([arming + 3 * closing, len(sizes)]) + sizes + stream


_payloads = (
    st.binary(max_size=20)
    | st.text(max_size=10).map(str.encode)
    | st.sampled_from([bytes(125), bytes(126), bytes(201), b"\xc3\xa9", b"\xf0\x9f", b"\xe9"])
)
_closes = st.builds(
    lambda code, why: struct.pack("!H", code) + why,
    st.sampled_from([999, 1000, 1001, 1005, 1006, 1013, 1014, 2999, 3000, 4999, 5000]),
    st.sampled_from([b"", b"bye", b"\xff", bytes(123), bytes(124)]),
)
_masks = st.binary(min_size=4, max_size=4)
_fins = st.sampled_from([True, True, False])
_data_frames = st.builds(
    lambda opcode, payload, fin, mask: write_frame(opcode, payload, fin=fin, mask=mask),
    st.sampled_from([0, 0, TEXT, TEXT, BINARY, BINARY, BINARY]),
    _payloads,
    _fins,
    _masks,
)
_control_frames = st.builds(
    lambda opcode, payload, mask: write_frame(opcode, payload, mask=mask),
    st.sampled_from([CLOSE, PING, PONG]),
    _closes | _payloads,
    _masks,
)
_ODD_FRAMES = (
    *(write_frame(opcode, b"", mask=bytes(4)) for opcode in (3, 11, 0x12, 0x41)),
    write_frame(PING, b"", fin=False, mask=bytes(4)),
    *(b"\x82\x05hello", b"\x82\xfe\x00\x7d", b"\x82\xff" + bytes(8), b"\x82\xff\x80"),
    b"\x82\xff" + (65_535).to_bytes(8, "big"),
    b"\x82\xff" + (ARMED_BYTES + 1).to_bytes(8, "big"),
    write_frame(BINARY, bytes(65_536), mask=b"\1\2\3\4"),  # rare, as it is slow
)
_odd_frames = st.integers(0, len(_ODD_FRAMES) - 1).map(lambda i: _ODD_FRAMES[i])
_streams = st.lists(
    _data_frames | _data_frames | _control_frames | _odd_frames | st.binary(max_size=6),
    max_size=8,
).map(b"".join)
messages = st.builds(
    lambda stream, sizes, arming, closing: write_case(
        stream, sizes, arming=arming, closing=closing
    ),
    _streams,
    st.lists(st.integers(1, 40), max_size=12).map(bytes),
    st.sampled_from([NEVER, AT_ONCE, AFTER_HELLO]),
    st.sampled_from([False, False, True]),
)

TARGET = Target(
    "stream",
    check,
    messages,
    (
        *(b"\x81\x80\0\0\0\0", b"\x82\x80\0\0\0\0", b"\x02\x80\0\0\0\0", b"\0\x80\0\0\0\0"),
        *(b"\x88\x82\0\0\0\0\x03\xe8", b"\x89\x80\0\0\0\0", b"\x80\x80\0\0\0\0"),
        *(b"\x82\xfe\0\x7e", b"\x82\xff\0\0\0\0\0\1\0\0"),
    ),
)
