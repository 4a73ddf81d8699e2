"""The rank heat map: surviving ranks, kind of module (rows) by layer (columns), one map per task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from codyra.analysis.svg import FIRST_DARK, HEAT, INK, SOFT, elided, number, picture, text
from codyra.report.markup import Markup, join, tag
from codyra.report.numbers import DASH

_CELL_WIDTH, _CELL_HEIGHT = 27, 21
_MARGIN = 20
_LETTER, _BOLD_LETTER = 6.2, 8
_HEAD = 46
_TOP = 76
_MAX_WIDTH = 1000
_LEAST_WIDTH = 480

Place = tuple[str, int | None]


@dataclass(frozen=True)
class RankMap:
    """One task: kind and layer of every module -> (surviving ranks, ranks at the start)."""

    title: str
    cells: Mapping[Place, tuple[int, int]]


def rank_maps(maps: Sequence[RankMap]) -> str:
    """The SVG file; all maps have the rows and columns of all tasks and one colour scale, that of the share kept."""
    places = list(dict.fromkeys(place for one in maps for place in one.cells))
    kinds = list(dict.fromkeys(kind for kind, _ in places))
    layers = sorted({layer for _, layer in places}, key=lambda layer: (layer is None, layer or 0))
    left = 12 + _LETTER * max((len(elided(kind)) for kind in kinds), default=0)
    heading = _BOLD_LETTER * max(len(_heading(one)) for one in maps)
    width = max(left + _CELL_WIDTH * len(layers), heading) + _MARGIN
    height = _HEAD + _CELL_HEIGHT * len(kinds) + _MARGIN
    columns = min(len(maps), max(1, int((_MAX_WIDTH - _MARGIN) / width)))
    rows = -(-len(maps) // columns)
    title = "Surviving ranks, kind of module by layer"
    parts: list[Markup] = [text(title, _MARGIN, 22, fill=INK, size=16, bold=True), _scale()]
    for position, one in enumerate(maps):
        x, y = _MARGIN + position % columns * width, _TOP + position // columns * height
        drawn = _map(one, kinds, layers, left)
        parts.append(tag("g", drawn, transform=f"translate({number(x)} {number(y)})"))
    described = "; ".join(
        f"{one.title}: {sum(kept for kept, _ in one.cells.values())} of "
        f"{sum(full for _, full in one.cells.values())} ranks"
        for one in maps
    )
    whole = max(_LEAST_WIDTH, _MARGIN + columns * width)
    return picture(whole, _TOP + rows * height, *parts, title=title, description=described)


def _heading(one: RankMap) -> str:
    mean = sum(kept for kept, _ in one.cells.values()) / len(one.cells) if one.cells else 0.0
    return f"{elided(one.title)}: mean {mean:.1f}"


def _map(one: RankMap, kinds: Sequence[str], layers: Sequence[int | None], left: float) -> Markup:
    """One map; its cells begin at x = `left`."""
    parts = [
        text(_heading(one), 0, 8, fill=INK, bold=True),
        text("layer", left - 8, 32, anchor="end", size=11),
    ]
    for column, layer in enumerate(layers):
        x = left + (column + 0.5) * _CELL_WIDTH
        parts.append(text(DASH if layer is None else str(layer), x, 32, anchor="middle", size=11))
    for row, kind in enumerate(kinds):
        y = _HEAD + row * _CELL_HEIGHT
        parts.append(text(elided(kind), left - 8, y + _CELL_HEIGHT / 2, anchor="end", size=11))
        for column, layer in enumerate(layers):
            if (kind, layer) in one.cells:
                parts.append(_cell(*one.cells[kind, layer], left + column * _CELL_WIDTH, y))
    return join(parts)


def _cell(kept: int, full: int, x: float, y: float) -> Markup:
    level = round(kept / full * (len(HEAT) - 1))
    ink = "#ffffff" if level >= FIRST_DARK else INK
    box = tag("rect", x=number(x), y=y, width=_CELL_WIDTH - 2, height=_CELL_HEIGHT - 2, fill=HEAT[level])
    middle = (x + _CELL_WIDTH / 2 - 1, y + _CELL_HEIGHT / 2 - 1)
    return join([box, text(str(kept), *middle, anchor="middle", fill=ink, size=11)])


def _scale() -> Markup:
    """The colours from none to all ranks."""
    parts = [text("none", _MARGIN, 50, size=11)]
    for level, colour in enumerate(HEAT):
        parts.append(tag("rect", x=_MARGIN + 34 + 14 * level, y=43, width=14, height=14, fill=colour))
    end = _MARGIN + 34 + 14 * len(HEAT) + 6
    return join([*parts, text("all ranks of the module kept", end, 50, fill=SOFT, size=11)])
