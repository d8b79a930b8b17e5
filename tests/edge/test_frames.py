from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol

from trio_bridge.edge.frames import Cutter, Violation, close_frame, text_frame, unmask
from trio_bridge.edge.limits import EdgeLimits

from .peers import BINARY, CLOSE, PING, PONG, TEXT, close_payload, frame

LIMITS = EdgeLimits(hello_bytes=200, fragments=4, control_per_s=3)
Outcome = list[tuple[str, object]]


def outcome(
    *pieces: bytes,
    armed: bool = True,
    closing: bool = False,
    turn: int = 64,
    texts: bool = False,
) -> Outcome:
    """Feed ``pieces`` one by one; tell in order all that came out."""
    cutter = Cutter(LIMITS)
    seen: Outcome = []
    if armed:
        read = (lambda text: seen.append(("text", text))) if texts else None
        cutter.arm(70_000, lambda payload: seen.append(("audio", payload)), read)
    try:
        for piece in pieces:
            rest = piece if closing else cutter.hear_usual(piece, turn, 0.0)
            if piece and not rest:
                continue
            cutter.feed(rest)
            while cutter.pending:
                cut = cutter.cut(0.0, turn=turn, closing=closing)
                if cut is not None:
                    seen.append(("frame", cut))
    except Violation as violation:
        seen.append(("violation", (violation.code, violation.reason)))
    else:
        seen.append(("frames", cutter.frames))
    return seen


class Taker:
    """Takes the first few frames it is offered."""

    needs: tuple[object, ...] = ()

    def __init__(self, takes: int) -> None:
        self.takes, self.asked = takes, 0
        self.taken: list[tuple[bytes, float]] = []

    def take(self, frame: bytes, now_s: float) -> bool:
        self.asked += 1
        if self.asked > self.takes:
            return False
        self.taken.append((frame, now_s))
        return True


