"""The tables of a paper: Transfer, Average and Last per data set, a row per method, published rows beside the run's.

A table holds values; how they are written is in `table_formats` (text, CSV, Markdown, LaTeX) and `beside` (HTML).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from codyra import metrics
from codyra.engine.folder_reader import BenchmarkInfo, RunView, Score
from codyra.report.published import (
    MODEL,
    PublishedRow,
    PublishedTable,
    published_for,
    published_tables,
)
from codyra.report.runs import LabelledRun, comparable_groups, differences, label_runs
from codyra.report.scores import METRIC_NAMES
from codyra.report.scoring import how_scored, irregular_answers
from codyra.report.seeds import Repeats, group_by_seed, how_trained, spread

MAIN = ("transfer", "average", "last")
"""The blocks of every table; the other metrics of `metrics.PER_TASK` are shown when they are asked for."""
_OF_ANSWERS = ("last", "learning_accuracy")
"""The blocks of every stream of answers."""
_PLUS_MINUS = "mean \N{PLUS-MINUS SIGN} sample standard deviation (divisor n - 1)"


@dataclass(frozen=True)
class Column:
    """One column. `data_set` is None for a mean over data sets and for a figure of the whole stream.

    `digits` after the point; None for a count. `signed` is a difference, written with its sign.
    """

    metric: str
    heading: str
    data_set: str | None = None
    digits: int | None = 1
    signed: bool = False


@dataclass(frozen=True)
class Cell:
    """A value, None where there is none; `std` over runs where there were several; `words` in place of a value."""

    value: float | None = None
    std: float | None = None
    notes: tuple[str, ...] = ()
    words: str | None = None


@dataclass(frozen=True)
class Row:
    """One method. `num_runs` is how many runs a measured row is the mean of, None for a published one."""

    label: str
    kind: Literal["measured", "published"]
    cells: tuple[Cell, ...]
    num_runs: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """The kind, and the number of runs where there were several."""
        return f"{self.kind}, n = {self.num_runs}" if (self.num_runs or 1) > 1 else self.kind


@dataclass(frozen=True)
class Block:
    """Rows under the same columns, measured ones first. `of_means`: errors are standard errors, not deviations."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    of_means: bool = False


@dataclass(frozen=True)
class Table:
    """What may stand together. `marks` say why the measured rows are not the benchmark's; `remarks` explain them.

    `source` is where the published rows are from, None when there are none.
    """

    title: str
    marks: tuple[str, ...]
    remarks: tuple[str, ...]
    blocks: tuple[Block, ...]
    source: str | None

    @property
    def notes(self) -> list[str]:
        """Every footnote once, in the order in which a reader meets them."""
        found: list[str] = []
        for row in (row for block in self.blocks for row in block.rows):
            found += [*row.notes, *(note for cell in row.cells for note in cell.notes)]
        return list(dict.fromkeys(found))


def build_tables(views: Sequence[RunView], chosen: Sequence[str] = (), published: bool = True) -> list[Table]:
    """One table for every set of runs that may be compared.

    Args:
        views: the runs, in the order of their rows.
        chosen: names out of `metrics.PER_TASK`, a block for each; by default `MAIN` and a block of further figures.
        published: show published rows where there are some for the benchmark of the runs.
    """
    return [build_table(group, chosen, published) for group in comparable_groups(label_runs(views))]


def build_table(group: Sequence[LabelledRun], chosen: Sequence[str] = (), published: bool = True) -> Table:
    """The table of runs that may be compared; arguments as in `build_tables`."""
    benchmark = group[0].view.manifest.benchmark
    beside, absence = _beside(benchmark, group[0]) if benchmark and published else (None, None)
    # A reference that trains nothing is the zero-shot row, once it has one.
    repeats = group_by_seed([run for run in group if run.learns or run.view.accuracy.zero_shot is None])
    measured = [*_zero_shot(group), *map(_learnt, repeats)]
    of_answers = group[0].view.manifest.of_answers
    shown = chosen or (_blocks_of_answers(measured) if of_answers else MAIN)
    blocks = [_scores(metric, group[0].view.accuracy.tasks, measured, beside) for metric in shown]
    if not chosen:
        blocks.append(_figures(_FIGURES_OF_ANSWERS if of_answers else _FIGURES, measured, beside))
    return Table(
        title=stream_title(group[0]),
        marks=benchmark.marks if benchmark else (),
        remarks=(
            *_remarks(group, repeats),
            *(words for words in (beside and beside.remark, absence) if words),
        ),
        blocks=tuple(blocks),
        source=f"{beside.model or MODEL}; {beside.source}" if beside else None,
    )


# --- what stands above and below ---


