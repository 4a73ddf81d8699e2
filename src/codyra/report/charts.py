"""Line charts as inline SVG: no script, colours and dashes from the style sheet, a text alternative each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from codyra.report.markup import Markup, tag
from codyra.report.numbers import MINUS

NUM_STYLES = 8
"""Line styles in style.css: `.s0` to `.s7`, each its own colour and dash; the marker shape changes along."""

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 10, 8, 26
_MAX_MARKED_POINTS = 24
_LEAST_SPAN = 1e-300
"""A smaller one divided into ticks comes to nothing."""

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Series:
    """One line: (x, y) pairs in order of x, y None where there is a gap."""

    label: str
    style: int
    points: Sequence[Point]


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers that span low..high, roughly `about` of them."""
    if high - low < _LEAST_SPAN:
        high = low + (abs(low) if abs(low) > _LEAST_SPAN else 1)
    raw = (high - low) / about
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def y_range(series: Sequence[Series], *, from_zero: bool) -> tuple[float, float]:
    """The range that several charts share so that they can be compared by eye."""
    values = [y for line in series for _, y in line.points if y is not None] or [0.0]
    return (min(0.0, *values) if from_zero else min(values), max(values))


def downsample(points: Sequence[Point], most: int = 100) -> list[Point]:
    """At most `most` points, each the mean of equally many neighbours (the last of fewer)."""
    width = math.ceil(len(points) / most)
    chunks = [points[start : start + width] for start in range(0, len(points), width)] if points else []
    reduced: list[Point] = []
    for chunk in chunks:
        known = [y for _, y in chunk if y is not None]
        x = math.fsum(x for x, _ in chunk) / len(chunk)
        reduced.append((x, math.fsum(known) / len(known) if known else None))
    return reduced


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    description: str,
    y_span: tuple[float, float],
    x_ticks: Sequence[float],
    shade_until: float | None = None,
    height: int = _HEIGHT,
) -> Markup:
    """One chart. `description` says its content in words; `shade_until` greys the ground left of that x."""
    y_ticks = nice_ticks(*y_span, about=max(2, height // 45))
    bottom, top = y_ticks[0], y_ticks[-1]
    first, last = min(x_ticks), max(*x_ticks, *(x for line in series for x, _ in line.points))

    def place_x(x: float) -> float:
        share = (x - first) / (last - first) if last > first else 0.5
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def place_y(y: float) -> float:
        return _TOP + (top - y) / (top - bottom) * (height - _TOP - _BOTTOM)

    base = height - _BOTTOM
    parts = [tag("title", title), tag("desc", description)]
    if shade_until is not None:
        right = place_x(shade_until)
        parts.append(
            tag("rect", class_="before", x=_LEFT, y=_TOP, width=coordinate(right - _LEFT), height=base - _TOP)
        )
    for tick in y_ticks:
        level = coordinate(place_y(tick))
        parts.append(tag("line", class_="grid", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=level, y2=level))
        parts.append(tag("text", f"{tick:.6g}".replace("-", MINUS), x=_LEFT - 6, y=level, class_="y"))
    for tick in x_ticks:
        parts.append(tag("text", f"{tick:.6g}", x=coordinate(place_x(tick)), y=height - 8, class_="x"))
    for line in series:
        marked = len(line.points) <= _MAX_MARKED_POINTS
        for run in _unbroken(line.points):
            placed = [(place_x(x), place_y(y)) for x, y in run]
            coordinates = " ".join(f"{coordinate(x)},{coordinate(y)}" for x, y in placed)
            parts.append(tag("polyline", class_=f"line s{line.style}", points=coordinates))
            if marked or len(run) == 1:
                for (x, y), (_, value) in zip(placed, run, strict=True):
                    parts.append(marker(line.style, x, y, f"{line.label}: {value:.4g}"))
    return tag(
        "svg",
        *parts,
        class_="chart",
        viewBox=f"0 0 {_WIDTH} {height}",
        role="img",
        aria_label=f"{title}. {description}",
    )


def line_key(label: str, style: int) -> Markup:
    """The sample of a line that stands before its run's name."""
    return tag(
        "svg",
        tag("line", class_=f"line s{style}", x1=1, x2=27, y1=7, y2=7),
        marker(style, 14, 7, label),
        class_="key",
        viewBox="0 0 28 14",
        role="img",
        aria_label=f"line of {label}",
    )


def _unbroken(points: Sequence[Point]) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is not None:
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


_MARKERS = (
    "M{x} {y}m-3.4 0a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0 -6.8 0z",  # circle
    "M{x} {y}m-3 -3h6v6h-6z",  # square
    "M{x} {y}m0 -4l4 7h-8z",  # triangle
    "M{x} {y}m0 -4.4l4.4 4.4l-4.4 4.4l-4.4 -4.4z",  # diamond
)


def marker(style: int, x: float, y: float, title: str) -> Markup:
    """A point in the shape and colour of a line style."""
    outline = _MARKERS[style % len(_MARKERS)].format(x=coordinate(x), y=coordinate(y))
    return tag("path", tag("title", title), class_=f"dot s{style}", d=outline)


def coordinate(value: float) -> str:
    """A length as SVG holds it."""
    return f"{value:.1f}".removesuffix(".0")