def cut_at(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


headers = st.builds(
    lambda opcode, fin, payload, mask: frame(opcode, payload, fin=fin, mask=mask),
    st.sampled_from([0, TEXT, BINARY, BINARY, BINARY, CLOSE, PING, PONG, 3, 0x12]),
    st.booleans() | st.just(True),
    st.binary(max_size=150)
    | st.sampled_from([bytes(125), bytes(126), bytes(300), b"\xc3\xa9"]),
    st.binary(min_size=4, max_size=4),
)
streams = st.binary(max_size=64) | st.lists(
    headers | headers | st.binary(max_size=6), max_size=12
).map(b"".join)


@given(streams, st.lists(st.integers(0, 600), max_size=20), st.booleans(), st.booleans())
@example(frame(BINARY, bytes(66_000)), [1, 2, 9, 10, 13, 14, 65_999], True, False)
@example(b"\x82\x7e", [], True, False)
def test_any_cut_of_the_stream_gives_the_same_result(
    data: bytes, places: list[int], armed: bool, closing: bool
) -> None:
    whole = outcome(data, armed=armed, closing=closing)
    pieces = cut_at(data, places)
    assert outcome(*pieces, armed=armed, closing=closing) == whole
    assert outcome(*pieces, armed=armed, closing=closing, turn=1) == whole
    bytewise = [data[i : i + 1] for i in range(min(len(data), 2000))]
    assert outcome(*bytewise, data[2000:], armed=armed, closing=closing) == whole


@given(st.text(max_size=300), st.sampled_from([0, 0, 0, 100, 65_000, 70_000]))
@example("a" * 125, 0)
@example("a" * 126, 0)
@example("a" * 65_535, 0)
@example("a" * 65_536, 0)
def test_what_we_write_is_the_frame_that_wsproto_writes(text: str, more: int) -> None:
    text += "x" * more
    protocol = FrameProtocol(client=False, extensions=[])
    assert text_frame(text) == protocol.send_data(text, fin=True)


@given(st.binary(min_size=4, max_size=300), st.integers(0, 9))
def test_unmasking_is_the_xor_of_the_rfc(data: bytes, offset: int) -> None:
    padded = bytes(offset) + data
    start, end = offset + 4, len(padded)
    expected = bytes(byte ^ data[i % 4] for i, byte in enumerate(data[4:]))
    assert unmask(padded, start, end) == expected


@given(st.lists(st.binary(max_size=2000), max_size=8), st.binary(min_size=4, max_size=4))
def test_whole_binary_frames_are_all_audio_and_nothing_else_comes_out(
    payloads: list[bytes], mask: bytes
) -> None:
    data = b"".join(frame(BINARY, payload, mask=mask) for payload in payloads)
    audio = [("audio", payload) for payload in payloads]
    assert outcome(data) == [*audio, ("frames", len(payloads))]


def test_the_frame_of_the_rfc_is_given_back_byte_for_byte() -> None:
    hello = bytes.fromhex("818537fa213d7f9f4d5158")  # "Hello", RFC 6455 §5.7
    assert outcome(hello, armed=False) == [("frame", hello), ("frames", 1)]


TWO_LONG = b"\x82\xfe\x00\x7d" + bytes(4)
EIGHT_LONG = b"\x82\xff" + (65_535).to_bytes(8, "big")
ENDLESS = b"\x82\xff" + (1 << 63).to_bytes(8, "big")
EMPTY_PIECES = frame(TEXT, fin=False) + frame(0, fin=False) * 4

VIOLATIONS = [
    (TWO_LONG, 1002, "length not minimal"),
    (EIGHT_LONG, 1002, "length not minimal"),
    (ENDLESS, 1002, "length not minimal"),
    (frame(TEXT | 0x40), 1002, "reserved bit set"),
    (frame(BINARY | 0x10), 1002, "reserved bit set"),
    (b"\x82\x05", 1002, "frame not masked"),
    (b"\x81\x05", 1002, "frame not masked"),
    (frame(3), 1002, "unknown opcode"),
    (frame(7), 1002, "unknown opcode"),
    (frame(11), 1002, "unknown opcode"),
    (frame(15), 1002, "unknown opcode"),
    (frame(PING, fin=False), 1002, "fragmented control frame"),
    (frame(CLOSE, fin=False), 1002, "fragmented control frame"),
    (frame(PING, bytes(126)), 1002, "control frame too long"),
    (frame(TEXT, fin=False) + frame(TEXT), 1002, "expected a continuation frame"),
    (frame(TEXT, fin=False) + frame(BINARY), 1002, "expected a continuation frame"),
    (frame(0), 1002, "unexpected continuation frame"),
    (frame(BINARY) + frame(0), 1002, "unexpected continuation frame"),
    (frame(BINARY, bytes(70_001))[:10], 1009, "message too big"),
    (frame(TEXT, bytes(70_001))[:10], 1009, "message too big"),
    (frame(2, bytes(70_000), fin=False) + b"\x80\x81", 1009, "message too big"),
    (EMPTY_PIECES, 1008, "too many fragments"),
    (frame(PING) * 2 + frame(PONG) * 2, 1008, "too many control frames"),
    (frame(TEXT, b"\xff"), 1007, "text is not UTF-8"),
    (frame(TEXT, b"\xc3"), 1007, "text is not UTF-8"),
    (frame(TEXT, b"\xc3", fin=False) + frame(0, b"\x28"), 1007, "text is not UTF-8"),
    (frame(TEXT, b"\xed\xa0\x80"), 1007, "text is not UTF-8"),
    (frame(CLOSE, b"\x03"), 1002, "invalid close code"),
    (frame(CLOSE, close_payload(999)), 1002, "invalid close code"),
    (frame(CLOSE, close_payload(1005)), 1002, "invalid close code"),
    (frame(CLOSE, close_payload(1006)), 1002, "invalid close code"),
    (frame(CLOSE, close_payload(2999)), 1002, "invalid close code"),
    (frame(CLOSE, close_payload(5000)), 1002, "invalid close code"),
    (frame(CLOSE, close_payload(1000, b"\xff")), 1007, "close reason is not UTF-8"),
]


@pytest.mark.parametrize(("data", "code", "reason"), VIOLATIONS)
def test_each_violation_has_its_close_code(data: bytes, code: int, reason: str) -> None:
    assert outcome(data)[-1] == ("violation", (code, reason))
    assert outcome(*[data[i : i + 1] for i in range(len(data))])[-1] == (
        "violation",
        (code, reason),
    )


@pytest.mark.parametrize(
    "payload",
    [b"", *(close_payload(code, b"bye") for code in (1000, 1001, 1011, 1013, 3000, 4999))],
)
def test_a_close_that_may_be_sent_is_passed_on(payload: bytes) -> None:
    data = frame(CLOSE, payload)
    assert outcome(data) == [("frame", data), ("frames", 1)]


def test_text_may_be_split_inside_a_character() -> None:
    pieces = [frame(TEXT, b"\xf0\x9f", fin=False), frame(PING), frame(0, b"\x99\x82")]
    assert outcome(b"".join(pieces)) == [*(("frame", piece) for piece in pieces), ("frames", 3)]


def test_a_fragmented_binary_message_is_not_audio() -> None:
    pieces = [frame(BINARY, b"a", fin=False), frame(0, b"b"), frame(BINARY, b"c")]
    assert outcome(b"".join(pieces)) == [
        ("frame", pieces[0]),
        ("frame", pieces[1]),
        ("audio", b"c"),
        ("frames", 3),
    ]


def test_before_it_is_armed_only_a_small_message_passes() -> None:
    fits = frame(BINARY, bytes(200))
    assert outcome(fits, armed=False) == [("frame", fits), ("frames", 1)]
    assert outcome(frame(BINARY, bytes(201)), armed=False) == [
        ("violation", (1009, "message too big"))
    ]


def test_the_first_whole_message_is_noticed() -> None:
    cutter = Cutter(LIMITS)
    cutter.feed(frame(PING) + frame(TEXT, b"a", fin=False) + frame(0, b"b") + frame(PING))
    seen = []
    while cutter.pending and not cutter.message_seen:
        seen.append(cutter.cut(0.0, turn=64))
    assert len(seen) == 3
    assert cutter.cut(0.0, turn=64) == frame(PING)


def test_control_frames_are_counted_over_any_second() -> None:
    cutter = Cutter(LIMITS)
    for now_s in (0.0, 0.25, 0.5, 1.0, 1.25, 1.5):
        cutter.feed(frame(PING))
        assert cutter.cut(now_s, turn=64) == frame(PING)
    cutter.feed(frame(PONG))
    with pytest.raises(Violation, match="1008 too many control frames"):
        cutter.cut(1.75, turn=64)


def test_while_we_close_only_the_peers_close_is_passed_on() -> None:
    bye = frame(CLOSE, close_payload(1000))
    data = frame(BINARY, b"a") + frame(TEXT, b"b") + frame(PING) + bye
    assert outcome(data, closing=True) == [("frame", bye), ("frames", 4)]
    bad = frame(BINARY, b"a") + frame(TEXT, b"\xff")
    assert outcome(bad, closing=True) == [("violation", (1007, "text is not UTF-8"))]


def test_a_turn_ends_after_its_frames_and_loses_none() -> None:
    audio: list[bytes] = []
    cutter = Cutter(LIMITS)
    cutter.arm(1000, audio.append)
    cutter.feed(b"".join(frame(BINARY, bytes([i])) for i in range(10)))
    assert cutter.cut(0.0, turn=4) is None
    assert len(audio) == 4
    assert cutter.pending
    assert cutter.cut(0.0, turn=6) is None
    assert audio == [bytes([i]) for i in range(10)]
    assert not cutter.pending


def test_what_the_audio_callback_raises_comes_out_and_its_frame_is_consumed() -> None:
    def fail(payload: bytes) -> None:
        raise RuntimeError(payload)

    cutter = Cutter(LIMITS)
    cutter.arm(1000, fail)
    cutter.feed(frame(BINARY, b"a") + frame(BINARY, b"b"))
    with pytest.raises(RuntimeError, match="a"):
        cutter.cut(0.0, turn=64)
    with pytest.raises(RuntimeError, match="b"):
        cutter.cut(0.0, turn=64)
    assert not cutter.pending


def test_cleared_bytes_are_forgotten() -> None:
    cutter = Cutter(LIMITS)
    cutter.feed(b"\x81")
    assert cutter.cut(0.0, turn=64) is None
    cutter.clear()
    cutter.feed(frame(PING))
    assert cutter.cut(0.0, turn=64) == frame(PING)


def test_our_verdict_is_a_frame_a_client_could_have_sent() -> None:
    violation = Violation(1008, "too many fragments")
    data = close_frame(violation)
    assert outcome(data) == [("frame", data), ("frames", 1)]
    assert data[6:] == close_payload(1008, b"too many fragments")


def test_limits_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match="fragments must be above zero"):
        EdgeLimits(fragments=0)


