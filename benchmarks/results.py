"""All figures of a run, and the medians and ratios that are made of them. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

import attrs

from benchmarks.rows import Row

FOREIGN = 0.10
"""Above this share of the server's core used by others a trial is disturbed..."""
LATE_MS = 1.0
"""...and when the generator itself was later than this at its p99."""
SATURATED = 0.95
"""Share of a core above which a server cannot keep up, and its latency is a queue's."""
LOST = 0.001


@attrs.frozen
class Figures:
    """What one trial found, or the medians of several."""

    cpu_us: float
    """CPU microseconds of the server, all threads, per frame sent."""
    p50_ms: float
    p99_ms: float
    p999_ms: float
    memory_kib: float
    """Resident memory a meeting."""
    busy: float
    """Share of its core that the server used."""
    foreign: float
    """Share of that core that others used meanwhile: 0 on a quiet machine."""
    delivered: float
    """Share of the audio that reached the consumer."""
    early: int
    """Hand-overs before their frame was due. Not 0 means that the server put in samples of its
    own (trio_bridge fills a stall of 400 ms with silence), so that none can be matched."""
    late_p99_ms: float
    """How late the load generator was."""
    spoken_hz: float = 0.0
    """``sendaudio`` messages a second for each bot that is spoken to; 10 is right."""
    heaviest: float = 1.0
    """Share of the server's CPU that its busiest process used: 1 for a single process."""
    load: float = 0.0
    """Share of a core that the load generator used."""

    @property
    def disturbed(self) -> bool:
        """Others used the machine so much that the trial says little. Never the server's
        doing, so leaving such trials out favours nobody."""
        return self.foreign > FOREIGN or self.late_p99_ms > LATE_MS


@attrs.define
class Results:
    """Trials by row, server and round."""

    trials: dict[Row, dict[str, dict[int, Figures]]] = attrs.field(factory=dict)
    notes: list[str] = attrs.field(factory=list)
    """What was left out or failed, in words."""

    def add(self, row: Row, name: str, round_: int, figures: Figures) -> None:
        """File one trial."""
        self.trials.setdefault(row, {}).setdefault(name, {})[round_] = figures

    def rounds(self, row: Row) -> int:
        """How many rounds of ``row`` were run."""
        return len({round_ for found in self.trials[row].values() for round_ in found})

    def note(self, text: str) -> None:
        """Say once what was left out."""
        if text not in self.notes:
            self.notes.append(text)

    def disturbed(self) -> tuple[int, int]:
        """How many trials were disturbed, and how many there were."""
        all_ = [
            trial
            for named in self.trials.values()
            for found in named.values()
            for trial in found.values()
        ]
        return sum(trial.disturbed for trial in all_), len(all_)

    def median(self, row: Row, name: str) -> Figures | None:
        """The median of each figure over the rounds; None when there was no trial."""
        found = self.trials.get(row, {}).get(name)
        if not found:
            return None
        fields = [field.name for field in attrs.fields(Figures)]
        trials = found.values()
        return Figures(**{f: statistics.median(getattr(t, f) for t in trials) for f in fields})

    def ratio(self, row: Row, ours: str, theirs: str) -> float:
        """CPU per frame of ``ours`` over that of ``theirs``, the median over rounds of the
        ratio in one round; below 1 ours is cheaper. NaN when there is none."""
        named = self.trials.get(row, {})
        a, b = named.get(ours, {}), named.get(theirs, {})
        return _median(a[round_].cpu_us / b[round_].cpu_us for round_ in a.keys() & b.keys())

    def growth(self, few: Row, many: Row, name: str, figure: str) -> float:
        """``figure`` (a field of `Figures`) of one server at ``many`` over that at ``few``, the
        median over rounds of the ratio in one round. NaN when there is none."""
        a, b = (self.trials.get(row, {}).get(name, {}) for row in (many, few))
        return _median(
            getattr(a[round_], figure) / getattr(b[round_], figure)
            for round_ in a.keys() & b.keys()
            if getattr(b[round_], figure) > 0
        )


def remarks(row: Row, figures: Figures) -> str:
    """What a reader must know before believing ``figures``."""
    found = []
    if figures.busy > SATURATED:
        found.append("saturated")
    if 1.0 - figures.delivered > LOST:
        found.append(f"lost {100 * (1 - figures.delivered):.1f} %")
    if figures.early:
        found.append("silence filled in after a stall: latency void")
    if figures.disturbed:  # of medians: at least half of the trials were
        found.append("disturbed")
    if row.talk_every:
        found.append(f"{figures.spoken_hz:.1f} sendaudio/s a bot")
    return ", ".join(found)


def _median(values: Iterable[float]) -> float:
    found = list(values)
    return statistics.median(found) if found else math.nan
