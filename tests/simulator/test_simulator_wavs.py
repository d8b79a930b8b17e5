"""Whatever a recorder writes is read; what is no WAV is refused in one line."""

from __future__ import annotations

import io
import os
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.simulator import SimulatorError
from trio_bridge.simulator.wavs import check_writable, read_wav, to_pcm16, writing_wav

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE


def riff(
    body: bytes,
    *,
    kind: int = PCM,
    bits: int = 16,
    rate_hz: int = 48_000,
    channels: int = 1,
    subformat: int | None = None,
    size: int | None = None,
    extra: bytes = b"",
) -> bytes:
    width = bits // 8 * channels
    fmt = struct.pack("<HHIIHH", kind, channels, rate_hz, rate_hz * width, width, bits)
    if subformat is not None:
        fmt += struct.pack("<HHIH14s", 22, bits, 0, subformat, bytes(14))
    data = struct.pack("<I", len(body) if size is None else size) + body
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt + extra + b"data" + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def sine(rate_hz: int, seconds: float = 0.5) -> Any:
    return np.sin(2 * np.pi * 440 * np.arange(round(rate_hz * seconds)) / rate_hz) * 0.5


def encoded(samples: Any, bits: int, kind: int = PCM) -> bytes:
    if kind == FLOAT:
        return bytes(samples.astype(f"<f{bits // 8}").tobytes())
    if bits == 8:
        return bytes((np.round(samples * 127) + 128).astype(np.uint8).tobytes())
    whole = np.round(samples * (2 ** (bits - 1) - 1)).astype("<i4")
    octets = whole.view(np.uint8).reshape(-1, 4)
    return bytes(octets[:, : bits // 8].tobytes())


@pytest.mark.parametrize(
    ("kind", "bits", "error"),
    [(PCM, 8, 1e-2), (PCM, 16, 1e-4), (PCM, 24, 1e-6), (PCM, 32, 1e-6), (FLOAT, 32, 1e-6),
     (FLOAT, 64, 1e-6)],
)  # fmt: skip
def test_every_width_is_read_at_its_scale(
    kind: int, bits: int, error: float, tmp_path: Path
) -> None:
    path = tmp_path / "a.wav"
    body = encoded(sine(48_000), bits, kind)
    for data in (
        riff(body, bits=bits, kind=kind),
        riff(body, bits=bits, kind=EXTENSIBLE, subformat=kind),
    ):
        path.write_bytes(data)
        samples = read_wav(path)
        assert samples.dtype == np.float32
        assert samples == pytest.approx(sine(48_000), abs=error)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_100, 96_000, 37_123])
def test_every_rate_becomes_48_khz_of_the_same_length_and_pitch(
    rate_hz: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(riff(encoded(sine(rate_hz), 16), rate_hz=rate_hz))
    samples = read_wav(path)
    assert len(samples) == pytest.approx(24_000, abs=2)
    middle = slice(4800, 19_200)
    assert samples[middle] == pytest.approx(sine(48_000)[middle], abs=2e-3)


def test_stereo_becomes_the_mean_of_both(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    both = np.stack([sine(48_000), sine(48_000) * 0], axis=1).ravel()
    path.write_bytes(riff(encoded(both, 16), channels=2))
    assert read_wav(path) == pytest.approx(sine(48_000) / 2, abs=1e-4)


def test_other_chunks_and_open_ended_sizes_are_read_over(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    body = encoded(sine(48_000), 16)
    extra = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # odd, so padded
    path.write_bytes(riff(body + b"\x01", extra=extra, size=0xFFFFFFFF))
    assert len(read_wav(path)) == 24_000


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_length_that_was_never_filled_in_is_the_rest_of_the_file(
    size: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.wav"
    data = riff(encoded(sine(48_000), 16), size=size)
    path.write_bytes(data[:4] + struct.pack("<I", size) + data[8:])
    assert len(read_wav(path)) == 24_000


def test_an_empty_sound_is_not_the_chunk_that_follows_it(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    data = riff(b"LIST" + struct.pack("<I", 4) + b"abcd", size=0)
    path.write_bytes(data)
    with pytest.raises(SimulatorError, match="no audio in it"):
        read_wav(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (riff(bytes(100), size=400), "it is cut short: 100 of 400 bytes of sound"),
        (b"", "not a WAV file"),
        (b"OggS" + bytes(100), "not a WAV file"),
        (b"RIFF\0\0\0\0WAVE", "no audio in it"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "its data comes before its format"),
        (b"RIFF\0\0\0\0WAVEfmt \x02\0\0\0ab", "its format chunk is cut short"),
        (riff(b""), "no audio in it"),
        (riff(b"x"), "no audio in it"),
        (riff(b"ab", kind=7, bits=8), "encoding 7 with 8 bits is not supported"),
        (riff(b"ab", channels=0), "0 channels"),
        (riff(b"abcd", rate_hz=1), "a rate of 1 Hz"),
        (riff(struct.pack("<f", float("nan")), kind=FLOAT, bits=32), "not numbers"),
        (riff(struct.pack("<d", 1e300), kind=FLOAT, bits=64), "not numbers"),
    ],
)
def test_what_is_no_usable_wav_is_named_with_the_mend(
    data: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.wav"
    path.write_bytes(data)
    with pytest.raises(SimulatorError) as caught:
        read_wav(path)
    text = str(caught.value)
    assert "\n" not in text
    assert "bad.wav" in text
    assert reason in text
    assert "ffmpeg" in text


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.wav", tmp_path, "a\0b"):
        with pytest.raises(SimulatorError, match="cannot read"):
            read_wav(path)
    with (
        pytest.raises(SimulatorError, match=r"cannot write .*none"),
        writing_wav(tmp_path / "none" / "a.wav"),
    ):
        raise AssertionError("not reached")


def test_a_file_that_is_not_there_is_told_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(
        SimulatorError, match=r"none\.wav: no such file: give the path of a WAV$"
    ):
        read_wav(tmp_path / "none.wav")


def test_finding_out_whether_a_file_can_be_written_changes_nothing(tmp_path: Path) -> None:
    there = tmp_path / "there.wav"
    there.write_bytes(b"kept")
    check_writable(there)
    check_writable(tmp_path / "new.wav")
    check_writable(Path(os.devnull))
    assert [path.name for path in tmp_path.iterdir()] == ["there.wav"]
    assert there.read_bytes() == b"kept"
    for path in (tmp_path, tmp_path / "none" / "a.wav", there / "a.wav", Path("a\0b")):
        with pytest.raises(SimulatorError, match=r"cannot write .*: choose another path"):
            check_writable(path)


@given(st.binary(max_size=200), st.integers(0, 60))
def test_any_bytes_are_a_sound_or_a_simulator_error(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.wav"
    good = riff(encoded(sine(48_000, 0.01), 16))
    for data in (noise, good[:at] + noise, good[:at] + noise + good[at + len(noise) :]):
        path.write_bytes(data)
        try:
            samples = read_wav(path)
        except SimulatorError:
            continue
        assert np.isfinite(samples).all()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    sound = to_pcm16(np.array([0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0], np.float32))
    assert sound.tolist() == [0, 16384, -16384, 32767, -32768, 32767, -32768]
    with writing_wav(path) as append:
        append(sound[:3])
        append(sound[3:])
    with wave.open(io.BytesIO(path.read_bytes())) as file:
        assert file.readframes(99) == sound.astype("<i2").tobytes()
    assert read_wav(path).tolist() == (sound / 32768).tolist()