def test_frames_like_the_last_are_heard_the_short_way() -> None:
    heard: list[bytes] = []
    cutter = Cutter(LIMITS)
    cutter.arm(70_000, heard.append)
    first, other = frame(BINARY, b"a" * 300), frame(BINARY, b"b" * 301)
    assert cutter.hear_usual(first, 64, 0.0) == first, "there was none before"
    cutter.feed(first)
    assert cutter.cut(0.0, turn=64) is None
    like = frame(BINARY, b"c" * 300, mask=b"wxyz")
    assert cutter.hear_usual(like, 64, 0.0) == b""
    assert cutter.hear_usual(like + first + other, 64, 0.0) == other
    assert cutter.hear_usual(like + like, 1, 0.0) == like, "its turn is over"
    assert cutter.hear_usual(like + like[:-1], 64, 0.0) == like[:-1], "half a frame is left"
    text, fragment = frame(TEXT, b"d" * 300), frame(BINARY, b"d" * 300, fin=False)
    for unlike in (other, text, fragment):
        assert cutter.hear_usual(unlike, 64, 0.0) == unlike
    cutter.disarm()
    assert cutter.hear_usual(first, 64, 0.0) == first, "the end is under way"
    assert [payload[:1] for payload in heard] == [b"a", b"c", b"c", b"a", b"c", b"c"]
    assert cutter.frames == 6


