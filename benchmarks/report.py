"""The results in words: Markdown for people, a short table of ratios for CI. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from benchmarks.results import Figures, Results, remarks
from benchmarks.rows import Row


@attrs.frozen
class About:
    """Where, when and with what a run was made."""

    date: str
    machine: str
    cores: str
    versions: str
    command: str
    window_s: float
    tries: int


HOW = """\
Every server runs alone on one core and does the same work: accept both sockets of each bot,
decode the frame's header, leave out its own voice by name, resample 48 kHz to 16 kHz with
soxr (float32, HQ, one stream a bot), hand over to a consumer, which stamps the arrival and
throws the audio away. In trio_bridge that is the whole product, `python -m trio_bridge` with
the agent of `null_agent.py`; in the others it is `peers/work.py` and a bounded `asyncio.Queue`,
with nothing around it: no timeline, no speech detection, no limits, no ledger. What
`python -m trio_bridge` does for itself counts as the product, its collector settings too
(`gc.freeze`, a threshold of 10 000); the peers run with Python's.

- **trio_bridge** is measured with its default settings; as *tick 0* with `--audio-tick-ms 0`;
  as *polling* with `--audio-poll-us 1000` beside that, for the lowest latency (its CPU is then
  no measure: the loop looks instead of sleeping); and with the longest tick, for the best
  throughput.
- **CPU** is microseconds of the server process a frame sent, all threads, from the scheduler's
  accounting (`/proc/PID/task/*/schedstat`).
- **Latency** is from the frame's *scheduled* send time (open loop: a stall is not hidden) to
  the consumer's hands. What the resampler holds back by design is taken out: each hand-over is
  matched with the frame it had to wait for, which soxr's own counting tells (`latency.py`).
  All consumers take what soxr gives out; in the row *cut to 20 ms* all take chunks of 20 ms.
- The **load generator** has a core of its own, where it sleeps between frames, and real-time
  priority where that is allowed; the servers never have. So what the machine itself has to do
  makes no frame late before it is sent, and finds pauses on that core; a server that sleeps
  has pauses too, and may have to wait for what runs in them. One that polls has none.
- **Memory** is the growth of resident memory a meeting (both sockets), after one that is not
  counted, so that nobody pays for imports.
- **Ratios** are our CPU over theirs, so **below 1 we are cheaper**; each is the median over
  rounds of the ratio in one round. In a round all servers take their turn, one right after
  the other, on every row; then comes the next round, in which they do so in reverse order.
- Bots begin at moments that are random within a quarter of a second, and the same for every
  server.
- A trial is *disturbed* when others used over 10 % of the server's core, or the load generator
  was late by over 1 ms at its p99. Of {tries} tries the quietest one is kept: the rule never
  looks at the server's own figures. A disturbed trial is biased and not only noisy: frames pile
  up, are then handled many at a time, and so seem cheap, the more so the busier a server is.
"""


def to_markdown(
    results: Results,
    ours: Sequence[str],
    about: About,
    *,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
) -> str:
    """The whole report. ``ours`` are the names that get a column of ratios; the lines of
    ``before`` and ``after`` come around those of the rows."""
    lines = ["# What a frame costs", ""]
    lines += [f"Measured on {about.date}: {about.machine}; {about.cores}.", ""]
    lines += [f"{about.versions}.", ""]
    lines += [
        f"`{about.command}`: medians over rounds, {about.window_s:g} s a trial.",
        "",
        "![CPU per frame against the number of bots](cost.svg)",
        "",
        HOW.format(tries=about.tries),
    ]
    disturbed, trials = results.disturbed()
    if disturbed:
        lines += [
            f"**{disturbed} of {trials} trials were disturbed: the machine was not quiet. "
            "Rows that say so are not to be quoted, neither their times nor their ratios.**",
            "",
        ]
    if results.notes:
        lines += ["Left out or failed:", "", *(f"- {note}" for note in results.notes), ""]
    lines += before
    for row in results.trials:
        rounds = results.rounds(row)
        heading = f"## {row.title}"
        lines += [heading, "", f"Rounds: {rounds}.", "", *_table(results, row, ours), ""]
    return "\n".join([*lines, *after])


def _table(results: Results, row: Row, ours: Sequence[str]) -> list[str]:
    present = [name for name in ours if name in results.trials[row]]
    heads = ["server", "CPU us/frame", *(f"{name} / this" for name in present)]
    heads += ["p50 ms", "p99 ms", "p99.9 ms", "KiB/meeting", "core", "remarks"]
    lines = [_line(heads), _line(["---", *["---:"] * (len(heads) - 2), "---"])]
    for name in results.trials[row]:
        found = results.median(row, name)
        if found is None:
            continue
        ratios = [_ratio(results.ratio(row, one, name)) for one in present]
        shown = f"**{name}**" if name in ours else name
        lines.append(_line([shown, f"{found.cpu_us:.1f}", *ratios, *_rest(row, found)]))
    return lines


def quick_table(results: Results, ours: Sequence[str]) -> str:
    """Ratios only: a machine that is shared has no times worth reading."""
    lines = []
    for row in results.trials:
        present = [name for name in ours if name in results.trials[row]]
        lines += [f"CPU per frame, ours over theirs (below 1 we are cheaper); {row.title}", ""]
        lines += [_line(["server", *present]), _line(["---", *["---:"] * len(present)])]
        for name in results.trials[row]:
            ratios = [_ratio(results.ratio(row, one, name)) for one in present]
            lines.append(_line([name, *ratios]))
        lines.append("")
    disturbed, trials = results.disturbed()
    if disturbed:
        lines.append(f"{disturbed} of {trials} trials were disturbed: take this with salt")
    return "\n".join([*lines, *results.notes]) + "\n"


def progress(row: Row, name: str, figures: Figures) -> str:
    """One line about one trial."""
    said = remarks(row, figures)
    return (
        f"{row.title}: {name}: {figures.cpu_us:.1f} us, p50 {figures.p50_ms:.2f} p99 "
        f"{figures.p99_ms:.2f} p99.9 {figures.p999_ms:.2f} ms, {figures.memory_kib:.0f} KiB"
        + (f" ({said})" if said else "")
    )


def _rest(row: Row, found: Figures) -> list[str]:
    latencies = [f"{ms:.2f}" for ms in (found.p50_ms, found.p99_ms, found.p999_ms)]
    return [*latencies, f"{found.memory_kib:.0f}", f"{found.busy:.0%}", remarks(row, found)]


def _ratio(ratio: float) -> str:
    return "" if math.isnan(ratio) else f"{ratio:.2f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
