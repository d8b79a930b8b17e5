"""WAV files in and out: whatever a recorder wrote becomes 48 kHz mono, or one clear error.

Reads RIFF itself instead of with the standard library's `wave`, which on Python 3.11 knows
neither float samples nor the extensible header that 24-bit recorders write, nor the open-ended
sizes of files that were written to a pipe.
"""

from __future__ import annotations

import struct
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from trio_bridge.audio.resample import Resampler
from trio_bridge.simulator.errors import SimulatorError

MEETING_RATE_HZ = 48_000
"""The rate of everything in a meeting, both ways."""

Float32 = NDArray[np.float32]
Int16 = NDArray[np.int16]

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_LOWEST_HZ, _HIGHEST_HZ, _MOST_CHANNELS = 4_000, 192_000, 64
_OPEN_BYTES = 0x7FFFF000
"""From here on a size is no size but what a writer to a pipe puts where it cannot know it:
sox and eSpeak write this, ffmpeg 0xFFFFFFFF."""
_MEND = "convert it with: ffmpeg -i IN -ar 48000 -ac 1 -c:a pcm_s16le OUT.wav"


@attrs.frozen
class _Layout:
    """The ``fmt`` chunk, as far as it matters."""

    kind: int
    channels: int
    rate_hz: int
    bits: int


def read_wav(path: str | Path) -> Float32:
    """The sound of ``path`` as float32 ``(samples,)``, full scale ±1.0, 48 kHz, mono.

    Takes 8, 16, 24 and 32-bit integers and 32 and 64-bit floats, any rate from 4 to 192 kHz,
    any number of channels (their mean). Where the header leaves the length open, as one
    written to a pipe does, the sound goes to the end of the file.

    Raises:
        SimulatorError: the file cannot be read, is no such WAV, or is shorter than its header
            says; one line that names it.
    """
    name = str(path)
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as exc:
        raise SimulatorError(
            f"cannot read {name}: no such file: give the path of a WAV"
        ) from exc
    except (OSError, ValueError) as exc:  # ValueError: a NUL byte in the name
        reason = exc.strerror if isinstance(exc, OSError) else None
        raise SimulatorError(
            f"cannot read {name}: {reason or exc}: give the path of a WAV"
        ) from exc
    try:
        layout, body = _take_chunks(data)
        samples = _to_float(layout, body)
    except ValueError as exc:
        raise SimulatorError(f"cannot use {name}: {exc}; {_MEND}") from exc
    mono: Float32 = samples.mean(axis=1, dtype=np.float32)
    if layout.rate_hz == MEETING_RATE_HZ:
        return mono
    resampler = Resampler(layout.rate_hz, MEETING_RATE_HZ)
    return np.concatenate([resampler.process(mono), resampler.finish()])


