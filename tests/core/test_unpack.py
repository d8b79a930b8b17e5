"""Frames of many meetings become the samples that each alone would, to the bit."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_bridge.audio.pcm import Samples, from_pcm16
from trio_bridge.unpack import ROOM_SAMPLES, SHAPES, Header, Parcel

from ..edge.peers import BINARY, TEXT, frame

keys = st.binary(min_size=4, max_size=4)


def noise_pcm(count: int, seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(-32_768, 32_767, count, endpoint=True)
    return noise.astype("<i2").tobytes()


def parcel_of(header: bytes, pcm: list[bytes], masks: list[bytes], channels: int) -> Parcel:
    parcel = Parcel(len(header), len(pcm[0]) // 2 // channels, channels)
    for said, mask in zip(pcm, masks, strict=True):
        parcel.frames.append(frame(BINARY, header + said, mask=mask))
    return parcel


@st.composite
def rooms(draw: st.DrawFn) -> list[tuple[bytes, int, int]]:
    """Some meetings with frames alike but for their headers: header, samples, channels."""
    samples = draw(st.integers(64, 500))  # below, a length has no 16 bits
    channels = draw(st.sampled_from([1, 2]))
    headers = draw(st.lists(st.binary(min_size=5, max_size=40), min_size=1, max_size=8))
    return [(header, samples, channels) for header in headers]


steps = st.lists(
    st.tuples(
        st.sampled_from(["come", "come", "take"]),
        st.integers(0, 7),
        st.lists(keys, min_size=1, max_size=12),
    ),
    max_size=40,
)


@given(rooms(), steps)
def test_frames_of_all_meetings_unpack_as_each_does_alone(
    meetings: list[tuple[bytes, int, int]], script: list[tuple[str, int, list[bytes]]]
) -> None:
    parcels = [Parcel(len(header), samples, ch) for header, samples, ch in meetings]
    said = [b""] * len(parcels)
    got = [b""] * len(parcels)

    def take(number: int) -> None:
        taken = parcels[number].take()
        assert taken.dtype == np.float32
        got[number] += taken.tobytes()

    for seed, (act, number, masks) in enumerate(script):
        number %= len(parcels)
        header, samples, channels = meetings[number]
        parcel = parcels[number]
        if act == "come":
            for n, mask in enumerate(masks):
                pcm = noise_pcm(samples * channels, 100 * seed + n)
                parcel.frames.append(frame(BINARY, header + pcm, mask=mask))
                said[number] += from_pcm16(pcm, channels).tobytes()
        elif parcel.frames:
            take(number)
    for number, parcel in enumerate(parcels):
        while parcel.frames:
            take(number)
    assert got == said


def all_of(parcel: Parcel) -> bytes:
    taken = [parcel.take().copy()]
    while parcel.frames:
        taken.append(parcel.take().copy())
    return b"".join(part.tobytes() for part in taken)


def test_more_frames_than_there_is_room_for_are_taken_by_and_by() -> None:
    pcm = [noise_pcm(9_600, seed) for seed in range(9)]  # 200 ms each
    parcel = parcel_of(HEADER, pcm, [b"\x01\x02\x03\x04"] * 9, 1)
    assert len(parcel.take()) == ROOM_SAMPLES // 9_600 * 9_600
    assert all_of(parcel) == from_pcm16(b"".join(pcm[3:])).tobytes()


def test_a_frame_that_needs_the_whole_room_is_unpacked_alone() -> None:
    pcm = [noise_pcm(32_000, seed) for seed in range(2)]
    parcel = parcel_of(HEADER, pcm, [b"\x01\x02\x03\x04"] * 2, 1)
    assert len(parcel.take()) == 32_000
    assert all_of(parcel) == from_pcm16(pcm[1]).tobytes()


def test_the_room_is_used_again_by_the_next_meeting() -> None:
    assert np.shares_memory(some_parcel(1).take(), some_parcel(2).take())


def test_headers_of_more_lengths_than_are_remembered_unpack_alike() -> None:
    for _ in range(2):
        for size in range(5, 5 + 4 * (SHAPES + 2), 4):  # one shape, for each another desk
            pcm = noise_pcm(960, size)
            parcel = parcel_of(bytes(size), [pcm], [b"\x01\x02\x03\x04"], 1)
            assert parcel.take().tobytes() == from_pcm16(pcm).tobytes()


def test_what_could_not_be_unpacked_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = some_parcel(1)
    with monkeypatch.context() as patch:
        patch.setattr("trio_bridge.unpack.np.copyto", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ours.take()
    assert ours.take().tobytes() == from_pcm16(noise_pcm(960, 1)).tobytes()


HEADER = b"\x01\x00\x00\x00\x00"


def some_parcel(seed: int) -> Parcel:
    return parcel_of(HEADER, [noise_pcm(960, seed)], [bytes([1, 2, seed, 4])], 1)


@given(st.binary(min_size=1, max_size=70), st.binary(min_size=130, max_size=200), keys)
@example(b"\x00\x00", bytes(130), b"\x01\x02\x03\x04")
def test_a_header_is_recognised_under_any_mask(
    header: bytes, payload: bytes, mask: bytes
) -> None:
    assert Header(header, len(header + payload)).begins(
        frame(BINARY, header + payload, mask=mask)
    )
    begins = Header(header, len(payload)).begins(frame(BINARY, payload, mask=mask))
    assert begins == payload.startswith(header)


@given(st.integers(126, 0xFFFF), st.integers(126, 0xFFFF), keys)
@example(126, 0xFFFF, b"\xff\xff\xff\xff")
def test_a_frame_of_another_length_or_kind_is_not_recognised(
    size: int, other: int, mask: bytes
) -> None:
    header = Header(b"\x01\x02\x03", size)
    payload = b"\x01\x02\x03".ljust(size, b"\x04")
    assert header.begins(frame(BINARY, payload, mask=mask))
    assert not header.begins(frame(TEXT, payload, mask=mask))
    assert not header.begins(frame(BINARY, payload, mask=mask, fin=False))
    same = frame(BINARY, payload[:3].ljust(other, b"\x04"), mask=mask)
    assert header.begins(same) == (size == other)


def test_two_threads_never_unpack_into_the_same_memory() -> None:
    found: list[Samples] = []
    ours = some_parcel(1).take()
    before = ours.tobytes()
    thread = threading.Thread(target=lambda: found.append(some_parcel(2).take()))
    thread.start()
    thread.join()
    assert not np.shares_memory(ours, found[0])
    assert ours.tobytes() == before
