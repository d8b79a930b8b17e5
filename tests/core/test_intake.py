"""Intake: every message becomes audio at its place or a counted reason, to the sample."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_bridge.audio.mixing import LONGEST_LEAD_S, Piece
from trio_bridge.audio.pcm import Samples
from trio_bridge.audio.speakers import LONGEST_TEXT, OwnVoice, Speaker
from trio_bridge.audio.timeline import RATE_HZ, Heard, Timeline
from trio_bridge.config import Settings
from trio_bridge.intake import LONGEST_FRAME_S, SPEAKERS_REMEMBERED, Intake
from trio_bridge.wire.frames import (
    AudioFrame,
    FrameError,
    encode_frame,
    encode_headed_frame,
    encode_legacy_frame,
)

ANN = Speaker("1", "Ann")
BOT = Speaker("b", "Helper")
FRAME_S = 0.02


def intake(**options: Any) -> Intake:
    layout = options.pop("layout", "mixed")
    own = OwnVoice(options.pop("names", ("Helper",)), options.pop("ids", ()))
    return Intake(Timeline(layout), own, **options)


def pcm(length: int, value: int = 1_000) -> bytes:
    return np.full(length, value, "<i2").tobytes()


def frame(speaker: Speaker = ANN, data: bytes | None = None) -> bytes:
    return encode_frame(
        AudioFrame(speaker.id, speaker.name, pcm(960) if data is None else data)
    )


def legacy(data: bytes, **fields: object) -> str:
    audio = base64.b64encode(data).decode()
    return json.dumps({"type": "PCMChunk", "speakerName": "Ann", "audioData": audio, **fields})


def assert_balanced(taken: Intake) -> None:
    timeline = taken.timeline
    assert taken.received == taken.own_left_out + timeline.received
    assert (
        timeline.received + timeline.filled
        == timeline.mixed + timeline.overlapped + timeline.waiting
    )


def joined(pieces: list[Piece]) -> Samples:
    return np.concatenate([np.zeros(0, np.float32), *[piece.samples for piece in pieces]])


def take_all(
    taken: Intake, messages: list[bytes | str], step_s: float = FRAME_S
) -> list[Piece]:
    """The mix of messages that come one after the other."""
    pieces, now_s = [], 0.0
    for message in messages:
        pieces += taken.take(message, now_s).mix
        assert_balanced(taken)
        now_s += step_s
    return pieces + taken.timeline.finish(now_s).mix


BAD: list[tuple[str, bytes | str]] = [
    ("short", b""),
    ("short", b"\x01"),
    ("short", b"\x01\x00\x00\x00"),
    ("unknown type", b"\x07\x00\x00\x00\x00\x00\x00"),
    ("unknown type", b"\x00\x00\x00\x00\x00\x00"),
    ("truncated speaker_id", b"\x01\xff\xff" + b"x" * 9),
    ("truncated sname_length", b"\x01\x02\x00ab\x00"),
    ("truncated speaker_name", b"\x01\x01\x00a\xff\xff" + b"x" * 9),
    ("truncated header", b"\x00\x00\x01\x00{}"),
    ("not JSON", b"\x00\x00\x00\x02{x"),
    ("speaker_id is not text", b"\x00\x00\x00\x10" + b'{"speaker_id":1}'),
    ("not JSON", ""),
    ("not JSON", "hello"),
    ("too many values", "[" * 100_000),
    ("JSON is not an object", "[]"),
    ("unknown type", "{}"),
    ("unknown type", '{"type": "ready", "bot_id": "x"}'),
    ("no audioData", '{"type": "PCMChunk"}'),
    ("audioData is not text", '{"type": "PCMChunk", "audioData": 7}'),
    ("speakerName is not text", '{"type": "PCMChunk", "speakerName": 7, "audioData": ""}'),
    ("bad base64", '{"type": "PCMChunk", "audioData": "%%%%"}'),
    ("longer than 2 s", frame(data=pcm(2 * RATE_HZ + 1))),
    ("longer than 2 s", legacy(pcm(16_001), sampleRate=8_000)),
    ("longer than 2 s", legacy(pcm(2 * 16_002), sampleRate=8_000, channels=2)),
]


# -- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(("reason", "message"), BAD)
def test_bad_input_is_counted_by_reason_and_the_next_good_frame_is_heard(
    reason: str, message: bytes | str
) -> None:
    taken = intake()
    for times in (1, 2, 3):
        with pytest.raises(FrameError) as caught:
            taken.take(message, 0.0)
        assert caught.value.reason == reason
        assert taken.rejected == {reason: times}
        assert taken.rejected_in_a_row == times
    assert (taken.frames, taken.received) == (0, 0)
    heard = taken.take(frame(), 1.0)
    assert [(p.speaker, len(p.samples)) for p in heard.mix] == [(ANN, 960)]
    assert taken.rejected_in_a_row == 0
    assert taken.rejected == {reason: 3}
    assert_balanced(taken)


def test_all_bad_input_together_is_told_apart() -> None:
    taken = intake()
    for _, message in BAD:
        with pytest.raises(FrameError):
            taken.take(message, 0.0)
    assert sum(taken.rejected.values()) == taken.rejected_in_a_row == len(BAD)
    assert set(taken.rejected) == {reason for reason, _ in BAD}


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=60) | st.text(max_size=60) | st.just(frame()), max_size=20))
def test_any_messages_are_frames_or_counted_and_the_books_balance(
    messages: list[bytes | str],
) -> None:
    taken, bad = intake(layout="auto"), 0
    for serial, message in enumerate(messages):
        try:
            taken.take(message, serial * FRAME_S)
        except FrameError:
            bad += 1
        assert_balanced(taken)
    assert sum(taken.rejected.values()) == bad
    assert taken.frames + bad == len(messages)


def test_a_mended_frame_is_heard_and_its_flaw_counted() -> None:
    taken = intake()
    heard = taken.take(frame() + b"\x00", 0.0)
    heard_too = taken.take(b"\x01\x01\x00\xff\x01\x00\xff" + pcm(960), 0.02)
    assert len(joined(heard.mix)) == len(joined(heard_too.mix)) == 960
    assert taken.flawed == {"odd byte": 1, "bad UTF-8": 1}
    assert not taken.rejected


def test_half_a_stereo_sample_is_a_flaw_like_half_a_mono_one() -> None:
    """Every sample is accounted for: what is cut off at the end is counted somewhere."""
    taken = intake(channels=2)
    heard = taken.take(frame(data=pcm(2 * 960 + 1)), 0.0)
    assert len(joined(heard.mix)) == 960
    assert sum(taken.flawed.values()) == 1


def test_a_flaw_counts_once_a_frame_and_only_for_frames_that_were_heard() -> None:
    taken = intake(channels=2)
    taken.take(frame(data=pcm(2 * 960 + 1)) + b"\x00", 0.0)  # half a sample, half a pair
    assert taken.flawed == {"odd byte": 1}
    with pytest.raises(FrameError):
        taken.take(frame(data=pcm(2 * 2 * RATE_HZ + 3)), 0.02)
    assert taken.flawed == {"odd byte": 1}


# -- lengths, rates and channels -------------------------------------------------------------


@pytest.mark.parametrize(
    "length", [0, 1, 48, 960, 1_777, 4_800, round(LONGEST_FRAME_S * RATE_HZ)]
)
def test_a_frame_of_any_length_is_heard_whole(length: int) -> None:
    taken = intake()
    assert len(joined(taken.take(frame(data=pcm(length)), 0.0).mix)) == length
    assert (taken.frames, taken.received) == (1, length)
    assert len(joined(taken.take(frame(), 3.0).mix)) == 960
    assert_balanced(taken)


@pytest.mark.parametrize("layout", ["auto", "mixed", "separate"])
def test_an_empty_frame_between_others_harms_nothing(layout: str) -> None:
    taken = intake(layout=layout)
    pieces = take_all(
        taken, [frame(), frame(data=b""), frame(), frame(BOT, b""), frame()], 0.01
    )
    assert np.count_nonzero(joined(pieces)) == 3 * 960


@pytest.mark.parametrize(
    "message",
    [
        encode_frame(AudioFrame("1", "Ann", pcm(960))),
        encode_headed_frame(AudioFrame("1", "Ann", pcm(960))),
        encode_legacy_frame(AudioFrame("", "Ann", pcm(960))),
    ],
)
def test_the_three_forms_are_heard_alike(message: bytes | str) -> None:
    heard = intake().take(message, 0.0)
    assert [p.speaker.name for p in heard.mix if p.speaker] == ["Ann"]
    np.testing.assert_allclose(joined(heard.mix), 1_000 / 32_768)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050, 44_100, 96_000])
def test_another_rate_is_resampled_in_one_stream_without_clicks(rate_hz: int) -> None:
    taken, length = intake(), rate_hz // 50
    times = np.arange(100 * length) / rate_hz
    tone = np.rint(10_000 * np.sin(2 * np.pi * 440 * times)).astype("<i2")
    messages: list[bytes | str] = [
        legacy(tone[at : at + length].tobytes(), sampleRate=rate_hz)
        for at in range(0, len(tone), length)
    ]
    heard = joined(take_all(taken, messages))
    assert taken.received == len(heard)
    assert 0.9 * 2 * RATE_HZ < len(heard) <= 2 * RATE_HZ
    middle = heard[RATE_HZ // 2 : RATE_HZ * 3 // 2].astype(np.float64)
    at = np.arange(len(middle)) * 2 * np.pi * 440 / RATE_HZ
    basis = np.stack([np.sin(at), np.cos(at)], axis=1)
    fit = basis @ np.linalg.lstsq(basis, middle, rcond=None)[0]
    noise = middle - fit
    assert 10 * np.log10(np.dot(fit, fit) / np.dot(noise, noise)) > 60


def test_two_speakers_at_another_rate_do_not_share_a_resampler() -> None:
    both, alone = intake(layout="separate"), intake(layout="separate")
    loud, low = pcm(320, 20_000), pcm(320, 0)
    both_voices: list[Piece] = []
    alone_voices: list[Piece] = []
    for serial in range(30):
        message = legacy(loud, sampleRate=16_000, speakerId="1")
        both_voices += both.take(message, serial * FRAME_S).voices
        alone_voices += alone.take(message, serial * FRAME_S).voices
        other = legacy(low, sampleRate=16_000, speakerId="2", speakerName="Bob")
        quiet = both.take(other, serial * FRAME_S).voices
        assert not np.any(joined(quiet))
        both_voices += [p for p in quiet if p.speaker and p.speaker.id == "1"]
    np.testing.assert_array_equal(joined(both_voices), joined(alone_voices))


def test_stereo_is_the_mean_when_it_is_configured_or_said() -> None:
    left_right = np.tile(np.array([16_384, 0], "<i2"), 960).tobytes()
    configured = intake(channels=2).take(frame(data=left_right), 0.0)
    said = intake().take(legacy(left_right, channels=2), 0.0)
    for heard in (configured, said):
        np.testing.assert_array_equal(joined(heard.mix), np.full(960, 0.25, np.float32))


def test_the_longest_frame_is_two_seconds_in_stereo_too() -> None:
    taken = intake(channels=2)
    assert len(joined(taken.take(frame(data=pcm(4 * RATE_HZ)), 0.0).mix)) == 2 * RATE_HZ
    with pytest.raises(FrameError):
        taken.take(frame(data=pcm(4 * RATE_HZ + 2)), 2.0)


# -- our own voice ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Helper", "HELPER", " helper ", "hElPeR"])
def test_our_own_voice_becomes_silence_of_the_same_length(name: str) -> None:
    taken = intake()
    pieces = take_all(taken, [frame(), frame(Speaker("9", name)), frame()])
    heard = joined(pieces)
    assert len(heard) == 3 * 960
    assert not np.any(heard[960:1920])
    assert np.all(heard[:960])
    assert np.all(heard[1920:])
    assert (taken.own, taken.own_left_out) == (960, 0)
    assert {p.speaker for p in pieces} == {ANN, None}


@pytest.mark.parametrize("name", ["Help", "Helper 2", "A Helper", "Helperina", "", "H"])
def test_a_name_like_ours_is_somebody_else(name: str) -> None:
    taken = intake()
    assert np.all(joined(taken.take(frame(Speaker("9", name)), 0.0).mix))
    assert taken.own == 0


def test_our_speaker_id_is_ours_whatever_the_name() -> None:
    taken = intake(names=(), ids=("b",))
    assert not np.any(joined(taken.take(frame(Speaker("b", "Ann")), 0.0).mix))
    assert np.all(joined(taken.take(frame(Speaker("B", "Helper")), 0.02).mix))
    assert taken.own == 960


def test_our_own_voice_can_be_left_out_and_is_counted() -> None:
    taken = intake(silence_own=False)
    pieces = take_all(taken, [frame(), frame(BOT), frame()])
    assert np.count_nonzero(joined(pieces)) == 2 * 960
    assert (taken.own, taken.own_left_out, taken.received) == (960, 960, 3 * 960)


def test_in_separate_streams_our_own_voice_is_left_out() -> None:
    """Silence of ours would be one speaker more."""
    taken = intake(layout="separate")
    voices: list[Piece] = []
    for serial in range(10):
        voices += taken.take(frame(), serial * FRAME_S).voices
        heard: Heard = taken.take(frame(BOT), serial * FRAME_S)
        assert BOT not in {p.speaker for p in [*heard.voices, *heard.mix]}
        assert_balanced(taken)
    assert len(joined(voices)) == 10 * 960
    assert taken.own == 10 * 960


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from([ANN, Speaker("2", "Bob"), BOT]), st.integers(0, 2_000)),
        max_size=40,
    ),
    st.booleans(),
    st.sampled_from(["auto", "mixed", "separate"]),
    st.sampled_from([0.0, 0.02, 0.7]),
)
def test_every_sample_is_accounted_for(
    said: list[tuple[Speaker, int]], silence_own: bool, layout: str, step_s: float
) -> None:
    taken, now_s, mixed, total, own = (
        intake(silence_own=silence_own, layout=layout),
        0.0,
        0,
        0,
        0,
    )
    for speaker, length in said:
        mixed += len(joined(taken.take(frame(speaker, pcm(length)), now_s).mix))
        total += length
        own += length * (speaker is BOT)
        assert_balanced(taken)
        now_s += step_s
        mixed += len(joined(taken.timeline.tick(now_s).mix))
        assert_balanced(taken)
    mixed += len(joined(taken.timeline.finish(now_s).mix))
    assert_balanced(taken)
    assert (taken.received, taken.own, taken.frames) == (total, own, len(said))
    assert mixed == taken.timeline.mixed
    assert taken.timeline.waiting == 0
    assert own == taken.own_left_out or silence_own


# -- strangers' ids --------------------------------------------------------------------------


def test_a_flood_of_new_speakers_loses_no_audio_and_no_memory() -> None:
    taken = intake()
    count = 3 * SPEAKERS_REMEMBERED
    for serial in range(count):
        who = Speaker(str(serial), f"name {serial}")
        heard = taken.take(frame(who, pcm(48)), serial * 0.001)
        assert [p.speaker for p in heard.mix] == [who]
        taken.take(legacy(pcm(16), sampleRate=16_000, speakerId=str(serial)), serial * 0.001)
    assert taken.frames == 2 * count
    assert len(taken._speakers) <= SPEAKERS_REMEMBERED
    assert len(taken._resamplers) <= SPEAKERS_REMEMBERED
    assert_balanced(taken)


def test_reasons_and_flaws_are_a_fixed_few_whatever_is_sent() -> None:
    """They are keys of a counter that lives as long as the meeting."""
    taken = intake()
    for serial in range(300):
        for message in (
            f'{{"x{serial}": ',
            bytes((serial % 256,)) * 9,
            legacy(b"", type=serial),
        ):
            try:
                taken.take(message, 0.0)
            except FrameError as error:
                assert str(serial) not in error.reason or serial < 10
    assert len(taken.rejected) < 20


# -- what a review found ---------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["auto", "mixed", "separate"])
def test_an_empty_frame_is_nothing_that_anybody_could_hear(layout: str) -> None:
    taken = intake(layout=layout)
    for form in (encode_frame, encode_headed_frame, encode_legacy_frame):
        heard = taken.take(form(AudioFrame("9", "Bob", b"")), 0.0)
        assert (heard.mix, heard.voices) == ([], [])
    assert taken.frames == 3
    assert taken.timeline.tick(100.0).mix == [], "the meeting has not even begun"
    assert taken.timeline.finish(100.0).mix == []
    assert_balanced(taken)


def test_empty_frames_do_not_make_one_stream_several() -> None:
    taken = intake(layout="auto")
    for serial in range(20):
        now_s = serial * FRAME_S
        assert len(taken.take(frame(), now_s).mix) == 1
        for who in (Speaker("2", "Bob"), ANN) * 3:
            taken.take(frame(who, b""), now_s)
    assert not taken.timeline.separate
    assert taken.timeline.waiting == 0


def test_the_largest_audio_message_has_room_for_the_longest_frame_in_any_form() -> None:
    for channels in (1, 2):
        longest = AudioFrame("i" * 100, "n" * 100, bytes(2 * RATE_HZ * 2 * channels))
        for form in (encode_frame, encode_headed_frame, encode_legacy_frame):
            message = form(longest)
            assert len(message) <= Settings().audio_message_bytes * channels
            taken = intake(channels=channels)
            assert len(joined(taken.take(message, 0.0).mix)) == 2 * RATE_HZ


@pytest.mark.parametrize("layout", ["auto", "separate"])
def test_thousands_of_speakers_at_once_are_bounded_and_balance(layout: str) -> None:
    taken = intake(layout=layout)
    voices = {f"{n}": 0 for n in range(3_000)}
    for n, identity in enumerate(voices):
        heard = taken.take(frame(Speaker(identity, ""), pcm(96)), n / 40_000)
        for piece in heard.voices:
            assert piece.speaker is not None
            voices[piece.speaker.id] += len(piece.samples)
        assert_balanced(taken)
    assert taken.timeline.waiting <= (LONGEST_LEAD_S + 0.5) * RATE_HZ
    for piece in taken.timeline.finish(1.0).voices:
        assert piece.speaker is not None
        voices[piece.speaker.id] += len(piece.samples)
    assert_balanced(taken)
    assert set(voices.values()) == {96}, "each is still heard under its own name"


def test_names_of_64_kib_are_heard_and_not_remembered_whole() -> None:
    """Else 256 of them, of four bytes a character, are 128 MiB that one meeting holds."""
    taken = intake()
    for n in range(3):
        name = f"{n}" + "x" * 65_000
        (piece,) = taken.take(frame(Speaker(name, name)), n * FRAME_S).mix
        assert piece.speaker is not None
        assert piece.speaker.name == name[:LONGEST_TEXT]
        assert piece.speaker.key == name[:LONGEST_TEXT]
        taken.take(legacy(pcm(960), speakerId=name, sampleRate=16_000), n * FRAME_S)
    remembered = [*taken._speakers, *(key[:1] for key in taken._resamplers)]
    assert max(len(text) for key in remembered for text in key) == LONGEST_TEXT
    assert_balanced(taken)
