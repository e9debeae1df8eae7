"""Small charts as inline SVG. Colours and type come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import floor, log10
from typing import NamedTuple

from markupsafe import Markup

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 38, 10, 26, 30


class Line(NamedTuple):
    """A line of a chart. style: its class in the style sheet. marks: points to mark, as (x, y, class)."""

    points: Sequence[tuple[float, float]]
    style: str
    marks: Sequence[tuple[float, float, str]] = ()


def line_chart(title: str, lines: Sequence[Line], *, x_label: str, rule: float | None = None) -> Markup:
    """Lines over one x axis, the y axis from 0 (or below) up; rule: an x to mark by a dashed line."""
    points = [point for line in lines for point in line.points]
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_ticks = ticks(min(0.0, *(y for _, y in points)), max(y for _, y in points))
    x_ticks = [tick for tick in ticks(x_low, x_high) if x_low <= tick <= x_high]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / ((x_high - x_low) or 1)
        up = (y - y_ticks[0]) / ((y_ticks[-1] - y_ticks[0]) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text class="title" x="0" y="14">{escape(title)}</text>']
    for tick in y_ticks:
        y = place(x_low, tick)[1]
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x = place(tick, 0)[0]
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 15}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(x_label)}</text>')
    if rule is not None and x_low <= rule <= x_high:
        parts.append(f'<path class="rule" d="M{place(rule, 0)[0]:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    for line in lines:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*point) for point in line.points))
        parts.append(f'<path class="line {line.style}" d="M{path}"/>')
    for line in lines:
        for x, y, kind in line.marks:
            across, down = place(x, y)
            parts.append(f'<circle class="mark {kind} {line.style}" cx="{across:.1f}" cy="{down:.1f}" r="4"/>')
    drawn = "".join(parts)
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{drawn}</svg>'
    )


def ticks(low: float, high: float, *, most: int = 5) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, `most` steps at most."""
    span = (high - low) or 1.0
    magnitude = 10.0 ** floor(log10(span / most))
    step = next(size * magnitude for size in (1, 2, 2.5, 5, 10, 20) if span / (size * magnitude) <= most)
    first = floor(low / step + 1e-9)
    count = next(n for n in range(1, most + 3) if (first + n) * step >= high - 1e-9 * span)
    return [round((first + n) * step, 10) for n in range(count + 1)]
