"""Figures beside the bars they are measured against, as a table. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

_TOLD = {True: "yes", False: "**no**", None: ""}


@attrs.frozen
class Judged:
    """One line."""

    what: str
    found: str
    bar: str
    held: bool | None
    """None: for information, or it cannot be told from this run."""


def judged_table(judged: Sequence[Judged]) -> list[str]:
    """Lines of Markdown."""
    lines = ["| what | found | bar | held |", "| --- | --- | --- | --- |"]
    return lines + [f"| {j.what} | {j.found} | {j.bar} | {_TOLD[j.held]} |" for j in judged]