def test_a_read_that_begins_in_the_middle_of_a_frame_like_the_last_is_heard_so_too() -> None:
    """As all reads of a peer whose frames have piled up do."""
    heard: list[bytes] = []
    cutter = Cutter(LIMITS)
    cutter.arm(70_000, heard.append)
    first, unlike = frame(BINARY, b"a" * 300), frame(TEXT, b"b" * 300)

    def waits(part: bytes) -> None:
        cutter.feed(part)
        assert cutter.cut(0.0, turn=64) is None

    waits(first + first[:100])
    assert cutter.hear_usual(first[100:200], 64, 0.0) == first[100:200], "not whole yet"
    waits(first[100:200])
    assert cutter.hear_usual(first[200:] + first + first[:3], 64, 0.0) == first[:3]
    assert len(heard) == 3
    waits(first[:3])
    assert cutter.hear_usual(first[3:], 64, 0.0) == first[3:], "nobody can tell yet what it is"
    waits(first[3:])
    waits(unlike[:100])
    assert cutter.hear_usual(unlike[100:] + first, 64, 0.0) == unlike + first, "it is a text"
    assert len(heard) == 4


def test_who_hears_a_frame_may_name_a_follower_that_takes_those_like_it_masked() -> None:
    """It is asked before they are unmasked; what it refuses is heard, and may name another."""
    heard: list[bytes] = []
    named: list[Taker] = []

    def on_audio(payload: bytes) -> Taker:
        heard.append(payload[:1])
        named.append(Taker(takes=2))
        return named[-1]

    cutter = Cutter(LIMITS)
    cutter.arm(70_000, on_audio)
    frames = [frame(BINARY, letter * 300, mask=b"wxyz") for letter in (b"a", b"b", b"c", b"d")]
    frames += [frame(BINARY, b"e" * 200)]
    cutter.feed(frames[0])
    assert cutter.cut(0.0, turn=64) is None
    assert cutter.hear_usual(b"".join(frames), 64, 5.0) == frames[4]
    assert named[0].taken == [(frames[0], 5.0), (frames[1], 5.0)]
    assert heard == [b"a", b"c"]
    assert named[1].taken == [(frames[3], 5.0)]
    cutter.feed(frames[4])
    assert cutter.cut(0.0, turn=64) is None
    assert heard == [b"a", b"c", b"e"], "another length: nobody was asked"
    cutter.disarm()
    assert cutter.hear_usual(frames[4], 64, 6.0) == frames[4]
    assert not named[2].taken, "and at the end nobody is"


