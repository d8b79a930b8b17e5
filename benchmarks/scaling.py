"""What a bot more costs: the figures of many bots over those of few. Pure."""

from __future__ import annotations

import math

from benchmarks.results import Results
from benchmarks.rows import Row

FEW, MANY = Row(bots=50), Row(bots=400)


def scaling_section(results: Results) -> list[str]:
    """Lines of Markdown; none unless both rows were run."""
    if FEW not in results.trials or MANY not in results.trials:
        return []
    lines = [
        "## Cost against the number of bots",
        "",
        f"{MANY.bots} bots over {FEW.bots}: 1.00 is linear. A server that has more to do each "
        "time it wakes up gets cheaper a frame; one that gets dearer has something in it that "
        "grows with the number of meetings.",
        "",
        f"| server | CPU a frame, {MANY.bots} / {FEW.bots} | KiB/meeting at {FEW.bots} "
        f"| at {MANY.bots} | memory a meeting, {MANY.bots} / {FEW.bots} |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name in results.trials[MANY]:
        few, many = results.median(FEW, name), results.median(MANY, name)
        if few is None or many is None:
            continue
        cpu, memory = (
            results.growth(FEW, MANY, name, figure) for figure in ("cpu_us", "memory_kib")
        )
        lines.append(
            f"| {name} | {_ratio(cpu)} | {few.memory_kib:.0f} | {many.memory_kib:.0f} "
            f"| {_ratio(memory)} |"
        )
    return [*lines, ""]


def _ratio(ratio: float) -> str:
    return "" if math.isnan(ratio) else f"{ratio:.2f}"
