from __future__ import annotations

import base64
import json
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_bridge.wire.frames import (
    BAD_UTF8,
    ODD_BYTE,
    AudioFrame,
    FrameError,
    decode_audio,
    decode_frame,
    encode_frame,
    encode_headed_frame,
    encode_legacy_frame,
)

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
pcms = st.integers(0, 64).flatmap(lambda n: st.binary(min_size=2 * n, max_size=2 * n))
frames = st.builds(AudioFrame, names, names, pcms)


@given(frames)
def test_the_binary_form_round_trips(frame: AudioFrame) -> None:
    assert decode_audio(encode_frame(frame)) == frame


@given(frames, st.integers(0, 2**42))
def test_the_headed_form_round_trips_with_its_time(frame: AudioFrame, stamp: int) -> None:
    stamped = AudioFrame(frame.speaker_id, frame.speaker_name, frame.pcm, timestamp_ms=stamp)
    assert decode_audio(encode_headed_frame(stamped)) == stamped


@given(frames)
def test_the_legacy_form_round_trips_but_for_the_id_it_cannot_hold(frame: AudioFrame) -> None:
    nameless = AudioFrame("", frame.speaker_name, frame.pcm)
    assert decode_audio(encode_legacy_frame(frame)) == nameless


@given(st.binary(max_size=256) | frames.map(encode_frame) | frames.map(encode_headed_frame))
@example(b"")
@example(b"\x01\xff\xff")
@example(b"\x00\x00\x00\x02{}")
@example(b"\x00\x00\x00\x05{\xff\xff}")
def test_any_bytes_decode_or_raise_frame_error(data: bytes) -> None:
    try:
        frame = decode_audio(data)
    except FrameError as error:
        assert 0 <= error.offset <= len(data)
        assert str(error).startswith(error.reason)
    else:
        assert len(frame.pcm) % 2 == 0
        assert len(frame.pcm) <= len(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
legacy_keys = st.sampled_from(
    ["type", "speakerName", "audioData", "sampleRate", "channels", "speakerId"]
)


@given(st.text() | st.dictionaries(legacy_keys, json_values).map(json.dumps))
@example("[" * 100_000)
@example('{"type": ' + "9" * 5_000 + "}")
@example('{"type": NaN}')
def test_any_text_decodes_or_raises_frame_error(text: str) -> None:
    try:
        frame = decode_audio(text)
    except FrameError:
        return
    assert len(frame.pcm) % (2 * frame.channels) == 0
    frame.speaker_name.encode()


@given(frames, st.data())
def test_a_frame_cut_in_its_header_is_rejected(frame: AudioFrame, data: st.DataObject) -> None:
    whole = encode_frame(frame)
    cut = data.draw(st.integers(0, len(whole) - len(frame.pcm) - 1), label="cut")
    with pytest.raises(FrameError):
        decode_frame(whole[:cut])


def test_an_odd_byte_is_dropped_and_named_and_bad_utf8_replaced() -> None:
    frame = decode_frame(b"\x01\x01\x00\xff\x00\x00" + b"\x01\x02\x03")
    assert frame == AudioFrame("\ufffd", "", b"\x01\x02", flaws=(BAD_UTF8, ODD_BYTE))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"[1]", "unknown type"),
        (b"{1}", "not JSON"),
        (b'{"speaker_id": 7}', "speaker_id is not text"),
        (b'{"speaker_name": [1]}', "speaker_name is not text"),
    ],
)
def test_a_header_that_is_no_object_of_text_is_rejected(header: bytes, reason: str) -> None:
    with pytest.raises(FrameError) as caught:
        decode_audio(struct.pack(">I", len(header)) + header + b"\0\0")
    assert caught.value.reason == reason


def test_a_header_with_bad_utf8_or_a_strange_time_still_yields_its_audio() -> None:
    header = b'{"speaker_id": "\xff", "timestamp_ms": "noon"}'
    frame = decode_audio(struct.pack(">I", len(header)) + header + b"\1\0\2")
    assert frame == AudioFrame("\ufffd", "", b"\1\0", flaws=(BAD_UTF8, ODD_BYTE))


def test_a_header_that_runs_past_the_end_is_rejected() -> None:
    with pytest.raises(FrameError, match="truncated header at byte 0"):
        decode_audio(b"\x00\x00\x01\x00{}")


def legacy(**fields: object) -> str:
    return json.dumps(
        {"type": "PCMChunk", "speakerName": "A", "audioData": "AAD/fw==", **fields}
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"speakerName": 7}, "speakerName is not text"),
        ({"audioData": None}, "no audioData"),
        ({"audioData": 7}, "audioData is not text"),
        ({"audioData": "AA="}, "bad base64"),
        ({"audioData": "ä"}, "bad base64"),
        ({"audioData": "AAA A"}, "bad base64"),
        ({"type": "PCM"}, "unknown type"),
        ({"sampleRate": 1}, "sampleRate is not a whole number from 8000 to 192000"),
        ({"sampleRate": 16_000.0}, "sampleRate is not a whole number from 8000 to 192000"),
        ({"channels": True}, "channels is not a whole number from 1 to 2"),
    ],
)
def test_a_legacy_frame_with_a_wrong_field_is_rejected_with_its_name(
    fields: dict[str, object], reason: str
) -> None:
    with pytest.raises(FrameError) as caught:
        decode_audio(legacy(**fields))
    assert caught.value.reason == reason


def test_a_legacy_frame_may_say_its_rate_channels_and_id_and_need_not_name_its_speaker() -> (
    None
):
    frame = decode_audio(
        legacy(sample_rate=16_000, channels=2, speakerId="u", speakerName=None)
    )
    assert frame == AudioFrame("u", "", b"\0\0\xff\x7f", rate_hz=16_000, channels=2)
    odd = base64.b64encode(bytes(6)).decode()
    assert decode_audio(legacy(channels=2, audioData=odd)).flaws == (ODD_BYTE,)


def test_a_lone_surrogate_in_a_name_becomes_a_replacement_character() -> None:
    assert decode_audio(legacy(speakerName="\ud800x")).speaker_name == "\ufffdx"


@pytest.mark.parametrize(
    "frame",
    [
        AudioFrame("", "", b"\0"),
        AudioFrame("", "", b"", rate_hz=16_000),
        AudioFrame("", "", b"", channels=2),
    ],
)
def test_what_the_wire_cannot_say_is_not_encoded(frame: AudioFrame) -> None:
    for encode in (encode_frame, encode_headed_frame, encode_legacy_frame):
        with pytest.raises(ValueError, match="48 000 Hz"):
            encode(frame)


def test_a_name_that_does_not_fit_its_length_field_is_not_encoded() -> None:
    with pytest.raises(ValueError, match="65 535"):
        encode_frame(AudioFrame("x" * 65_536, "", b""))