@contextmanager
def writing_wav(path: str | Path) -> Iterator[Callable[[Int16], None]]:
    """A function that appends int16 ``(samples,)`` to a new file, 48 kHz mono PCM16.

    Raises:
        SimulatorError: the file cannot be written; one line that names it.
    """
    try:
        # Opened here: `wave` on a path it cannot open complains again when it is collected.
        with Path(path).open("wb") as raw, wave.open(raw, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(MEETING_RATE_HZ)
            yield lambda block: file.writeframes(block.astype("<i2").tobytes())
    except OSError as exc:
        raise _unwritable(path, exc) from exc


def check_writable(path: Path) -> None:
    """Find out now whether `path` can be written later; leaves everything as it was.

    Raises:
        SimulatorError: it cannot; one line that names it.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            return  # a device or a pipe: opening it could wait for its reader, or be seen by it
        new = not path.exists()
        with path.open("ab"):
            pass
        if new:
            path.unlink()
    except (OSError, ValueError) as exc:  # ValueError: a NUL byte in the name
        raise _unwritable(path, exc) from exc


def _unwritable(path: str | Path, error: OSError | ValueError) -> SimulatorError:
    reason = error.strerror if isinstance(error, OSError) else None
    return SimulatorError(f"cannot write {path}: {reason or error}: choose another path")


def write_text(path: Path, text: str) -> None:
    """Write `text` to a file, as UTF-8.

    Raises:
        SimulatorError: the file cannot be written; one line that names it.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise _unwritable(path, exc) from exc


def to_pcm16(samples: Float32) -> Int16:
    """Float to int16, rounded and saturating: overlapping speakers may exceed full scale."""
    scaled: Float32 = np.rint(samples * np.float32(32768.0))
    return scaled.clip(-32768, 32767).astype(np.int16)


def _take_chunks(data: bytes) -> tuple[_Layout, bytes]:
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise ValueError("not a WAV file")
    layout: _Layout | None = None
    at = 12
    while at + 8 <= len(data):
        kind, (size,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        body = data[at + 8 : at + 8 + size]
        if kind == b"fmt ":
            layout = _read_layout(body)
        elif kind == b"data":
            if layout is None:
                raise ValueError("its data comes before its format")
            if size >= _OPEN_BYTES or (size == 0 and _is_open(data, at)):
                return layout, data[at + 8 :]
            if len(body) < size:
                raise ValueError(f"it is cut short: {len(body)} of {size} bytes of sound")
            return layout, body
        at += 8 + size + size % 2
    raise ValueError("no audio in it")


def _is_open(data: bytes, at: int) -> bool:
    """Whether the empty data chunk at ``at`` is one whose size was never filled in.

    In a file that was finished, the size of the whole covers whatever follows it.
    """
    (whole,) = struct.unpack_from("<I", data, 4)
    return bool(whole >= _OPEN_BYTES or whole <= at)


def _read_layout(body: bytes) -> _Layout:
    if len(body) < 16:
        raise ValueError("its format chunk is cut short")
    kind, channels, rate_hz, _, _, bits = struct.unpack_from("<HHIIHH", body)
    if kind == _EXTENSIBLE and len(body) >= 26:
        (kind,) = struct.unpack_from("<H", body, 24)
    if (kind, bits) not in _DECODERS:
        raise ValueError(f"encoding {kind} with {bits} bits is not supported")
    if not 1 <= channels <= _MOST_CHANNELS:
        raise ValueError(f"{channels} channels")
    if not _LOWEST_HZ <= rate_hz <= _HIGHEST_HZ:
        raise ValueError(f"a rate of {rate_hz} Hz")
    return _Layout(kind, channels, rate_hz, bits)


def _to_float(layout: _Layout, body: bytes) -> Float32:
    width = layout.bits // 8 * layout.channels
    whole = body[: len(body) - len(body) % width]
    if not whole:
        raise ValueError("no audio in it")
    samples = _DECODERS[layout.kind, layout.bits](whole)
    if not np.isfinite(samples).all():
        raise ValueError("it holds values that are not numbers")
    return samples.reshape(-1, layout.channels)


def _from_8_bit(data: bytes) -> Float32:  # the only unsigned one (RIFF says so)
    return ((np.frombuffer(data, np.uint8) - 128.0) / 128).astype(np.float32)


def _from_16_bit(data: bytes) -> Float32:
    return (np.frombuffer(data, "<i2") / 32768).astype(np.float32)


def _from_24_bit(data: bytes) -> Float32:
    octets = np.frombuffer(data, np.uint8).reshape(-1, 3)
    padded = np.zeros((len(octets), 4), np.uint8)
    padded[:, 1:] = octets  # in the upper three bytes, so the sign needs no care
    return (padded.view("<i4")[:, 0] / 2**31).astype(np.float32)


def _from_32_bit(data: bytes) -> Float32:
    return (np.frombuffer(data, "<i4") / 2**31).astype(np.float32)


def _from_float_32(data: bytes) -> Float32:
    return np.frombuffer(data, "<f4").astype(np.float32)


def _from_float_64(data: bytes) -> Float32:
    with np.errstate(over="ignore"):  # becomes infinite, which is refused above
        return np.frombuffer(data, "<f8").astype(np.float32)


_DECODERS = {
    (_PCM, 8): _from_8_bit,
    (_PCM, 16): _from_16_bit,
    (_PCM, 24): _from_24_bit,
    (_PCM, 32): _from_32_bit,
    (_FLOAT, 32): _from_float_32,
    (_FLOAT, 64): _from_float_64,
}
