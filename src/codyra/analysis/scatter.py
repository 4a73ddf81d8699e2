"""The picture of a probe: adaptation against retention, marker size = rank, shape and colour = placement."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from codyra.analysis.svg import INK, SERIES, SOFT, Frame, elided, line, marker, number, picture, text
from codyra.report.charts import nice_ticks
from codyra.report.markup import Markup, join, tag

_WIDTH, _HEIGHT = 800, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 620, 48, 456
_KEY = 650
_ROW = 24
_CROSS = 7
_MAX_SIZES = 5
"""Ranks whose marker the key shows; of more, three stand for all."""


@dataclass(frozen=True)
class Spot:
    """One point: `style` numbers its placement; adaptation in points, retention in percent."""

    style: int
    rank: int
    adaptation: float
    retention: float


def scatter(
    spots: Sequence[Spot], placements: Sequence[str], *, start: float, task: str, num_others: int
) -> str:
    """The SVG file; `start` is the retention of the base model, whose adaptation is 0."""
    xs, ys = [0.0, *(spot.adaptation for spot in spots)], [start, *(spot.retention for spot in spots)]
    frame = Frame(_LEFT, _TOP, _RIGHT, _BOTTOM, _ticks(xs), _ticks(ys))
    others = f"{num_others} tasks" if num_others > 1 else "task"
    title = f"Rank and placement: {elided(task)} learnt, the other {others} not"
    used = sorted({spot.style for spot in spots})
    parts = [
        text(title, _LEFT, 22, fill=INK, size=16, bold=True),
        frame.axes(
            f"adaptation: accuracy gained on {elided(task)} (points)",
            f"retention: mean accuracy of the other {others} (%)",
        ),
    ]
    for style in used:
        parts.append(_placed(frame, [spot for spot in spots if spot.style == style], placements[style]))
    parts += [_cross(frame.x(0.0), frame.y(start)), _key(placements, used, {spot.rank for spot in spots})]
    described = "; ".join(
        f"{placements[spot.style]} rank {spot.rank}: {spot.adaptation:+.1f} points, {spot.retention:.1f} %"
        for spot in spots
    )
    return picture(_WIDTH, _HEIGHT, *parts, title=title, description=f"zero-shot: {start:.1f} %; {described}")


def _ticks(values: Sequence[float]) -> list[float]:
    """Ticks that leave no marker on the edge."""
    margin = 0.05 * (max(values) - min(values))
    return nice_ticks(min(values) - margin, max(values) + margin, 6)


def _placed(frame: Frame, spots: Sequence[Spot], name: str) -> Markup:
    """The points of one placement, joined in the order of their ranks."""
    spots = sorted(spots, key=lambda spot: spot.rank)
    places = [(frame.x(spot.adaptation), frame.y(spot.retention)) for spot in spots]
    path = tag(
        "polyline",
        points=" ".join(f"{number(x)},{number(y)}" for x, y in places),
        fill="none",
        stroke=SERIES[spots[0].style],
        stroke_opacity=0.45,
    )
    markers = [
        marker(
            spot.style,
            x,
            y,
            _radius(spot.rank),
            f"{name}, rank {spot.rank}: {spot.adaptation:+.1f} points, {spot.retention:.1f} %",
        )
        for spot, (x, y) in zip(spots, places, strict=True)
    ]
    return join([path, *reversed(markers)])  # small ones on top


def _radius(rank: int) -> float:
    return 4 + 1.7 * math.log2(rank)


def _cross(x: float, y: float) -> Markup:
    """The base model."""
    arms = (
        (x - _CROSS, y - _CROSS, x + _CROSS, y + _CROSS),
        (x - _CROSS, y + _CROSS, x + _CROSS, y - _CROSS),
    )
    return tag("g", *(line(*arm, stroke=INK) for arm in arms), stroke_width=2.5)


def _key(placements: Sequence[str], used: Sequence[int], ranks: set[int]) -> Markup:
    y = float(_TOP + 8)
    parts = [_cross(_KEY, y), text("zero-shot", _KEY + 22, y)]
    for style in used:
        y += _ROW
        parts += [marker(style, _KEY, y, _radius(4)), text(placements[style], _KEY + 22, y)]
    y += 1.6 * _ROW
    parts.append(text("marker size = rank", _KEY - 8, y))
    shown = sorted(ranks)
    for rank in shown if len(shown) <= _MAX_SIZES else (shown[0], shown[len(shown) // 2], shown[-1]):
        y += max(_ROW, 2 * _radius(rank))
        circle = tag("circle", cx=_KEY, cy=number(y), r=number(_radius(rank)), fill="none", stroke=SOFT)
        parts += [circle, text(str(rank), _KEY + 22, y)]
    return join(parts)