def stream_title(run: LabelledRun) -> str:
    """The benchmark with its protocol, or the first and the last task of a stream of one's own."""
    benchmark, tasks = run.view.manifest.benchmark, run.view.accuracy.tasks
    if benchmark:
        prompts = "" if run.view.manifest.of_answers else f", prompts {benchmark.prompts}"
        return f"{benchmark.title}, {_protocol(benchmark)}{prompts}"
    return f"{len(tasks)} tasks, {tasks[0]} to {tasks[-1]}" if len(tasks) > 1 else f"1 task, {tasks[0]}"


def _protocol(protocol: BenchmarkInfo | PublishedTable) -> str:
    if protocol.variant is not None:
        model = f", {protocol.model}" if protocol.model else ""
        return f"order {protocol.order}, variant {protocol.variant}{model}"
    return f"order {protocol.order}, {'all training images' if protocol.shots is None else f'{protocol.shots} shots'}"


def _remarks(group: Sequence[LabelledRun], repeats: Sequence[Repeats]) -> list[str]:
    bases = dict.fromkeys(run.view.manifest.base.name for run in group)
    trained = [f"{row.label}: {described}." for row in repeats if (described := how_trained(row.runs[0]))]
    remarks = [
        how_scored(group[0].view.manifest, group[0].pooled),
        f"Base model: {', '.join(bases)}.",
        *trained,
    ]
    unlike = differences([run for run in group if run.learns])
    if len({tuple(sorted(row.seeds)) for row in repeats}) <= 1:
        unlike = [name for name in unlike if name != "seed"]
    if unlike:
        remarks.append(f"Not the same for all rows: {', '.join(unlike)}.")
    return remarks


def _beside(benchmark: BenchmarkInfo, run: LabelledRun) -> tuple[PublishedTable | None, str | None]:
    """The published rows to show, or why there are none."""
    tasks = run.view.accuracy.tasks
    if tasks != benchmark.tasks:
        shared = sum(task in benchmark.tasks for task in tasks)
        others = f" and {len(tasks) - shared} more" if len(tasks) > shared else ""
        order = ", in another order" if sorted(tasks) == sorted(benchmark.tasks) else ""
        figures = "OP and Fgt" if run.view.manifest.of_answers else "Transfer, Average and Last"
        return None, (
            f"No published rows: this stream has {shared} of the {len(benchmark.tasks)} data sets of "
            f"{benchmark.title}{others}{order}; {figures} are other figures there."
        )
    table = published_for(benchmark)
    if table is None:
        tables = published_tables(benchmark.name)
        known = [_protocol(entry) for entry in tables]
        other_model = benchmark.model is None and any(entry.model for entry in tables)
        return None, (
            f"No published rows for {benchmark.title} with {_protocol(benchmark)}"
            f"{' and this base model' if other_model else ''}; known are: {'; '.join(known) or 'none'}."
        )
    return table, None


# --- measured rows ---


@dataclass(frozen=True)
class _Measured:
    """What a row is made of: an accuracy matrix of each run (none when unfinished) and the other figures of each."""

    label: str
    matrices: Sequence[metrics.Matrix]
    figures: Sequence[Mapping[str, float | None]]
    notes: tuple[str, ...] = ()
    learns: bool = True

    def row(self, values: Sequence[Sequence[float | None]]) -> Row:
        """A row with the mean over runs of each column's values."""
        cells = tuple(Cell(*spread(column)) for column in values)
        return Row(self.label, "measured", cells, len(self.figures), self.notes)


def _zero_shot(group: Sequence[LabelledRun]) -> list[_Measured]:
    """The zero-shot row of every base model; one model scored on two machines can differ in a few examples."""
    scored: dict[tuple[str, str | None], list[tuple[Score, ...]]] = {}
    for run in group:
        base, row = run.view.manifest.base, run.view.accuracy.zero_shot
        if row is not None:
            scored.setdefault((base.name, base.sha256), []).append(row)
    measured = []
    for (name, _), rows in scored.items():
        differ = len(set(rows)) > 1
        kept = rows if differ else rows[:1]
        measured.append(
            _Measured(
                label="zero-shot" if len(scored) == 1 else f"zero-shot, {name}",
                matrices=[[row] * len(row) for row in kept],
                figures=[{"zero_shot": spread(row)[0]} for row in kept],
                notes=(f"{_PLUS_MINUS} over {len(rows)} runs",) if differ else (),
                learns=False,
            )
        )
    return measured


def _learnt(repeats: Repeats) -> _Measured:
    notes = []
    if len(repeats.runs) > 1:
        notes.append(f"{_PLUS_MINUS} over seeds {', '.join(map(str, repeats.seeds))}")
    notes += dict.fromkeys(run.incomplete for run in repeats.runs if run.incomplete)
    irregular: dict[str, list[int]] = {}
    for run, seed in zip(repeats.runs, repeats.seeds, strict=True):
        for words in irregular_answers(run.view):
            irregular.setdefault(words, []).append(seed)
    for words, seeds in irregular.items():
        alike = len(seeds) == len(repeats.runs)
        notes.append(words if alike else f"seed {', '.join(map(str, seeds))}: {words}")
    return _Measured(
        label=repeats.label,
        matrices=[run.view.accuracy.rows for run in repeats.runs if run.view.finished],
        figures=[_run_figures(run) for run in repeats.runs],
        notes=tuple(notes),
    )


