"""The picture of an ablation: for every unit that was taken out, bars to the left (lost) or right (gained) of zero."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from codyra.analysis.svg import INK, SERIES, SOFT, Frame, elided, line, number, picture, text
from codyra.errors import visible
from codyra.report.charts import nice_ticks
from codyra.report.markup import Markup, join, tag
from codyra.report.numbers import signed

_WIDTH, _RIGHT = 800, 750
_LETTER = 7.2
_BAR, _GAP = 11, 8


@dataclass(frozen=True)
class Bars:
    """One unit and its change in every series, points."""

    group: str
    name: str
    changes: Sequence[float]


def bar_chart(units: Sequence[Bars], series: Sequence[str], *, title: str, axis: str) -> str:
    """The SVG file; units of one group stand together.

    Args:
        series: what the changes are of, in their order; at most as many as there are colours.
        axis: what the bars show, with its unit.
    """
    values = [0.0, *(change for unit in units for change in unit.changes)]
    top = 44 + 20 * len(series)
    row = _BAR * len(series) + _GAP
    groups = [later.group != earlier.group for earlier, later in pairwise(units)]
    bottom = top + row * len(units) + _GAP * (2 * sum(groups) + 1)
    left = 60 + _LETTER * max((len(elided(unit.name)) for unit in units), default=0)
    frame = Frame(left, top, _RIGHT, bottom, nice_ticks(min(values), max(values), 6), ())
    parts = [text(title, 16, 22, fill=INK, size=16, bold=True), _key(series), frame.axes(axis)]
    y = float(top + _GAP)
    for unit, starts_group in zip(units, [False, *groups], strict=True):
        y += 2 * _GAP if starts_group else 0
        parts.append(text(elided(unit.name), left - 10, y + _BAR * len(series) / 2, anchor="end", fill=INK))
        for style, change in enumerate(unit.changes):
            parts.append(_bar(frame, style, change, y + style * _BAR, f"{unit.name}, {series[style]}"))
        y += row
    zero = frame.x(0.0)
    parts.append(line(zero, top, zero, bottom, stroke=SOFT))
    described = "; ".join(
        f"without {unit.name}: {', '.join(signed(change) for change in unit.changes)}" for unit in units
    )
    return picture(_WIDTH, bottom + 56, *parts, title=title, description=f"{', '.join(series)}. {described}")


def _bar(frame: Frame, style: int, change: float, y: float, tip: str) -> Markup:
    start, end = frame.x(0.0), frame.x(change)
    bar = tag(
        "rect",
        tag("title", visible(f"{tip}: {signed(change)}")),
        x=number(min(start, end)),
        y=number(y),
        width=number(max(abs(end - start), 0.5)),
        height=_BAR - 1.5,
        fill=SERIES[style],
    )
    beyond, anchor = (end - 4, "end") if change < 0 else (end + 4, "start")
    return join([bar, text(signed(change), beyond, y + _BAR / 2 - 0.5, anchor=anchor, size=10)])


def _key(series: Sequence[str]) -> Markup:
    parts = []
    for style, name in enumerate(series):
        y = 46 + 20 * style
        parts += [tag("rect", x=16, y=y - 5, width=18, height=10, fill=SERIES[style]), text(name, 42, y)]
    return join(parts)