def test_a_follower_is_not_asked_again_when_the_hearing_of_what_it_refused_failed() -> None:
    taker = Taker(takes=0)
    calls: list[bytes] = []

    def on_audio(payload: bytes) -> Taker:
        calls.append(payload)
        if len(calls) == 2:
            raise ZeroDivisionError
        return taker

    cutter = Cutter(LIMITS)
    cutter.arm(70_000, on_audio)
    one = frame(BINARY, bytes(300))
    cutter.feed(one)
    cutter.cut(0.0, turn=64)
    with pytest.raises(ZeroDivisionError):
        cutter.hear_usual(one, 64, 0.0)
    cutter.hear_usual(one, 64, 0.0)
    assert taker.asked == 1
    assert len(calls) == 3
    del calls[1:]
    cutter.feed(frame(BINARY, bytes(200)))
    with pytest.raises(ZeroDivisionError):
        cutter.cut(0.0, turn=64)
    assert cutter.hear_usual(one, 64, 0.0) == one
    assert taker.asked == 1
    assert cutter.frames == 4


def test_in_the_middle_of_a_fragmented_message_nothing_is_heard_the_short_way() -> None:
    audio = frame(BINARY, bytes(300))
    begun = frame(TEXT, b"a", fin=False)
    assert outcome(audio, begun, audio) == outcome(audio + begun + audio)


@given(
    st.lists(st.binary(min_size=126, max_size=400), max_size=8),
    st.binary(min_size=4, max_size=4),
)
def test_a_frame_a_read_is_heard_like_all_at_once(payloads: list[bytes], mask: bytes) -> None:
    frames = [frame(BINARY, payload, mask=mask) for payload in payloads]
    assert outcome(*frames) == outcome(b"".join(frames)) if frames else True


def test_texts_in_one_frame_go_to_their_own_callback() -> None:
    stream = (
        frame(TEXT, "ä".encode()),
        frame(TEXT, b"x", fin=False),
        frame(0, b"y"),
        frame(BINARY, b"z"),
    )
    assert outcome(*stream, texts=True) == [
        ("text", "ä"),
        ("frame", stream[1]),
        ("frame", stream[2]),
        ("audio", b"z"),
        ("frames", 4),
    ]


def test_a_text_for_the_callback_must_be_utf_8() -> None:
    bad = frame(TEXT, b"\xff")
    assert outcome(bad, texts=True) == [("violation", (1007, "text is not UTF-8"))]


def test_a_text_for_the_callback_is_limited() -> None:
    assert outcome(frame(TEXT, bytes(70_001))[:20], texts=True) == [
        ("violation", (1009, "message too big"))
    ]
