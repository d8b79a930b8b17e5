"""A line plot as SVG text, so that no plotting library is needed. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 60, 250, 40, 50
COLOURS = ("#d62728", "#1f77b4", "#17becf", "#2ca02c", "#9467bd", "#7f7f7f", "#bcbd22")
OUR_COLOURS = ("#000000", "#e08000", "#a05000", "#604000")
"""Ours are drawn thick."""

Points = Sequence[tuple[float, float]]


def line_plot(
    series: Mapping[str, Points], ours: Sequence[str], title: str, x_title: str, y_title: str
) -> str:
    """An SVG document; x is logarithmic, y begins at 0. Series without points are left out."""
    drawn = {name: points for name, points in series.items() if points}
    xs = sorted({x for points in drawn.values() for x, _ in points})
    top = max((y for points in drawn.values() for _, y in points), default=1.0)
    step = _round_step(top / 5)
    top = step * math.ceil(top / step)
    low, high = (math.log(xs[0]), math.log(xs[-1])) if xs else (0.0, 1.0)
    span = (high - low) or 1.0
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (math.log(x) - low) / span * (right - LEFT),
            bottom - y / top * (bottom - TOP),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 22, title, 'font-size="15"'),
        _text((LEFT + right) / 2, HEIGHT - 12, x_title, 'text-anchor="middle"'),
        _text(14, TOP - 8, y_title),
    ]
    for k in range(round(top / step) + 1):
        y = place(xs[0] if xs else 1.0, k * step)[1]
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#dddddd"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{k * step:g}", 'text-anchor="end"'))
    middle = 'text-anchor="middle"'
    parts += [_text(place(x, 0)[0], bottom + 18, f"{x:g}", middle) for x in xs]
    theirs = 0
    for k, (name, points) in enumerate(drawn.items()):
        if name in ours:
            colour, width = OUR_COLOURS[list(ours).index(name) % len(OUR_COLOURS)], 3.0
        else:
            colour, width = COLOURS[theirs % len(COLOURS)], 1.5
            theirs += 1
        places = [place(x, y) for x, y in sorted(points)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(
            f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
        )
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places
        ]
        at = TOP + 10 + 20 * k
        parts.append(
            f'<path d="M{right + 12} {at}h18" stroke="{colour}" stroke-width="{width}"/>'
        )
        parts.append(_text(right + 35, at + 4, name, 'font-size="11"'))
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, text: str, extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {extra}>{escape(text)}</text>'


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
