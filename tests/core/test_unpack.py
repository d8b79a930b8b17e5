"""Frames that are alike become the samples that each alone would, to the bit."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_bridge.audio.pcm import Samples, from_pcm16
from trio_bridge.unpack import TOGETHER, Header, unpacker

from ..edge.peers import BINARY, frame

keys = st.binary(min_size=4, max_size=4)


def noise_pcm(count: int, seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(-32_768, 32_767, count, endpoint=True)
    return noise.astype("<i2").tobytes()


@given(
    st.binary(min_size=5, max_size=40),
    st.integers(64, 500),  # below, a length has no 16 bits and the short way is not taken
    st.sampled_from([1, 2]),
    st.lists(keys, min_size=1, max_size=TOGETHER),
)
@example(b"\x01\x00\x00\x00\x00", 4_800, 1, [b"\xff\x00\x80\x01"])
def test_frames_unpack_together_as_each_does_alone(
    header: bytes, samples: int, channels: int, masks: list[bytes]
) -> None:
    pcm = [noise_pcm(samples * channels, seed) for seed in range(len(masks))]
    frames = [
        frame(BINARY, header + said, mask=mask) for said, mask in zip(pcm, masks, strict=True)
    ]
    unpacked = unpacker(len(frames[0]), len(header), channels).unpack(frames)
    alone = np.concatenate([from_pcm16(said, channels) for said in pcm])
    assert unpacked.dtype == np.float32
    assert unpacked.tobytes() == alone.tobytes()


def test_more_than_the_room_is_for_is_our_own_bug() -> None:
    one = frame(BINARY, b"\x01\x00\x00\x00\x00" + noise_pcm(480, 1))
    with pytest.raises(AssertionError):
        unpacker(len(one), 5, 1).unpack([one] * (TOGETHER + 1))


@given(st.binary(min_size=1, max_size=70), st.binary(min_size=130, max_size=200), keys)
@example(b"\x00\x00", bytes(130), b"\x01\x02\x03\x04")
def test_a_header_is_recognised_under_any_mask(
    header: bytes, payload: bytes, mask: bytes
) -> None:
    assert Header(header).begins(frame(BINARY, header + payload, mask=mask))
    begins = Header(header).begins(frame(BINARY, payload, mask=mask))
    assert begins == payload.startswith(header)


def test_two_threads_never_unpack_into_the_same_memory() -> None:
    frames = [frame(BINARY, b"\x01\x00\x00\x00\x00" + noise_pcm(480, 1))]
    other = [frame(BINARY, b"\x01\x00\x00\x00\x00" + noise_pcm(480, 2))]
    found: list[Samples] = []

    def unpack_other() -> None:
        found.append(unpacker(len(other[0]), 5, 1).unpack(other))

    ours = unpacker(len(frames[0]), 5, 1).unpack(frames)
    before = ours.tobytes()
    thread = threading.Thread(target=unpack_other)
    thread.start()
    thread.join()
    assert not np.shares_memory(ours, found[0])
    assert ours.tobytes() == before
