"""Rows that others published for X-TAIL and MTIL, kept in published.json as they were printed."""

from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path

from codyra.engine.folder_reader import BenchmarkInfo, Score
from codyra.reading import checked, parse_json

MODEL = "CLIP ViT-B/16"
"""All published rows are of this model; a run of another one carries a mark."""


@dataclass(frozen=True)
class Doubt:
    """What a reader must know about a row, about one metric of it, or about some of its cells (one may be "mean")."""

    text: str
    metric: str | None = None
    data_sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedRow:
    """One method: means and other figures by metric, and scores per data set where these are published too."""

    method: str
    figures: dict[str, float]
    per_data_set: dict[str, tuple[Score, ...]] = field(default_factory=dict)
    zero_shot: bool = False
    notes: tuple[Doubt, ...] = ()

    def about(self, metric: str | None = None, data_set: str | None = None) -> tuple[str, ...]:
        """Notes on one cell, or on the row as far as it shows `metric` where `data_set` is None."""
        return tuple(
            note.text
            for note in self.notes
            if note.metric in (None, metric)
            and (data_set in note.data_sets if data_set is not None else not note.data_sets)
        )


@dataclass(frozen=True)
class PublishedTable:
    """All rows for one protocol; `zero_shot_prompts` are those that the zero-shot row was made with."""

    benchmark: str
    order: int
    shots: int | None
    source: str
    zero_shot_prompts: str
    data_sets: tuple[str, ...]
    rows: tuple[PublishedRow, ...]


@cache
def _all_tables() -> tuple[PublishedTable, ...]:
    file = resources.files("codyra.report").joinpath("published.json")
    content = parse_json(file.read_text("utf-8"), Path("published.json"))
    return checked(tuple[PublishedTable, ...], content["tables"], Path("published.json"))


def published_tables(benchmark: str) -> list[PublishedTable]:
    """Every published table of a benchmark, "xtail" or "mtil"."""
    return [table for table in _all_tables() if table.benchmark == benchmark]


def published_for(benchmark: BenchmarkInfo) -> PublishedTable | None:
    """The table of the same protocol, order and shots; None where nobody published one.

    Its zero-shot row says so when it was made with other prompts.
    """
    wanted = (benchmark.order, benchmark.shots, len(benchmark.tasks))
    for table in published_tables(benchmark.name):
        if (table.order, table.shots, len(table.data_sets)) == wanted:
            if benchmark.prompts == table.zero_shot_prompts:
                return table
            words = (
                f"published zero-shot: prompts {table.zero_shot_prompts}, the runs here: {benchmark.prompts}"
            )
            rows = [
                replace(row, notes=(*row.notes, Doubt(words))) if row.zero_shot else row for row in table.rows
            ]
            return replace(table, rows=tuple(rows))
    return None
