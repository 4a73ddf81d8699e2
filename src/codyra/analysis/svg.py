"""Standalone SVG pictures: white ground and literal colours, so that browsers, converters and papers show the same.

Lengths are in pixels, x to the right, y down.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from codyra.errors import visible
from codyra.report.markup import Attribute, Child, Markup, join, tag
from codyra.report.numbers import MINUS

# The colours of the report on light ground.
INK, SOFT, LINE = "#14202b", "#55616c", "#dfe3e6"
SERIES = ("#0b63b0", "#c4500a", "#0a7f5f", "#9a3d83", "#8a6d00")
HEAT = (
    "#ebf9ff", "#cde8fb", "#b1d7f3", "#95c5ec", "#7ab3e5", "#61a1dd",
    "#3077be", "#2867ae", "#265799", "#234985", "#1f3b70",
)  # fmt: skip
FIRST_DARK = 6
"""Level of HEAT from which on text on it is white."""
FONT_SIZE = 13
MAX_NAME = 40
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
_TURNS: tuple[tuple[int, float], ...] = (
    (0, 0),
    (4, math.pi / 4),
    (3, math.pi / 2),
    (4, 0),
    (3, -math.pi / 2),
)
"""Corners of each marker and the angle of the first: circle, square, triangle, diamond, triangle upside down."""


def picture(width: float, height: float, *parts: Child, title: str, description: str) -> str:
    """A whole SVG file; `title` and `description` are its text alternative."""
    svg = tag(
        "svg",
        tag("title", visible(title)),
        tag("desc", visible(description)),
        tag("rect", width=width, height=height, fill="#ffffff"),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {number(width)} {number(height)}",
        width=number(width),
        height=number(height),
        role="img",
        font_family=_FONT,
        font_size=FONT_SIZE,
    )
    return f"{svg}\n"


def text(
    content: str,
    x: float,
    y: float,
    *,
    anchor: str = "start",
    fill: str = SOFT,
    size: float | None = None,
    bold: bool = False,
    turned: bool = False,
) -> Markup:
    """One line of text whose middle is at height y; `turned` reads from below."""
    place = f"rotate(-90 {number(x)} {number(y)})" if turned else None
    return tag(
        "text",
        visible(content),
        x=number(x),
        y=number(y + 0.35 * (size or FONT_SIZE)),
        text_anchor=None if anchor == "start" else anchor,
        fill=fill,
        font_size=size,
        font_weight="bold" if bold else None,
        transform=place,
    )


def line(x1: float, y1: float, x2: float, y2: float, stroke: str = LINE) -> Markup:
    """A straight line."""
    return tag("line", x1=number(x1), y1=number(y1), x2=number(x2), y2=number(y2), stroke=stroke)


def marker(style: int, x: float, y: float, radius: float, tip: str = "") -> Markup:
    """One of the five shapes, each in its own colour and of the area that a circle of this radius has."""
    about: dict[str, Attribute] = {"fill": SERIES[style], "fill_opacity": 0.8, "stroke": "#ffffff"}
    title = tag("title", visible(tip)) if tip else None
    corners, start = _TURNS[style]
    if not corners:
        return tag("circle", title, **about, cx=number(x), cy=number(y), r=number(radius))
    step = 2 * math.pi / corners
    reach = radius * math.sqrt(2 * math.pi / (corners * math.sin(step)))
    angles = [start + corner * step for corner in range(corners)]
    points = " ".join(
        f"{number(x + reach * math.cos(angle))},{number(y - reach * math.sin(angle))}" for angle in angles
    )
    return tag("polygon", title, points=points, **about)


def number(value: float) -> str:
    """A coordinate."""
    return f"{value:.1f}".removesuffix(".0")


def elided(name: str) -> str:
    """A name cut to what a picture has room for."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


@dataclass(frozen=True)
class Frame:
    """The plotting area of a chart, between its first and last ticks."""

    left: float
    top: float
    right: float
    bottom: float
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]

    def x(self, value: float) -> float:
        """Where a value lies on the horizontal axis."""
        return self.left + _share(value, self.x_ticks) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Where a value lies on the vertical axis."""
        return self.bottom - _share(value, self.y_ticks) * (self.bottom - self.top)

    def axes(self, x_label: str, y_label: str = "") -> Markup:
        """Grid, tick labels, and what the axes show with its unit; without `y_ticks` there is no vertical axis."""
        parts = []
        for tick in self.x_ticks:
            x = self.x(tick)
            parts.append(line(x, self.top, x, self.bottom))
            parts.append(text(_tick(tick), x, self.bottom + 14, anchor="middle"))
        for tick in self.y_ticks:
            y = self.y(tick)
            parts.append(line(self.left, y, self.right, y))
            parts.append(text(_tick(tick), self.left - 8, y, anchor="end"))
        middle_x, middle_y = (self.left + self.right) / 2, (self.top + self.bottom) / 2
        parts.append(text(x_label, middle_x, self.bottom + 38, anchor="middle", fill=INK))
        if self.y_ticks:
            parts.append(text(y_label, self.left - 60, middle_y, anchor="middle", fill=INK, turned=True))
        return join(parts)


def _share(value: float, ticks: Sequence[float]) -> float:
    return (value - ticks[0]) / (ticks[-1] - ticks[0]) if ticks[-1] > ticks[0] else 0.5


def _tick(value: float) -> str:
    return f"{value:.6g}".replace("-", MINUS)
