"""Module names laid out as a grid: kind of module by layer."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_MAX_GAPS = 20
"""Places of a grid for each module; one tower of a transformer fills every place."""


@dataclass(frozen=True)
class ModuleGrid:
    """`cells[kind, layer]` is a module's full name; layer None holds what lies in no numbered layer.

    `towers` has the word for the tower that each kind is in; it may be empty.
    """

    kinds: tuple[str, ...]
    layers: tuple[int | None, ...]
    cells: dict[tuple[str, int | None], str]
    towers: dict[str, str]


def arrange(names: Iterable[str]) -> ModuleGrid:
    """Rows in order of first appearance, such as `vision q_proj` or `text fc2`; columns by layer number.

    The first number in a name is its layer, what stands before it the tower, what stands after it the kind. A
    kind is cut to its last parts as far as it stays unique in its tower: `q_proj`, but `intermediate.dense`. What
    lies in no layer keeps its whole name.
    """
    split = {name: _split(name) for name in names}
    kinds_of: dict[str, set[str]] = {}
    for tower, layer, kind in split.values():
        if layer is not None:
            kinds_of.setdefault(tower, set()).add(kind)
    words = _tower_words(list(kinds_of))
    short = {tower: _shortest_unique(of_tower) for tower, of_tower in kinds_of.items()}
    cells: dict[tuple[str, int | None], str] = {}
    tower_of: dict[str, str] = {}
    for name, (tower, layer, kind) in split.items():
        row = name if layer is None else f"{words[tower]} {short[tower][kind]}".strip()
        cells[row, layer] = name
        tower_of[row] = "" if layer is None else words[tower]
    kinds = tuple(dict.fromkeys(kind for kind, _ in cells))
    layers = tuple(sorted({layer for _, layer in cells}, key=lambda layer: (layer is None, layer or 0)))
    # Names of no transformer may clash, or leave a grid of almost nothing but gaps.
    if len(cells) < len(split) or len(kinds) * len(layers) > _MAX_GAPS * len(cells):
        return ModuleGrid(
            tuple(split), (None,), {(name, None): name for name in split}, dict.fromkeys(split, "")
        )
    return ModuleGrid(kinds, layers, cells, tower_of)


def _split(name: str) -> tuple[str, int | None, str]:
    parts = name.split(".")
    for position, part in enumerate(parts):
        if re.fullmatch(r"0|[1-9]\d*", part, re.ASCII):
            return ".".join(parts[:position]), int(part), ".".join(parts[position + 1 :])
    return "", None, name


def _tower_words(towers: list[str]) -> dict[str, str]:
    """`vision` and `text` where unmistakable, else the whole prefix; nothing for one nameless tower."""
    if len(towers) == 1:
        return {towers[0]: next((word for word in ("vision", "text") if word in towers[0]), "")}
    words = {tower: next((word for word in ("vision", "text") if word in tower), tower) for tower in towers}
    if len(set(words.values())) < len(towers):
        return {tower: tower for tower in towers}
    return words


def _shortest_unique(kinds: set[str]) -> dict[str, str]:
    times = Counter(tail for kind in kinds for tail in _tails(kind))
    return {kind: next((tail for tail in _tails(kind) if times[tail] == 1), kind) for kind in kinds}


def _tails(kind: str) -> list[str]:
    """The ends of a dotted name, shortest first."""
    parts = kind.split(".")
    return [".".join(parts[-length:]) for length in range(1, len(parts) + 1)]
