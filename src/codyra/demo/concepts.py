"""What the things of the picture world look like: each concept is a short list of strokes in the square [-1, 1]^2.

x grows to the right and y downwards. A concept says nothing about colour beyond a tone, and nothing about texture or
position: how strokes become pixels is the business of `codyra.demo.styles`. Later strokes lie on top of earlier ones.
"""

import math
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Tone = Literal["body", "accent", "dark", "light"]
Point = tuple[float, float]


class Stroke(NamedTuple):
    """One line or one area.

    points: (P, 2) float64, the corners in drawing order.
    tone: which colour of the palette it takes.
    width: thickness of a line in the same unit; 0 makes the points the outline of a filled area.
    """

    points: NDArray[np.float64]
    tone: Tone
    width: float = 0.0


def _area(*points: Point, tone: Tone = "body") -> Stroke:
    return Stroke(np.array(points), tone)


def _line(*points: Point, tone: Tone = "dark", width: float = 0.11) -> Stroke:
    return Stroke(np.array(points), tone, width)


def _arc_points(x: float, y: float, rx: float, ry: float, start: float, end: float) -> NDArray[np.float64]:
    """Points of an elliptic arc from `start` to `end` degrees; 0 is right, 90 is down."""
    angles = np.radians(np.linspace(start, end, 25))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def _disc(
    x: float, y: float, rx: float, ry: float | None = None, tone: Tone = "body", turn: float = 0
) -> Stroke:
    points = _arc_points(0, 0, rx, rx if ry is None else ry, 0, 360)
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return Stroke(points @ np.array([[cos, sin], [-sin, cos]]) + (x, y), tone)


def _arc(
    x: float,
    y: float,
    rx: float,
    ry: float,
    start: float,
    end: float,
    tone: Tone = "dark",
    width: float = 0.11,
) -> Stroke:
    return Stroke(_arc_points(x, y, rx, ry, start, end), tone, width)


def _sector(
    x: float, y: float, rx: float, ry: float, start: float, end: float, tone: Tone = "body"
) -> Stroke:
    """The area between an arc and its chord."""
    return Stroke(_arc_points(x, y, rx, ry, start, end), tone)


