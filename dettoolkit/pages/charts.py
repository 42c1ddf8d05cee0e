"""Charts as inline SVG: lines over a grid, readable without color and in print."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from dettoolkit.pages.parts import Chart, Series

WIDTH, HEIGHT = 560, 300  # of the drawing, which scales with the page
LEFT, RIGHT, TOP, BOTTOM = 74, 14, 12, 46
COLORS = ("#1668b8", "#c2410c", "#15803d", "#7c3aed", "#b91c5c", "#0f766e", "#a16207", "#475569")
DASHES = ("", "6 3", "2 3", "8 3 2 3")
MAX_POINTS = 400  # of a line; a longer one is thinned, its extremes kept
MAX_NAMED = 12  # lines with a name of their own in the key


def chart_svg(chart: Chart) -> str:
    """Return the SVG element of a chart; one without any point says so."""
    series = [each for each in chart.series if any(map(math.isfinite, each.y))]
    if not series:
        return '<p class="empty">nothing to draw</p>'
    x_low, x_high = chart.x_range or _range(value for each in series for value in each.x)
    y_low, y_high = chart.y_range or _range(value for each in series for value in each.y)

    def at(x: float, y: float) -> tuple[float, float]:
        inside = (WIDTH - LEFT - RIGHT) * (x - x_low) / (x_high - x_low)
        height = HEIGHT - TOP - BOTTOM
        return LEFT + inside, TOP + height - height * (y - y_low) / (y_high - y_low)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">']
    for tick in ticks(y_low, y_high):
        _, y = at(x_low, tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y:.1f}" dy=".35em" text-anchor="end">{tick:g}</text>')
    for tick in ticks(x_low, x_high):
        x, _ = at(tick, y_low)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(chart.x_label)}</text>')
    upright = f"rotate(-90 12 {(TOP + HEIGHT - BOTTOM) / 2})"
    parts.append(
        f'<text x="12" y="{(TOP + HEIGHT - BOTTOM) / 2}" text-anchor="middle" transform="{upright}">'
        f"{escape(chart.y_label)}</text>"
    )
    for number, each in enumerate(series):
        places = [at(x, y) for x, y in _thinned(each)]
        title = f"<title>{escape(each.name)}</title>"
        parts.append(f'<path class="line" {_style(number)} d="{"".join(_path(places))}">{title}</path>')
        if len(places) == 1:  # as of a run with one validation: no line, and a dot of its width is not seen
            (x, y), color = places[0], COLORS[number % len(COLORS)]
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}">{title}</circle>')
    parts.append("</svg>")
    return "".join(parts) + _key([each.name for each in series])


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers from low to high, about `count`."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= count + 1e-9)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _range(values: Iterator[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _thinned(series: Series) -> list[tuple[float, float]]:
    points = [(x, y) for x, y in zip(series.x, series.y, strict=True)]
    group = math.ceil(len(points) / MAX_POINTS) * 2
    if group <= 2:
        return points
    kept = []
    for start in range(0, len(points), group):
        part = points[start : start + group]
        kept += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    return kept


def _path(points: Sequence[tuple[float, float]]) -> Iterator[str]:
    pen = "M"
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            yield f"{pen}{x:.1f} {y:.1f}" + ("h0" if pen == "M" else "")  # a point alone shows as a dot
            pen = "L"
        else:
            pen = "M"


def _style(number: int) -> str:
    dash = DASHES[number // len(COLORS) % len(DASHES)]
    return f'stroke="{COLORS[number % len(COLORS)]}" stroke-dasharray="{dash}"'


def _key(names: Sequence[str]) -> str:
    if len(names) == 1:
        return ""
    lines = [
        '<span><svg viewBox="0 0 24 8" class="swatch">'
        f'<path class="line" {_style(number)} d="M0 4H24"/></svg>{escape(name)}</span>'
        for number, name in enumerate(names[:MAX_NAMED])
    ]
    if len(names) > MAX_NAMED:
        lines.append(f"<span>and {len(names) - MAX_NAMED} more</span>")
    return f'<p class="key">{"".join(lines)}</p>'
