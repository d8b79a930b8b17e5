"""What a fuzz target is, where its files lie, and how it is found by its name.

Imports nothing of `trio_bridge`: atheris must be told to watch it before it is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import attrs
from hypothesis.strategies import SearchStrategy

NAMES = ("frame", "control", "hello", "stream", "head", "session")
HERE = Path(__file__).parent


@attrs.frozen
class Target:
    """One parser and what it promises; the module's docstring says it in words."""

    name: str
    check: Callable[[bytes], None]
    """Raises AssertionError if these bytes break the promise, and nothing else ever."""
    messages: SearchStrategy[bytes]
    """Inputs for ``check`` that get past the first ``if``: raw bytes are rarely JSON."""
    tokens: tuple[bytes, ...]
    """What a mutator of raw bytes may insert."""

    @property
    def corpus(self) -> list[Path]:
        """Inputs to begin with."""
        return files_in(HERE / "corpus" / self.name)

    @property
    def finds(self) -> list[Path]:
        """Inputs that broke the promise once."""
        return files_in(finds_of(self.name))


def load(name: str) -> Target:
    """Import the target called ``name``, one of `NAMES`."""
    target = importlib.import_module(f"fuzz.{name}").TARGET
    assert isinstance(target, Target)
    return target


def finds_of(name: str) -> Path:
    """The directory of a target's finds; there is none before the first."""
    return HERE / "finds" / name


def files_in(directory: Path) -> list[Path]:
    """All files in ``directory``, sorted; none if it does not exist."""
    return sorted(directory.iterdir()) if directory.is_dir() else []


def require_plain(reason: str) -> None:
    """Assert that ``reason`` is ours: it is counted, logged, and put into a Close frame."""
    assert reason.isascii(), reason
    assert reason.isprintable(), reason
    assert 0 < len(reason) <= 123, reason  # what a Close frame holds beside its code