def _blob(*corners: Point, tone: Tone = "body") -> Stroke:
    """A rounded area through the corners (closed Catmull-Rom curve)."""
    p1 = np.array(corners)
    p0, p2, p3 = np.roll(p1, 1, axis=0), np.roll(p1, -1, axis=0), np.roll(p1, -2, axis=0)
    t = np.linspace(0, 1, 8, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (p[:, None, :] for p in (p0, p1, p2, p3))
    curve = 0.5 * (
        2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    return Stroke(curve.reshape(-1, 2), tone)


def _box(left: float, top: float, right: float, bottom: float, tone: Tone = "body") -> Stroke:
    return _area((left, top), (right, top), (right, bottom), (left, bottom), tone=tone)


def _spokes(
    x: float, y: float, inner: float, outer: float, count: int, tone: Tone, width: float
) -> list[Stroke]:
    directions = [(math.cos(a), math.sin(a)) for a in np.arange(count) * 2 * math.pi / count]
    return [
        _line((x + inner * c, y + inner * s), (x + outer * c, y + outer * s), tone=tone, width=width)
        for c, s in directions
    ]


def _ripple(left: float, right: float, y: float, height: float, radians: float, width: float) -> Stroke:
    """A line that swings about `y` as a sine through so many radians."""
    x = np.linspace(left, right, 40)
    return Stroke(np.stack([x, y + height * np.sin(np.linspace(0, radians, 40))], axis=1), "body", width)


def _regular(corners: int, radius: float) -> Stroke:
    angles = np.arange(corners) * 2 * math.pi / corners - math.pi / 2
    return Stroke(radius * np.stack([np.cos(angles), np.sin(angles)], axis=1), "body")


# ---------------------------------------------------------------------------------------------------------- shapes


def _heart() -> Stroke:
    t = np.linspace(0, 2 * math.pi, 48)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return Stroke(np.stack([16 * np.sin(t) ** 3, -y - 2], axis=1) / 18, "body")


def _star() -> Stroke:
    radius = np.tile([0.95, 0.4], 5)
    angles = np.arange(10) * math.pi / 5 - math.pi / 2
    return Stroke(np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1), "body")


def _crescent() -> Stroke:
    outer, inner = _arc_points(0, 0, 0.88, 0.88, 50, 310), _arc_points(0.36, 0, 0.7, 0.7, 286, 74)
    return Stroke(np.concatenate([outer, inner]), "body")


def _spiral() -> Stroke:
    t = np.linspace(0.4, 2.6 * 2 * math.pi, 90)
    return Stroke((t / t[-1] * 0.9)[:, None] * np.stack([np.cos(t), np.sin(t)], axis=1), "body", 0.14)


SHAPES: dict[str, Callable[[], list[Stroke]]] = {
    "circle": lambda: [_disc(0, 0, 0.82)],
    "square": lambda: [_box(-0.74, -0.74, 0.74, 0.74)],
    "triangle": lambda: [_area((0, -0.85), (0.88, 0.7), (-0.88, 0.7))],
    "diamond": lambda: [_area((0, -0.95), (0.62, 0), (0, 0.95), (-0.62, 0))],
    "hexagon": lambda: [_regular(6, 0.88)],
    "star": lambda: [_star()],
    "heart": lambda: [_heart()],
    "crescent": lambda: [_crescent()],
    "spiral": lambda: [_spiral()],
    "cross": lambda: [
        _area(
            (-0.28, -0.88), (0.28, -0.88), (0.28, -0.28), (0.88, -0.28), (0.88, 0.28), (0.28, 0.28),
            (0.28, 0.88), (-0.28, 0.88), (-0.28, 0.28), (-0.88, 0.28), (-0.88, -0.28), (-0.28, -0.28),
        )
    ],
    "arrow": lambda: [
        _area((-0.9, -0.24), (0.1, -0.24), (0.1, -0.68), (0.92, 0), (0.1, 0.68), (0.1, 0.24), (-0.9, 0.24))
    ],
}  # fmt: skip


# --------------------------------------------------------------------------------------------------------- objects

OBJECTS: dict[str, Callable[[], list[Stroke]]] = {
    "house": lambda: [
        _box(-0.65, -0.1, 0.65, 0.85),
        _area((-0.9, -0.08), (0, -0.88), (0.9, -0.08), tone="accent"),
        _box(-0.15, 0.3, 0.2, 0.85, "dark"),
        _box(0.33, 0.1, 0.55, 0.34, "light"),
    ],
    "tree": lambda: [
        _box(-0.13, 0.2, 0.13, 0.95, "dark"),
        _blob(
            (0, -0.95), (0.55, -0.65), (0.8, -0.1), (0.45, 0.35), (-0.45, 0.35), (-0.8, -0.1), (-0.55, -0.65)
        ),
    ],
    "car": lambda: [
        _area((-0.5, -0.05), (-0.3, -0.5), (0.3, -0.5), (0.55, -0.05), tone="light"),
        _line((0, -0.5), (0, 0), tone="body", width=0.09),
        _line((-0.5, -0.02), (-0.3, -0.5), (0.3, -0.5), (0.55, -0.02), tone="body", width=0.1),
        _area((-0.95, -0.02), (0.85, -0.02), (0.95, 0.2), (0.95, 0.4), (-0.95, 0.4)),
        _disc(-0.5, 0.42, 0.24, tone="dark"),
        _disc(0.5, 0.42, 0.24, tone="dark"),
        _disc(-0.5, 0.42, 0.09, tone="light"),
        _disc(0.5, 0.42, 0.09, tone="light"),
    ],
    "truck": lambda: [
        _box(-0.95, -0.6, 0.25, 0.4),
        _area((0.3, -0.25), (0.68, -0.25), (0.95, 0.1), (0.95, 0.4), (0.3, 0.4), tone="accent"),
        _area((0.42, -0.13), (0.64, -0.13), (0.8, 0.1), (0.42, 0.1), tone="light"),
        _disc(-0.55, 0.44, 0.22, tone="dark"),
        _disc(0.55, 0.44, 0.22, tone="dark"),
    ],
    "boat": lambda: [
        _line((0, 0.3), (0, -0.95), tone="dark", width=0.09),
        _area((0.1, -0.9), (0.75, 0.15), (0.1, 0.15), tone="accent"),
        _area((-0.1, -0.7), (-0.1, 0.15), (-0.6, 0.15), tone="light"),
        _area((-0.92, 0.3), (0.92, 0.3), (0.58, 0.8), (-0.58, 0.8)),
    ],
    "airplane": lambda: [
        _area((-0.08, 0), (0.15, 0), (-0.25, 0.85), (-0.45, 0.85), tone="accent"),
        _area((-0.08, 0), (0.15, 0), (-0.15, -0.7), (-0.35, -0.7), tone="accent"),
        _area((-0.9, -0.5), (-0.68, -0.5), (-0.5, 0), (-0.8, 0), tone="accent"),
        _disc(0, 0, 0.95, 0.2),
        _disc(0.68, -0.04, 0.12, 0.07, tone="light"),
    ],
    "rocket": lambda: [
        _area((-0.22, 0.55), (0.22, 0.55), (0, 1.0), tone="light"),
        _area((-0.3, 0.05), (-0.68, 0.7), (-0.25, 0.55), tone="accent"),
        _area((0.3, 0.05), (0.68, 0.7), (0.25, 0.55), tone="accent"),
        _blob(
            (0, -1.0), (0.28, -0.55), (0.34, 0.1), (0.26, 0.58), (-0.26, 0.58), (-0.34, 0.1), (-0.28, -0.55)
        ),
        _disc(0, -0.25, 0.15, tone="light"),
    ],
    "cup": lambda: [
        _arc(0.5, 0.2, 0.35, 0.32, -90, 90, "body", 0.14),
        _area((-0.65, -0.3), (0.55, -0.3), (0.42, 0.8), (-0.52, 0.8)),
        _disc(-0.05, -0.3, 0.6, 0.13, tone="dark"),
        _line((-0.25, -0.55), (-0.17, -0.7), (-0.27, -0.82), (-0.2, -0.97), tone="light", width=0.09),
        _line((0.13, -0.55), (0.21, -0.7), (0.11, -0.82), (0.18, -0.97), tone="light", width=0.09),
    ],
    "umbrella": lambda: [
        _line((0, -0.8), (0, 0.7), tone="dark", width=0.1),
        _arc(0.17, 0.7, 0.17, 0.2, 0, 180),
        _sector(0, 0.1, 0.95, 0.85, 180, 360),
        _sector(-0.63, 0.12, 0.3, 0.16, 180, 360, "light"),
        _sector(0.0, 0.12, 0.3, 0.16, 180, 360, "light"),
        _sector(0.63, 0.12, 0.3, 0.16, 180, 360, "light"),
    ],
    "flower": lambda: [
        _line((0, 0.1), (0.02, 0.97), tone="dark", width=0.1),
        _disc(0.28, 0.68, 0.27, 0.12, "accent", -30),
        *(_disc(0.4 * math.cos(a), -0.3 + 0.4 * math.sin(a), 0.26) for a in np.arange(6) * math.pi / 3),
        _disc(0, -0.3, 0.24, tone="accent"),
    ],
    "mushroom": lambda: [
        _blob(
            (-0.25, -0.1), (0.25, -0.1), (0.22, 0.4), (0.35, 0.85), (-0.35, 0.85), (-0.22, 0.4), tone="light"
        ),
        _sector(0, 0.05, 0.9, 0.9, 180, 360),
        _disc(-0.45, -0.25, 0.15, tone="light"),
        _disc(0.05, -0.52, 0.17, tone="light"),
        _disc(0.48, -0.22, 0.14, tone="light"),
    ],
    "key": lambda: [
        _arc(-0.52, 0, 0.34, 0.34, 0, 360, "body", 0.17),
        _line((-0.18, 0), (0.92, 0), tone="body", width=0.17),
        _line((0.82, 0), (0.82, 0.4), tone="body", width=0.17),
        _line((0.5, 0), (0.5, 0.32), tone="body", width=0.17),
    ],
    "balloon": lambda: [
        _line((0, 0.4), (0.1, 0.6), (-0.08, 0.8), (0.03, 1.0), tone="dark", width=0.06),
        _disc(0, -0.28, 0.58, 0.7),
        _area((0, 0.36), (0.13, 0.54), (-0.13, 0.54)),
        _disc(-0.22, -0.52, 0.12, 0.2, "light", 25),
    ],
    "bell": lambda: [
        _disc(0, 0.72, 0.17, tone="dark"),
        _blob((0, -0.85), (0.38, -0.6), (0.5, 0.1), (0.82, 0.62), (-0.82, 0.62), (-0.5, 0.1), (-0.38, -0.6)),
        _line((-0.72, 0.5), (0.72, 0.5), tone="accent", width=0.12),
    ],
    "clock": lambda: [
        _disc(0, 0, 0.88),
        _disc(0, 0, 0.68, tone="light"),
        *_spokes(0, 0, 0.5, 0.6, 4, "dark", 0.09),
        _line((0, 0), (0, -0.48), width=0.1),
        _line((0, 0), (0.34, 0.14), width=0.1),
    ],
    "glasses": lambda: [
        _disc(-0.47, 0, 0.36, tone="light"),
        _disc(0.47, 0, 0.36, tone="light"),
        _arc(-0.47, 0, 0.38, 0.36, 0, 360, "body", 0.15),
        _arc(0.47, 0, 0.38, 0.36, 0, 360, "body", 0.15),
        _arc(0, 0, 0.15, 0.12, 180, 360, "body", 0.13),
        _line((-0.85, -0.1), (-0.98, -0.3), tone="body", width=0.13),
        _line((0.85, -0.1), (0.98, -0.3), tone="body", width=0.13),
    ],
    "crown": lambda: [
        _area((-0.85, 0.6), (-0.9, -0.5), (-0.42, 0.05), (0, -0.75), (0.42, 0.05), (0.9, -0.5), (0.85, 0.6)),
        _box(-0.85, 0.42, 0.85, 0.65, "accent"),
        _disc(0, -0.75, 0.12, tone="light"),
        _disc(-0.88, -0.5, 0.11, tone="light"),
        _disc(0.88, -0.5, 0.11, tone="light"),
    ],
    "hat": lambda: [
        _disc(0, 0.5, 0.95, 0.2),
        _area((-0.5, 0.5), (-0.45, -0.7), (0.45, -0.7), (0.5, 0.5)),
        _area((-0.5, 0.42), (-0.48, 0.1), (0.48, 0.1), (0.5, 0.42), tone="accent"),
    ],
    "apple": lambda: [
        _blob(
            (0, -0.4),
            (0.5, -0.55),
            (0.8, -0.05),
            (0.5, 0.75),
            (0, 0.72),
            (-0.5, 0.75),
            (-0.8, -0.05),
            (-0.5, -0.55),
        ),
        _line((0, -0.42), (0.08, -0.85), width=0.1),
        _disc(0.32, -0.75, 0.25, 0.12, "accent", -25),
    ],
    "cactus": lambda: [
        _line((-0.7, -0.35), (-0.7, 0.1), (0, 0.2), tone="body", width=0.27),
        _line((0.7, -0.55), (0.7, -0.1), (0, 0), tone="body", width=0.27),
        _line((0, -0.75), (0, 0.6), tone="body", width=0.38),
        _area((-0.5, 0.55), (0.5, 0.55), (0.36, 0.98), (-0.36, 0.98), tone="accent"),
    ],
    "gift": lambda: [
        _box(-0.75, -0.15, 0.75, 0.88),
        _box(-0.85, -0.35, 0.85, -0.1),
        _box(-0.13, -0.35, 0.13, 0.88, "accent"),
        _disc(-0.27, -0.55, 0.28, 0.17, "accent", 25),
        _disc(0.27, -0.55, 0.28, 0.17, "accent", -25),
    ],
    "cone": lambda: [
        _area((-0.42, 0), (0.42, 0), (0, 0.98), tone="accent"),
        _disc(-0.24, -0.18, 0.32),
        _disc(0.24, -0.18, 0.32),
        _disc(0, -0.58, 0.32, tone="light"),
    ],
    "lamp": lambda: [
        _line((0, 0), (0, 0.75), width=0.1),
        _disc(0, 0.82, 0.42, 0.1, "dark"),
        _area((-0.32, -0.8), (0.32, -0.8), (0.72, 0.1), (-0.72, 0.1)),
    ],
    "envelope": lambda: [
        _box(-0.9, -0.58, 0.9, 0.62),
        _line((-0.9, -0.58), (0, 0.12), (0.9, -0.58), width=0.09),
    ],
    "guitar": lambda: [
        _disc(-0.45, 0.45, 0.5, 0.42, "body", -45),
        _disc(-0.1, 0.1, 0.34, 0.3, "body", -45),
        _disc(-0.28, 0.28, 0.15, tone="dark"),
        _line((-0.2, 0.2), (0.75, -0.75), tone="accent", width=0.14),
        _line((0.68, -0.68), (0.9, -0.9), tone="dark", width=0.26),
    ],
}


# --------------------------------------------------------------------------------------------------------- animals


def _eye(x: float, y: float, size: float = 0.09) -> list[Stroke]:
    return [_disc(x, y, size * 1.5, tone="light"), _disc(x, y, size, tone="dark")]


ANIMALS: dict[str, Callable[[], list[Stroke]]] = {
    "fish": lambda: [
        _area((-0.45, 0), (-0.98, -0.5), (-0.85, 0), (-0.98, 0.5), tone="accent"),
        _area((-0.1, -0.4), (0.3, -0.8), (0.35, -0.35), tone="accent"),
        _disc(0.15, 0, 0.75, 0.46),
        *_eye(0.55, -0.1),
        _arc(0.2, 0, 0.12, 0.28, -80, 80, "accent", 0.08),
    ],
    "whale": lambda: [
        _area((-0.6, 0.1), (-0.98, -0.5), (-0.72, -0.42), (-0.5, -0.6), (-0.42, 0.0), tone="body"),
        _blob((0.2, -0.35), (0.75, -0.2), (0.95, 0.25), (0.6, 0.6), (-0.2, 0.6), (-0.75, 0.15), (-0.3, 0)),
        _sector(0.3, 0.35, 0.55, 0.24, 0, 180, "light"),
        *_eye(0.62, 0.12, 0.06),
        _line((0.3, -0.38), (0.3, -0.75), (0.1, -0.9), tone="accent", width=0.1),
        _line((0.3, -0.75), (0.5, -0.9), tone="accent", width=0.1),
    ],
    "cat": lambda: [
        _area((-0.72, -0.1), (-0.68, -0.92), (-0.15, -0.5)),
        _area((0.72, -0.1), (0.68, -0.92), (0.15, -0.5)),
        _disc(0, 0.1, 0.78, 0.68),
        *_eye(-0.3, 0),
        *_eye(0.3, 0),
        _area((-0.11, 0.2), (0.11, 0.2), (0, 0.33), tone="accent"),
        *(_line((0.25 * s, 0.3), (0.95 * s, y), width=0.05) for s in (-1, 1) for y in (0.2, 0.42)),
        _arc(-0.12, 0.36, 0.12, 0.12, 0, 180, width=0.06),
        _arc(0.12, 0.36, 0.12, 0.12, 0, 180, width=0.06),
    ],
    "dog": lambda: [
        _disc(0, 0, 0.62, 0.68),
        _disc(-0.68, 0.0, 0.22, 0.56, "accent", 12),
        _disc(0.68, 0.0, 0.22, 0.56, "accent", -12),
        _disc(0, 0.34, 0.36, 0.3, "light"),
        _disc(0, 0.18, 0.15, 0.11, "dark"),
        *_eye(-0.27, -0.2, 0.08),
        *_eye(0.27, -0.2, 0.08),
        _disc(0.02, 0.62, 0.13, 0.17, "accent"),
    ],
    "rabbit": lambda: [
        _disc(-0.28, -0.52, 0.17, 0.46, "body", -8),
        _disc(0.28, -0.52, 0.17, 0.46, "body", 8),
        _disc(-0.28, -0.5, 0.08, 0.32, "accent", -8),
        _disc(0.28, -0.5, 0.08, 0.32, "accent", 8),
        _disc(0, 0.38, 0.58, 0.52),
        *_eye(-0.23, 0.28, 0.07),
        *_eye(0.23, 0.28, 0.07),
        _disc(0, 0.48, 0.09, 0.06, "accent"),
        _box(-0.08, 0.6, 0.08, 0.78, "light"),
    ],
    "bird": lambda: [
        _area((-0.45, 0.1), (-0.98, -0.15), (-0.9, 0.3), tone="accent"),
        _disc(0, 0.15, 0.6, 0.45),
        _disc(0.48, -0.3, 0.32),
        _area((0.74, -0.42), (0.99, -0.26), (0.74, -0.14), tone="accent"),
        _disc(-0.1, 0.12, 0.36, 0.22, "accent", 15),
        *_eye(0.54, -0.36, 0.06),
        _line((-0.1, 0.58), (-0.1, 0.9), width=0.07),
        _line((0.16, 0.58), (0.16, 0.9), width=0.07),
    ],
    "owl": lambda: [
        _area((-0.6, -0.4), (-0.62, -0.95), (-0.1, -0.62)),
        _area((0.6, -0.4), (0.62, -0.95), (0.1, -0.62)),
        _disc(0, 0.1, 0.64, 0.84),
        _disc(0, 0.42, 0.4, 0.44, "light"),
        *_eye(-0.28, -0.3, 0.16),
        *_eye(0.28, -0.3, 0.16),
        _area((-0.11, -0.12), (0.11, -0.12), (0, 0.12), tone="accent"),
    ],
    "penguin": lambda: [
        _disc(-0.56, 0.2, 0.14, 0.42, "dark", 18),
        _disc(0.56, 0.2, 0.14, 0.42, "dark", -18),
        _disc(0, 0.05, 0.56, 0.88, "dark"),
        _disc(0, 0.3, 0.38, 0.58, "light"),
        _disc(-0.18, -0.38, 0.15, 0.17, "light"),
        _disc(0.18, -0.38, 0.15, 0.17, "light"),
        _disc(-0.15, -0.38, 0.06, tone="dark"),
        _disc(0.15, -0.38, 0.06, tone="dark"),
        _area((-0.15, -0.23), (0.15, -0.23), (0, 0), tone="accent"),
        _disc(-0.26, 0.9, 0.22, 0.09, "accent"),
        _disc(0.26, 0.9, 0.22, 0.09, "accent"),
    ],
    "butterfly": lambda: [
        _disc(-0.48, -0.35, 0.5, 0.38, "body", 40),
        _disc(0.48, -0.35, 0.5, 0.38, "body", -40),
        _disc(-0.4, 0.42, 0.38, 0.3, "accent", -40),
        _disc(0.4, 0.42, 0.38, 0.3, "accent", 40),
        _disc(-0.52, -0.4, 0.17, tone="light"),
        _disc(0.52, -0.4, 0.17, tone="light"),
        _disc(0, 0.02, 0.1, 0.62, "dark"),
        _line((0, -0.5), (-0.22, -0.95), width=0.06),
        _line((0, -0.5), (0.22, -0.95), width=0.06),
    ],
    "turtle": lambda: [
        _disc(-0.5, 0.55, 0.17, 0.22, "accent"),
        _disc(0.3, 0.55, 0.17, 0.22, "accent"),
        _disc(0.78, 0.08, 0.22, 0.2, "accent"),
        _area((-0.7, 0.35), (-0.99, 0.5), (-0.6, 0.5), tone="accent"),
        _sector(-0.1, 0.45, 0.76, 0.95, 180, 360),
        _line((-0.38, 0.42), (-0.28, -0.15), (0.1, -0.15), (0.2, 0.42), width=0.07),
        _line((-0.86, 0.42), (0.66, 0.42), tone="accent", width=0.12),
        _disc(0.84, 0.04, 0.06, tone="dark"),
    ],
    "snail": lambda: [
        _blob(
            (-0.95, 0.8), (-0.3, 0.5), (0.5, 0.5), (0.55, -0.1), (0.85, -0.1), (0.95, 0.6), (0.6, 0.82), tone="accent"
        ),
        _line((0.62, -0.05), (0.5, -0.5), tone="accent", width=0.08),
        _line((0.78, -0.05), (0.86, -0.5), tone="accent", width=0.08),
        _disc(-0.15, 0.1, 0.58),
        Stroke(_spiral().points * 0.5 + (-0.15, 0.1), "dark", 0.09),
    ],
    "crab": lambda: [
        *(_line((0.5 * s, 0.3), (0.78 * s, y), (0.95 * s, y + 0.25), tone="body", width=0.1)
          for s in (-1, 1) for y in (0.2, 0.5)),
        *(_line((0.45 * s, 0), (0.78 * s, -0.3), tone="body", width=0.12) for s in (-1, 1)),
        _sector(-0.75, -0.5, 0.26, 0.26, -60, 220, "accent"),
        _sector(0.75, -0.5, 0.26, 0.26, -40, 240, "accent"),
        _line((-0.2, 0), (-0.22, -0.38), tone="body", width=0.08),
        _line((0.2, 0), (0.22, -0.38), tone="body", width=0.08),
        _disc(0, 0.25, 0.62, 0.42),
        *_eye(-0.22, -0.4, 0.07),
        *_eye(0.22, -0.4, 0.07),
        _arc(0, 0.25, 0.26, 0.2, 20, 160, width=0.07),
    ],
    "frog": lambda: [
        _disc(-0.6, 0.6, 0.34, 0.24, "accent"),
        _disc(0.6, 0.6, 0.34, 0.24, "accent"),
        _disc(-0.38, -0.48, 0.26),
        _disc(0.38, -0.48, 0.26),
        _disc(0, 0.12, 0.74, 0.6),
        *_eye(-0.38, -0.5, 0.11),
        *_eye(0.38, -0.5, 0.11),
        _arc(0, 0.08, 0.45, 0.28, 10, 170, width=0.08),
    ],
    "bee": lambda: [
        _disc(-0.2, -0.5, 0.24, 0.4, "light", -20),
        _disc(0.2, -0.5, 0.24, 0.4, "light", 20),
        _disc(0, 0.15, 0.72, 0.46),
        _line((-0.25, -0.26), (-0.25, 0.56), width=0.17),
        _line((0.12, -0.3), (0.12, 0.6), width=0.17),
        _disc(0.52, 0.02, 0.08, tone="dark"),
        _area((-0.7, 0.05), (-0.98, 0.15), (-0.7, 0.27), tone="dark"),
    ],
    "snake": lambda: [
        _ripple(-0.9, 0.7, 0.15, 0.42, 9, width=0.25),
        _disc(0.76, 0.25, 0.22, 0.17),
        _disc(0.8, 0.2, 0.06, tone="dark"),
        _line((0.94, 0.3), (1.0, 0.42), tone="accent", width=0.05),
    ],
    "spider": lambda: [
        *(_line((0.2 * s, 0.05), (0.6 * s, y - 0.22), (0.9 * s, y + 0.22), width=0.07)
          for s in (-1, 1) for y in (-0.5, -0.12, 0.26, 0.6)),
        _disc(0, 0.22, 0.44, 0.5),
        _disc(0, -0.36, 0.28),
        *_eye(-0.11, -0.4, 0.05),
        *_eye(0.11, -0.4, 0.05),
    ],
}  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- faces

_ROUND_EYES = [_disc(-0.32, -0.22, 0.12, 0.15, "dark"), _disc(0.32, -0.22, 0.12, 0.15, "dark")]
_SMILE = _sector(0, 0.15, 0.5, 0.48, 0, 180, "dark")


def _lids(slope: float, y: float = -0.2) -> list[Stroke]:
    """Two eyes drawn as lines; a positive slope lowers their inner ends."""
    return [
        _line((-0.5, y - slope), (-0.16, y + slope), width=0.13),
        _line((0.5, y - slope), (0.16, y + slope), width=0.13),
    ]


# The features of a face, without the head: a style may draw them on something that is not a head.
FACES: dict[str, Callable[[], list[Stroke]]] = {
    "happy": lambda: [*_ROUND_EYES, _SMILE],
    "sad": lambda: [*_lids(-0.1, -0.42), *_ROUND_EYES, _arc(0, 0.68, 0.38, 0.32, 200, 340, width=0.14)],
    "angry": lambda: [*_lids(0.13, -0.45), *_ROUND_EYES, _line((-0.4, 0.42), (0.4, 0.42), width=0.15)],
    "surprised": lambda: [
        _disc(-0.34, -0.25, 0.2, 0.24, "dark"),
        _disc(0.34, -0.25, 0.2, 0.24, "dark"),
        _disc(0, 0.42, 0.22, 0.27, "dark"),
    ],
    "sleepy": lambda: [
        _arc(-0.34, -0.22, 0.2, 0.14, 0, 180, width=0.11),
        _arc(0.34, -0.22, 0.2, 0.14, 0, 180, width=0.11),
        _disc(0.02, 0.4, 0.13, 0.1, "dark"),
    ],
    "winking": lambda: [
        _ROUND_EYES[0],
        _line((0.14, -0.2), (0.52, -0.2), width=0.12),
        _arc(0, 0.1, 0.46, 0.42, 15, 165, width=0.14),
    ],
    "loving": lambda: [
        *(Stroke(_heart().points * 0.27 + (x, -0.24), "accent") for x in (-0.36, 0.36)),
        _arc(0, 0.12, 0.44, 0.4, 15, 165, width=0.14),
    ],
    "silly": lambda: [
        *_ROUND_EYES,
        _line((-0.42, 0.25), (0.42, 0.25), width=0.13),
        _sector(0.14, 0.27, 0.2, 0.42, 0, 180, "accent"),
    ],
    "scared": lambda: [
        _disc(-0.32, -0.25, 0.17, tone="dark"),
        _disc(0.32, -0.25, 0.17, tone="dark"),
        _line((-0.46, 0.4), (-0.23, 0.28), (0, 0.5), (0.23, 0.28), (0.46, 0.4), width=0.12),
    ],
    "cool": lambda: [
        _sector(-0.32, -0.3, 0.29, 0.32, 0, 180, "dark"),
        _sector(0.32, -0.3, 0.29, 0.32, 0, 180, "dark"),
        _line((-0.7, -0.3), (0.7, -0.3), width=0.1),
        _arc(0.06, 0.2, 0.34, 0.26, 10, 140, width=0.13),
    ],
}


def _face(features: Callable[[], list[Stroke]]) -> Callable[[], list[Stroke]]:
    return lambda: [_disc(0, 0, 0.92), *features()]


# --------------------------------------------------------------------------------------------------------- weather


def _cloud(x: float, y: float, size: float, tone: Tone = "body") -> list[Stroke]:
    lobes = ((-0.45, 0.1, 0.32), (-0.1, -0.15, 0.42), (0.35, 0.0, 0.36), (0.6, 0.16, 0.25))
    base = _box(x - 0.45 * size, y, x + 0.6 * size, y + 0.42 * size, tone)
    return [*(_disc(x + a * size, y + b * size, r * size, tone=tone) for a, b, r in lobes), base]


WEATHER: dict[str, Callable[[], list[Stroke]]] = {
    "sun": lambda: [*_spokes(0, 0, 0.6, 0.95, 10, "body", 0.12), _disc(0, 0, 0.5)],
    "cloud": lambda: _cloud(-0.05, 0, 1.2),
    "rain": lambda: [
        *_cloud(-0.05, -0.35, 1.0),
        *(_line((x, y), (x - 0.12, y + 0.3), tone="accent", width=0.1)
          for x, y in ((-0.5, 0.25), (-0.1, 0.25), (0.35, 0.25), (-0.25, 0.65), (0.2, 0.65))),
    ],
    "snow": lambda: [
        *_cloud(-0.05, -0.35, 1.0),
        *_spokes(-0.5, 0.4, 0, 0.2, 6, "light", 0.06),
        *_spokes(0.0, 0.55, 0, 0.2, 6, "light", 0.06),
        *_spokes(0.5, 0.4, 0, 0.2, 6, "light", 0.06),
    ],
    "lightning": lambda: [
        *_cloud(-0.05, -0.4, 1.0, "dark"),
        _area((0.15, -0.05), (-0.3, 0.5), (0.0, 0.5), (-0.15, 0.98), (0.4, 0.32), (0.08, 0.32), (0.35, -0.05)),
    ],
    "rainbow": lambda: [
        _arc(0, 0.6, 0.88, 1.1, 180, 360, "body", 0.19),
        _arc(0, 0.6, 0.68, 0.88, 180, 360, "accent", 0.19),
        _arc(0, 0.6, 0.48, 0.66, 180, 360, "light", 0.19),
    ],
}  # fmt: skip


# -------------------------------------------------------------------------------------------------------- patterns


def _steps(count: int) -> Iterable[float]:
    return (-1 + (2 * i + 1) / count for i in range(count))


PATTERNS: dict[str, Callable[[], list[Stroke]]] = {
    "stripes": lambda: [_line((-1, y), (1, y), tone="body", width=0.2) for y in _steps(5)],
    "dots": lambda: [_disc(x, y, 0.17) for x in _steps(4) for y in _steps(4)],
    "grid": lambda: [
        *(_line((-1, y), (1, y), tone="body", width=0.1) for y in _steps(4)),
        *(_line((x, -1), (x, 1), tone="body", width=0.1) for x in _steps(4)),
    ],
    "checkers": lambda: [
        _box(x - 0.25, y - 0.25, x + 0.25, y + 0.25)
        for i, x in enumerate(_steps(4)) for j, y in enumerate(_steps(4)) if (i + j) % 2
    ],
    "zigzags": lambda: [
        _line(*((-1 + i / 3, y + 0.2 * (i % 2)) for i in range(7)), tone="body", width=0.13) for y in _steps(4)
    ],
    "waves": lambda: [
        _ripple(-1, 1, y, 0.13, 12, width=0.13) for y in _steps(4)
    ],
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- digits


def _digit(*lines: Stroke) -> list[Stroke]:
    return [Stroke(line.points, "body", 0.26) for line in lines]


DIGITS: dict[str, Callable[[], list[Stroke]]] = {
    "zero": lambda: _digit(_arc(0, 0, 0.5, 0.8, 0, 360)),
    "one": lambda: _digit(_line((-0.35, -0.5), (0.05, -0.82), (0.05, 0.82))),
    "two": lambda: _digit(
        _arc(0, -0.35, 0.46, 0.45, 190, 385), _line((0.41, -0.16), (-0.5, 0.8), (0.55, 0.8))
    ),
    "three": lambda: _digit(_arc(-0.05, -0.4, 0.44, 0.4, 200, 450), _arc(-0.05, 0.4, 0.52, 0.42, 270, 510)),
    "four": lambda: _digit(_line((0.25, 0.85), (0.25, -0.85), (-0.6, 0.3), (0.65, 0.3))),
    "five": lambda: _digit(
        _line((0.5, -0.8), (-0.36, -0.8), (-0.42, -0.12)), _arc(-0.05, 0.28, 0.55, 0.52, 225, 510)
    ),
    "six": lambda: _digit(_arc(0, 0.35, 0.48, 0.46, 0, 360), _arc(0.35, 0.3, 0.84, 1.15, 178, 262)),
    "seven": lambda: _digit(_line((-0.52, -0.8), (0.52, -0.8), (-0.12, 0.85))),
    "eight": lambda: _digit(_arc(0, -0.42, 0.38, 0.4, 0, 360), _arc(0, 0.4, 0.5, 0.44, 0, 360)),
    "nine": lambda: _digit(
        _arc(0, -0.35, 0.48, 0.46, 0, 360), _line((0.48, -0.35), (0.42, 0.2), (0.15, 0.85))
    ),
}

FAMILIES: dict[str, dict[str, Callable[[], list[Stroke]]]] = {
    "shape": SHAPES,
    "object": OBJECTS,
    "animal": ANIMALS,
    "face": {name: _face(features) for name, features in FACES.items()},
    "weather": WEATHER,
    "pattern": PATTERNS,
    "digit": DIGITS,
}
