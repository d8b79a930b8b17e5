"""What an agent hands over, checked where it comes in: one line that says what and the mend.

Nothing here awaits, and nothing that an agent can say raises anything but `TypeError` for the
wrong kind of thing and `ValueError` for a wrong one.
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from trio_bridge.audio.pcm import Samples, as_samples
from trio_bridge.audio.resample import HIGHEST_RATE_HZ, LOWEST_RATE_HZ

MAX_TEXT = 32 << 10
"""Characters of a chat message or caption: 768 KiB of JSON at worst, under the 1 MiB that is
safe everywhere; no platform shows a tenth of it."""
MAX_URL = 2_048
MAX_IMAGE_BYTES = 512 << 10
"""Keeps the message, a third larger in base64, under the 1 MiB that is safe everywhere."""
LOUDEST = 8.0
"""A sample beyond is no loud one but another scale: 18 dB over full scale."""
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def text_given(what: str, value: Any, most: int = MAX_TEXT) -> str:
    """``value`` as text that JSON can hold; a lone surrogate becomes U+FFFD.

    What is longer than ``most`` characters is cut there, and ends with an ellipsis: agents
    repeat what strangers write, who must not be able to make one fail.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what}: expected text, got {_shown(value)}")
    text: str = value if len(value) <= most else value[: most - 1] + "\u2026"
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def url_given(what: str, value: Any) -> str:
    url = text_given(what, value)
    if len(url) > MAX_URL:
        raise ValueError(f"{what}: {len(url)} characters are too many; send {MAX_URL} at most")
    if not url.startswith(("https://", "http://")) or not url.isprintable() or " " in url:
        raise ValueError(f"{what}: expected an http(s) address, got {_shown(url)}")
    return url


def image_given(what: str, value: Any) -> bytes:
    """``value`` as the bytes of a JPEG or PNG."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{what}: expected the bytes of a picture, got {_shown(value)}")
    size = memoryview(value).nbytes  # before any of it is copied
    if size > MAX_IMAGE_BYTES:
        raise ValueError(f"{what}: more than {MAX_IMAGE_BYTES} bytes; scale it down")
    image = bytes(value)
    if not image.startswith(_PICTURES):
        raise ValueError(f"{what}: expected the bytes of a JPEG or PNG file")
    return image


def whole_given(what: str, value: Any, low: int, high: int) -> int:
    """``value`` as a whole number; numpy's and 16000.0 are some."""
    try:
        number = int(value) if isinstance(value, float) else operator.index(value)
    except (TypeError, ValueError, OverflowError):  # no number; NaN; infinity
        number = None
    if number is None or number != value:
        error = ValueError if isinstance(value, float) else TypeError
        raise error(f"{what}: expected a whole number, got {_shown(value)}")
    if not low <= number <= high:
        raise ValueError(f"{what} {_shown(number)}: expected {low} to {high}")
    return number


def rate_given(what: str, value: Any) -> int:
    return whole_given(f"{what}: rate_hz", value, LOWEST_RATE_HZ, HIGHEST_RATE_HZ)


def chunk_given(value: Any) -> int:
    """0: as it comes."""
    return whole_given("chunk_ms", value, 0, 2_000)


def backlog_given(value: Any) -> int:
    return whole_given("backlog_ms", value, 1, 60_000)  # as the setting


def choice_given(what: str, value: Any, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        expected = " or ".join(map(repr, choices))
        raise ValueError(f"{what}: expected {expected}, got {_shown(value)}")


def flag_given(what: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{what}: expected True or False, got {_shown(value)}")


def samples_given(
    what: str, value: npt.ArrayLike, length: int
) -> Iterator[tuple[Samples, int]]:
    """Blocks of ``length`` of the samples, and how many of each were not finite: those are
    silence. At least one block. Blocks, because what a whole hour takes to convert is time in
    which no other meeting runs.

    The first block is checked before this returns.
    """
    try:
        block = np.asarray(value)
        as_samples(block[:0] if block.ndim == 1 else block)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    except Exception as error:  # of the thing's own code, which numpy asks what it is
        raise TypeError(f"{what}: expected float samples, got {_shown(value)}") from error
    return (
        _sound(what, as_samples(block[start : start + length]))
        for start in range(0, max(1, len(block)), length)
    )


def _sound(what: str, samples: Samples) -> tuple[Samples, int]:
    peak = float(np.abs(samples).max(initial=0.0))
    if peak <= LOUDEST:
        return samples, 0
    finite = np.isfinite(samples)
    broken = len(samples) - int(np.count_nonzero(finite))
    samples = np.where(finite, samples, np.float32(0.0))
    peak = float(np.abs(samples).max(initial=0.0))
    if peak > LOUDEST:
        raise ValueError(
            f"{what}: samples up to {peak:.6g}, but full scale is 1.0: divide by 32768"
        )
    return samples, broken


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 40


def _shown(value: Any) -> str:
    """``value`` in a few characters of one line, whatever it is."""
    kind = type(value).__name__
    if value is None or isinstance(value, str | int | float):
        shown = ascii(value) if isinstance(value, str) and len(value) < 40 else None
        return shown or _Short().repr(value)
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
