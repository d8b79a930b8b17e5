"""What is measured beside the rows: interrupts and pacing, start-up, workers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial

import attrs

from benchmarks.accounting import Cores
from benchmarks.bars import bars_section
from benchmarks.results import Results
from benchmarks.scaling import scaling_section
from benchmarks.servers import Candidate, ServerError, variants
from benchmarks.speech import Speech, measure_speech, speech_section
from benchmarks.startup import PRODUCT, measure_startup, startup_section
from benchmarks.workers import Fleet, measure_workers, workers_section
from benchmarks.wsclient import LinkError

SECTIONS = ("rows", "speech", "startup", "workers")


@attrs.define
class Extras:
    """Figures of every section but the rows."""

    chosen: Collection[str]
    """Of `SECTIONS`."""
    cores: Cores
    window_s: float
    speech_s: float
    failed: bool = attrs.field(default=False, init=False)
    """Something could not be measured: trio_bridge, or a peer, did not run."""
    speech: dict[str, Speech] = attrs.field(factory=dict, init=False)
    startup: dict[str, list[float]] = attrs.field(factory=dict, init=False)
    workers: dict[int, Fleet] = attrs.field(factory=dict, init=False)

    def run_round(self, results: Results) -> None:
        """What is repeated in every round."""
        if "speech" in self.chosen:
            for candidate in variants():
                self._guarded(results, "interrupts and pacing", partial(self._speak, candidate))

    def run_once(self, results: Results, peers: Sequence[Candidate]) -> None:
        """What is measured once; notes in ``results`` what failed."""
        if "startup" in self.chosen:
            self._guarded(results, "start-up", partial(self._start, peers))
        if "workers" in self.chosen:
            self._guarded(results, "workers", self._work)

    def sections(self, results: Results) -> list[str]:
        """Lines of Markdown about all that was measured."""
        lines = scaling_section(results)
        if self.speech:
            lines += speech_section(self.speech)
        if self.startup:
            lines += startup_section(self.startup)
        return lines + workers_section(self.workers)

    def bars(self, results: Results, ours: Sequence[str]) -> list[str]:
        """Lines of Markdown: what was promised beside what was found."""
        return bars_section(results, ours, self.speech, self.startup, self.workers)

    def _speak(self, candidate: Candidate) -> None:
        found = measure_speech(candidate, self.cores, self.speech_s)
        known = self.speech.get(candidate.name)
        self.speech[candidate.name] = found if known is None else known + found
        sys.stderr.write("\n".join(speech_section({candidate.name: found})[-2:]))

    def _start(self, peers: Sequence[Candidate]) -> None:
        self.startup = measure_startup((PRODUCT, *peers), self.cores)

    def _work(self) -> None:
        self.workers = measure_workers(self.cores, self.window_s)

    def _guarded(self, results: Results, what: str, work: Callable[[], None]) -> None:
        try:
            work()
        except (LinkError, ServerError, OSError) as error:
            self.failed = True
            results.note(f"{what} failed: {error}")
            sys.stderr.write(f"{what} failed: {error}\n")
