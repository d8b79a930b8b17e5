"""What is measured: the rows of the table. Values only."""

from __future__ import annotations

from typing import Literal

import attrs

Form = Literal["binary", "legacy JSON"]


@attrs.frozen(kw_only=True)
class Row:
    """One load, which every server gets in turn."""

    bots: int = 200
    frame_ms: int = 20
    speakers: int = 1
    """They take turns, half a second each, in one mixed stream."""
    form: Form = "binary"
    talk_every: int = 0
    """Every how many-th bot is spoken to without a pause; 0 for none."""
    tls: bool = False
    cut_ms: int = 0
    """The consumer wants chunks of so many ms; 0: in whatever lengths soxr gives them."""

    @property
    def title(self) -> str:
        """What tells this row from the others."""
        parts = [f"{self.bots} bots", f"{self.frame_ms} ms"]
        if self.speakers > 1:
            parts.append(f"{self.speakers} speakers")
        if self.form != "binary":
            parts.append(self.form)
        if self.talk_every:
            parts.append(f"{100 // self.talk_every} % spoken to")
        if self.tls:
            parts.append("TLS")
        if self.cut_ms:
            parts.append(f"cut to {self.cut_ms} ms")
        return ", ".join(parts)


SCALE = tuple(Row(bots=bots) for bots in (10, 50, 100, 200, 400))
"""Cost against the number of bots: the plot."""
OTHERS = (
    Row(frame_ms=10),
    Row(frame_ms=100),
    Row(speakers=3),
    Row(form="legacy JSON"),
    Row(talk_every=5),
    Row(tls=True),
    Row(cut_ms=20),
)
FULL = SCALE + OTHERS
QUICK = (Row(bots=50),)
