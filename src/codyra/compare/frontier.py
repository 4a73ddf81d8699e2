"""A plot of two means per method with their errors: numbered markers, and numbers that never lie on one another."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from codyra.compare.statistics import Estimate
from codyra.report.charts import coordinate, marker, nice_ticks
from codyra.report.markup import Markup, join, tag
from codyra.report.numbers import MINUS

_WIDTH, _HEIGHT = 360, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 44
_REACH = 5.0
"""No marker is wider or higher than twice this."""
_DIGIT, _LABEL_HEIGHT, _CAP = 7.0, 12.0, 3.0
_TURNS = 16
"""Directions in which a place for a number is looked for."""
_DISTANCES = (12, 16, 21, 27, 34, 42, 51, 62, 75, 90, 110, 135, 165, 200, 250, 320)
_LINE_FROM = 18.0
"""Numbers that are further away are joined to their marker by a line."""

Place = tuple[float, float]
Scale = Callable[[float], float]


@dataclass(frozen=True)
class Spot:
    """One method: `number` stands beside its marker and in the key."""

    number: int
    label: str
    style: int
    x: Estimate
    y: Estimate


@dataclass(frozen=True)
class Box:
    """A rectangle by its middle, half its width and half its height."""

    x: float
    y: float
    half_width: float
    half_height: float

    def meets(self, other: "Box") -> bool:
        """True when the two share a point inside them."""
        return (
            abs(self.x - other.x) < self.half_width + other.half_width
            and abs(self.y - other.y) < self.half_height + other.half_height
        )

    def holds(self, x: float, y: float) -> bool:
        return abs(x - self.x) < self.half_width and abs(y - self.y) < self.half_height


def frontier(spots: Sequence[Spot], *, title: str, x_name: str, y_name: str) -> Markup:
    """The plot of the methods that have both figures. Less of x is better, more of y.

    A thin line joins those that no other method beats in one mean while it is as good in the other.
    """
    known = [spot for spot in spots if spot.x.mean is not None and spot.y.mean is not None]
    x_ticks = _ticks([bound for spot in known for bound in _bounds(spot.x)], 5)
    y_ticks = _ticks([bound for spot in known for bound in _bounds(spot.y)], 6)
    right, base = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def place_x(x: float) -> float:
        return _LEFT + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (right - _LEFT)

    def place_y(y: float) -> float:
        return base - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (base - _TOP)

    places = [(place_x(_mean(spot.x)), place_y(_mean(spot.y))) for spot in known]
    parts = [tag("title", title), tag("desc", describe(known, x_name, y_name))]
    for tick in y_ticks:
        level = coordinate(place_y(tick))
        parts.append(tag("line", class_="grid", x1=_LEFT, x2=right, y1=level, y2=level))
        parts.append(tag("text", _number(tick), x=_LEFT - 6, y=level, class_="y"))
    for tick in x_ticks:
        across = coordinate(place_x(tick))
        parts.append(tag("line", class_="grid", x1=across, x2=across, y1=_TOP, y2=base))
        parts.append(tag("text", _number(tick), x=across, y=base + 15, class_="x"))
    parts.append(tag("text", x_name, x=coordinate((_LEFT + right) / 2), y=_HEIGHT - 8, class_="x axis"))
    middle = coordinate((_TOP + base) / 2)
    parts.append(tag("text", y_name, x=11, y=middle, class_="x axis", transform=f"rotate(-90 11 {middle})"))

    front = [places[i] for i in unbeaten([(_mean(spot.x), _mean(spot.y)) for spot in known])]
    if len(front) > 1:
        joined = " ".join(f"{coordinate(x)},{coordinate(y)}" for x, y in front)
        parts.append(tag("polyline", class_="front", points=joined))
    for spot, (x, y) in zip(known, places, strict=True):
        parts.append(_error_bar(spot, x, y, place_x, place_y))
    sizes = [_DIGIT * len(str(spot.number)) + 2 for spot in known]
    labels = place_labels(
        places, sizes, Box((_LEFT + right) / 2, (_TOP + base) / 2, (right - _LEFT) / 2, (base - _TOP) / 2)
    )
    for (x, y), (at_x, at_y) in zip(places, labels, strict=True):
        if math.hypot(at_x - x, at_y - y) > _LINE_FROM:
            parts.append(_line("leader", x, y, at_x, at_y))
    for spot, (x, y) in zip(known, places, strict=True):
        parts.append(marker(spot.style, x, y, f"{spot.number} {spot.label}"))
    for spot, (x, y) in zip(known, labels, strict=True):
        parts.append(tag("text", spot.number, x=coordinate(x), y=coordinate(y), class_="spot"))
    return tag(
        "svg",
        *parts,
        class_="chart frontier",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{title}. {describe(known, x_name, y_name)}",
    )


def unbeaten(points: Sequence[Place]) -> list[int]:
    """Positions of the points of which no other has less x and as much y, or more y and as little x; by x.

    Of equal points the first is taken.
    """
    found: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if not found or points[i][1] > points[found[-1]][1]:
            found.append(i)
    return found


def place_labels(places: Sequence[Place], widths: Sequence[float], frame: Box) -> list[Place]:
    """The middle of a label for each marker: near it, in the frame, not on a marker nor on another label.

    Lines from a marker to its label do not cross what is placed already, where that can be had.
    """
    markers = [Box(x, y, _REACH, _REACH) for x, y in places]
    placed: list[Box] = []
    for (x, y), width in zip(places, widths, strict=True):
        free = [
            box
            for box in _around(x, y, width)
            if _inside(box, frame) and not any(box.meets(other) for other in (*markers, *placed))
        ]
        others = [other for other in (*markers, *placed) if not other.holds(x, y)]
        clear = (box for box in free if not any(_crosses(x, y, box, other) for other in others))
        placed.append(next(clear, free[0] if free else Box(x, y, width / 2, _LABEL_HEIGHT / 2)))
    return [(box.x, box.y) for box in placed]


def describe(spots: Sequence[Spot], x_name: str, y_name: str) -> str:
    """The plot in words."""
    values = (
        f"{spot.number} {spot.label}: {_with_error(spot.x)} and {_with_error(spot.y)}" for spot in spots
    )
    return f"{x_name} and {y_name}: {'; '.join(values)}"


def _around(x: float, y: float, width: float) -> Iterator[Box]:
    """Places for a label, the nearest first; across before along the error bars, to the right before to the left."""
    eighth = _TURNS // 8
    turns = sorted(
        range(_TURNS), key=lambda turn: (abs(turn % (2 * eighth) - eighth), min(turn, _TURNS - turn))
    )
    for distance in _DISTANCES:
        for turn in turns:
            angle = 2 * math.pi * turn / _TURNS
            yield Box(
                x + (distance + width / 2 - _DIGIT / 2) * math.cos(angle),
                y - distance * math.sin(angle),
                width / 2,
                _LABEL_HEIGHT / 2,
            )


def _inside(box: Box, frame: Box) -> bool:
    return (
        abs(box.x - frame.x) <= frame.half_width - box.half_width
        and abs(box.y - frame.y) <= frame.half_height - box.half_height
    )


def _crosses(x: float, y: float, label: Box, other: Box) -> bool:
    """Does the line from a marker to its label run through another box? Seen at steps shorter than a marker."""
    steps = max(2, math.ceil(math.hypot(label.x - x, label.y - y) / 3))
    return any(
        other.holds(x + (label.x - x) * step / steps, y + (label.y - y) * step / steps)
        for step in range(steps)
    )


def _error_bar(spot: Spot, x: float, y: float, place_x: Scale, place_y: Scale) -> Markup:
    parts = []
    if spot.x.error:
        low, high = (place_x(bound) for bound in _bounds(spot.x))
        parts.append(_line("bar", low, y, high, y))
        parts += [_line("bar", end, y - _CAP, end, y + _CAP) for end in (low, high)]
    if spot.y.error:
        low, high = (place_y(bound) for bound in _bounds(spot.y))
        parts.append(_line("bar", x, low, x, high))
        parts += [_line("bar", x - _CAP, end, x + _CAP, end) for end in (low, high)]
    return join(parts)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return tag("line", class_=kind, **{name: coordinate(value) for name, value in ends.items()})


def _mean(estimate: Estimate) -> float:
    assert estimate.mean is not None
    return estimate.mean


def _bounds(estimate: Estimate) -> tuple[float, float]:
    error = estimate.error or 0.0
    return _mean(estimate) - error, _mean(estimate) + error


def _with_error(estimate: Estimate) -> str:
    error = "" if estimate.error is None else f" \N{PLUS-MINUS SIGN} {estimate.error:.2f}"
    return f"{_mean(estimate):.2f}{error}"


def _ticks(values: Sequence[float], about: int) -> list[float]:
    """Ticks that leave no marker on the edge."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    margin = 0.06 * (high - low) or 0.5
    return nice_ticks(low - margin, high + margin, about)


def _number(value: float) -> str:
    return f"{value + 0.0:.6g}".replace("-", MINUS)
