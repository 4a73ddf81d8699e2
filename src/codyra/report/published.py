"""Rows that others published for X-TAIL, MTIL and TRACE, kept in published.json as they were printed."""

from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path

from codyra.engine.folder_reader import BenchmarkInfo, Score
from codyra.reading import checked, parse_json

MODEL = "CLIP ViT-B/16"
"""Published rows are of this model where their table names none; a run of another one carries a mark."""


@dataclass(frozen=True)
class Doubt:
    """What a reader must know about a row, about one metric of it, or about some of its cells (one may be "mean")."""

    text: str
    metric: str | None = None
    data_sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedRow:
    """One method: means and other figures by metric, and scores per data set where these are published too.

    `deviations` are standard deviations of figures, over runs.
    """

    method: str
    figures: dict[str, float]
    deviations: dict[str, float] = field(default_factory=dict)
    per_data_set: dict[str, tuple[Score, ...]] = field(default_factory=dict)
    zero_shot: bool = False
    notes: tuple[Doubt, ...] = ()

    def figure(self, metric: str) -> tuple[float | None, float | None]:
        """A figure and its standard deviation, None where they are not published."""
        name = "last" if metric == "overall_performance" else metric
        return self.figures.get(name), self.deviations.get(name)

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
    """All rows for one protocol and one model, None for `MODEL`.

    `variant` names a version of the data, `zero_shot_prompts` are those that the zero-shot row was made with, `remark`
    is what a reader must know of all rows.
    """

    benchmark: str
    order: int
    shots: int | None
    source: str
    data_sets: tuple[str, ...]
    rows: tuple[PublishedRow, ...]
    zero_shot_prompts: str | None = None
    variant: int | None = None
    model: str | None = None
    remark: str | None = None


@cache
def _all_tables() -> tuple[PublishedTable, ...]:
    file = resources.files("codyra.report").joinpath("published.json")
    content = parse_json(file.read_text("utf-8"), Path("published.json"))
    return checked(tuple[PublishedTable, ...], content["tables"], Path("published.json"))


def published_tables(benchmark: str) -> list[PublishedTable]:
    """Every published table of a benchmark, "xtail", "mtil" or "trace"."""
    return [table for table in _all_tables() if table.benchmark == benchmark]


def published_for(benchmark: BenchmarkInfo) -> PublishedTable | None:
    """The table of the same protocol, order, shots and data, and of the same model where models have tables of their
    own; None where nobody published one.

    Its zero-shot row says so when it was made with other prompts.
    """
    wanted = (benchmark.order, benchmark.shots, benchmark.variant, len(benchmark.tasks))
    for table in published_tables(benchmark.name):
        if table.model not in (None, benchmark.model):
            continue
        if (table.order, table.shots, table.variant, len(table.data_sets)) == wanted:
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