def _run_figures(run: LabelledRun) -> dict[str, float | None]:
    """The figures of one run for the last block, by metric."""
    view, known = run.view, run.view.metrics
    figures: dict[str, float | None] = {
        "zero_shot": spread(view.accuracy.zero_shot or ())[0],
        "trainable_parameters": view.manifest.method.trainable_parameters,
    }
    if known is not None and view.finished:
        figures |= metrics.all_metrics(view.accuracy.rows)
        figures["update_norm"] = spread(known.update_norm)[0]
        figures["drift"] = known.drift[-1] if known.drift else None
        figures["mean_rank"] = spread(known.mean_rank)[0]
    return figures


# --- blocks ---


def _blocks_of_answers(measured: Sequence[_Measured]) -> list[str]:
    """The last row and the diagonal; Transfer and Average where some run scored tasks it had not learnt yet."""
    complete = any(
        metrics.average(R) is not None for entry in measured if entry.learns for R in entry.matrices
    )
    return [*_OF_ANSWERS, *(["transfer", "average"] if complete else [])]


def _scores(
    metric: str, tasks: Sequence[str], measured: Sequence[_Measured], beside: PublishedTable | None
) -> Block:
    """One metric: a column per data set, then their mean."""
    digits = 2 if beside and any(metric in row.deviations for row in beside.rows) else 1
    columns = (*(Column(metric, task, task) for task in tasks), Column(metric, "mean", digits=digits))
    rows = []
    for entry in measured:
        if entry.learns or metric in MAIN:
            per_run = [[*metrics.PER_TASK[metric](R), metrics.METRICS[metric](R)] for R in entry.matrices]
            rows.append(entry.row(list(zip(*per_run, strict=True)) or [()] * len(columns)))
    if beside is not None:
        rows += [_published(row, metric, beside.data_sets) for row in beside.rows if metric in row.figures]
    return Block(METRIC_NAMES[metric], columns, tuple(rows))


def _published(row: PublishedRow, metric: str, data_sets: Sequence[str]) -> Row:
    scores = (*row.per_data_set.get(metric, (None,) * len(data_sets)), row.figures[metric])
    named = zip(scores, (*data_sets, "mean"), strict=True)
    cells = tuple(
        Cell(score, row.deviations.get(metric) if name == "mean" else None, row.about(metric, name))
        for score, name in named
    )
    return Row(row.method, "published", cells, notes=row.about(metric))


_FIGURES = (
    Column("learning_accuracy", METRIC_NAMES["learning_accuracy"].lower()),
    Column("forgetting_max", METRIC_NAMES["forgetting_max"].lower(), digits=2),
    Column("forgetting_diag", METRIC_NAMES["forgetting_diag"].lower(), digits=2),
    Column("forgetting", "forgetting, formula not published", digits=2),
    Column("zero_shot", "zero-shot mean"),
    Column("trainable_parameters", "trainable parameters", digits=None),
    Column("update_norm", "update norm per task", digits=2),
    Column("drift", "drift at the end", digits=2),
    Column("mean_rank", "mean rank"),
)
_FIGURES_OF_ANSWERS = (
    Column("overall_performance", "OP", digits=2),
    Column("bwt_trace", "backward transfer, TRACE paper", digits=2),
    Column("bwt_clipped", "backward transfer, TreeLoRA (-Fgt)", digits=2),
    Column("bwt", METRIC_NAMES["bwt"].lower(), digits=2),
    *(column for column in _FIGURES if column.metric not in ("learning_accuracy", "forgetting")),
)


def _figures(
    columns: Sequence[Column], measured: Sequence[_Measured], beside: PublishedTable | None
) -> Block:
    """What is known of the stream as a whole; a column that no row has a value for is left out."""
    rows = [
        entry.row([[run.get(column.metric) for run in entry.figures] for column in columns])
        for entry in measured
    ]
    for other in beside.rows if beside else ():
        cells = tuple(Cell(*other.figure(column.metric)) for column in columns)
        if any(cell.value is not None for cell in cells):
            rows.append(Row(other.method, "published", cells, notes=other.about()))
    kept = [i for i in range(len(columns)) if any(row.cells[i].value is not None for row in rows)]
    return Block(
        "Further figures",
        tuple(columns[i] for i in kept),
        tuple(replace(row, cells=tuple(row.cells[i] for i in kept)) for row in rows),
    )
