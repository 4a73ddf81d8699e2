"""The table of a comparison, as a `report.table.Table`: scores, sizes, costs, promises, budget, differences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from codyra.compare.measured import Measured
from codyra.compare.statistics import Estimate, over_seeds, paired
from codyra.report.numbers import yes_no
from codyra.report.runs import LabelledRun
from codyra.report.scores import METRIC_NAMES
from codyra.report.scoring import how_scored
from codyra.report.seeds import how_trained
from codyra.report.table import Block, Cell, Column, Row, Table, stream_title

Rows = Mapping[str, Sequence[Measured]]
"""The finished runs of every method by its label, in the order of the rows; a method without any is not there."""
OWN_CLASSES_TITLE = "Each task among its own classes"
NO_STEPS = "takes no gradient steps, so the budget of steps and examples does not apply to it"
REMADE = (
    "the earlier weights that it needs follow from the base model and the updates, so no bytes are its own"
)
OTHER_BUDGET = "had another budget than most rows: not a fair comparison"


def _score(metric: str, digits: int = 1) -> Column:
    return Column(
        metric, METRIC_NAMES[metric].lower() if metric not in _TITLED else METRIC_NAMES[metric], digits=digits
    )


_TITLED = ("transfer", "average", "last")
_AFTER = (_score("forgetting_max", 2), _score("forgetting_diag", 2), _score("learning_accuracy"))
SCORES = (*(_score(metric) for metric in _TITLED), *_AFTER)
SCORES_OF_ANSWERS = (
    Column("overall_performance", "OP"),
    _score("bwt", 2),
    Column("bwt_trace", "backward transfer, TRACE paper", digits=2),
    Column("bwt_clipped", "backward transfer, TreeLoRA", digits=2),
    *_AFTER,
)
OWN_CLASSES = tuple(replace(column, metric=f"own_{column.metric}") for column in SCORES)
SIZES = (
    Column("drift", "drift at the end", digits=2),
    Column("update_norm", "update norm per task", digits=2),
    Column("mean_rank", "mean rank", digits=2),
    Column("survival_auc", "survival AUC", digits=4),
    Column("trainable_parameters", "trainable parameters", digits=None),
)
_COMPARED_SIZES = SIZES[:3]
COSTS = (
    Column("ms_per_example", "ms per scored example", digits=2),
    Column("seconds_per_step", "seconds per step", digits=3),
    Column("seconds", "seconds of work", digits=1),
    Column("peak_mib", "peak memory, MiB", digits=0),
)
KEPT = (
    Column("kept_kb", "most kept, kB", digits=1),
    Column("extra_parameters", "extra parameters at inference", digits=None),
)


def build_table(rows: Rows, reference: str, missing: Sequence[str]) -> Table:
    """All that is known of the methods side by side.

    Args:
        rows: at least one.
        reference: label of the row that the others are compared with.
        missing: names of the runs that are not finished.
    """
    first = next(iter(rows.values()))[0].run
    benchmark = first.view.manifest.benchmark
    scores = SCORES_OF_ANSWERS if first.view.manifest.of_answers else SCORES
    compared = reference in rows and len(rows) > 1
    title = f"Minus {reference}, mean \N{PLUS-MINUS SIGN} standard error"
    tasks = tuple(Column("last", name, data_set=name) for name in first.view.accuracy.tasks)
    blocks = [
        _means("Scores", scores, rows),
        *([differences(title, (*scores, *_COMPARED_SIZES), rows, reference)] if compared else []),
    ]
    if first.pooled and not first.view.manifest.of_answers:
        blocks.append(_means(OWN_CLASSES_TITLE, OWN_CLASSES, rows))
        if compared:
            blocks.append(differences(f"{OWN_CLASSES_TITLE}. {title}", OWN_CLASSES, rows, reference))
    blocks += [
        _means("Each task after the last one", tasks, rows),
        _means("Size of the updates", SIZES, rows),
        properties(rows),
        _means("Cost", COSTS, rows),
        budgets(rows),
    ]
    remarks = [
        how_scored(first.view.manifest, first.pooled),
        f"Base model: {first.view.manifest.base.name}{_zero_shot(first)}.",
        "Every figure: mean \N{PLUS-MINUS SIGN} sample standard deviation over seeds (divisor n - 1), of differences "
        "the standard error instead.",
        *(f"{label}: {how}." for label, runs in rows.items() if (how := how_trained(runs[0].run))),
        *([f"Not finished: {'; '.join(missing)}."] if missing else []),
    ]
    return Table(
        title=f"{stream_title(first)}: {len(rows)} methods",
        marks=benchmark.marks if benchmark else (),
        remarks=tuple(remarks),
        blocks=tuple(_without_empty(block) for block in blocks),
        source=None,
    )


def differences(title: str, columns: Sequence[Column], rows: Rows, reference: str) -> Block:
    """Every method minus the reference, on the seeds that both have, with the standard error of the mean."""
    shown = [replace(column, signed=True, digits=2) for column in columns]
    body = []
    for label, runs in rows.items():
        if label != reference:
            found = [paired(runs, rows[reference], column.metric) for column in shown]
            body.append(_difference(label, found))
    return Block(title, tuple(shown), tuple(body), of_means=True)


def _difference(label: str, found: Sequence[Estimate]) -> Row:
    n = found[0].n
    notes = ("one seed in common: a difference without an error",) if n == 1 else ()
    if n == 0:
        notes = ("no seed in common with the reference",)
    return Row(label, "measured", tuple(Cell(one.mean, one.error) for one in found), n, notes)


def properties(rows: Rows) -> Block:
    """What every method declares of itself, and what was measured of that."""
    declared: tuple[tuple[str, str, Callable[[Measured], object]], ...] = (
        ("stores", "stores, declared", lambda run: run.run.view.manifest.method.stores),
        (
            "needs_reference_data",
            "needs reference data",
            lambda run: run.run.view.manifest.method.needs_reference_data,
        ),
        (
            "needs_number_of_tasks",
            "needs number of tasks",
            lambda run: run.run.view.manifest.method.needs_number_of_tasks,
        ),
        (
            "task_id_at_test",
            "needs task id at test",
            lambda run: run.run.view.manifest.method.task_id_at_test,
        ),
        (
            "extra_inference",
            "extra work at inference",
            lambda run: run.run.view.manifest.method.extra_inference,
        ),
    )
    body = []
    for label, runs in rows.items():
        words = [Cell(words=yes_no(value(runs[0]))) for _, _, value in declared]
        means = [over_seeds(runs, column.metric) for column in KEPT]
        cells = (words[0], _cell(means[0]), *words[1:], _cell(means[1]))
        notes = (REMADE,) if runs[0].run.view.manifest.method.stores == "weights" else ()
        body.append(Row(label, "measured", cells, len(runs), notes))
    columns = [Column(key, heading) for key, heading, _ in declared]
    return Block(
        "Properties, declared and measured", (columns[0], KEPT[0], *columns[1:], KEPT[1]), tuple(body)
    )


def budgets(rows: Rows) -> Block:
    """What every method was given: the optimizer steps by its logs and the examples shown in them, per task."""
    columns = (
        Column("steps", "steps per task"),
        Column("examples", "examples shown per task"),
        Column("batch_size", "batch size"),
        Column("lr", "learning rate"),
    )
    marks = budget_marks(rows)
    body = []
    for label, runs in rows.items():
        budget, trains = runs[0].budget, runs[0].budget.trains
        lr = runs[0].run.setting("train", "lr")
        words = (
            _per_task(budget.steps),
            _per_task(budget.examples),
            str(budget.batch_size) if trains else "",
            f"{lr:g}" if trains else "",
        )
        cells = tuple(Cell(words=word) if word else Cell() for word in words)
        body.append(Row(label, "measured", cells, len(runs), marks.get(label, ())))
    return Block("Budget", columns, tuple(body))


def budget_marks(rows: Rows) -> dict[str, tuple[str, ...]]:
    """Rows whose budget is not that of most rows, seed by seed, or that take no steps."""
    given = {label: {run.seed: run.budget for run in runs} for label, runs in rows.items()}
    training = [label for label in rows if rows[label][0].budget.trains]
    usual: dict[int, list[object]] = {}
    for label in training:
        for seed, budget in given[label].items():
            usual.setdefault(seed, []).append(budget)
    marks: dict[str, tuple[str, ...]] = {label: (NO_STEPS,) for label in rows if label not in training}
    for label in training:
        # The first of several that are equally frequent.
        if any(budget != max(usual[seed], key=usual[seed].count) for seed, budget in given[label].items()):
            marks[label] = (OTHER_BUDGET,)
    return marks


def every_run(rows: Rows) -> Block:
    """The figures of each run, from which the means and differences are made."""
    of_answers = next(iter(rows.values()))[0].run.view.manifest.of_answers
    own = [replace(column, heading=f"own classes: {column.heading}") for column in OWN_CLASSES]
    columns = (*(SCORES_OF_ANSWERS if of_answers else (*SCORES, *own)), *_COMPARED_SIZES)
    body = [
        Row(
            f"{label}, seed {run.seed}",
            "measured",
            tuple(Cell(run.figures[column.metric]) for column in columns),
        )
        for label, runs in rows.items()
        for run in runs
    ]
    return _without_empty(Block("Every run", tuple(replace(c, digits=2) for c in columns), tuple(body)))


def _zero_shot(run: LabelledRun) -> str:
    known = run.view.metrics and run.view.metrics.zero_shot
    return "" if known is None else f", whose mean over the tasks is {known:.1f}"


def _means(title: str, columns: Sequence[Column], rows: Rows) -> Block:
    marks = budget_marks(rows)
    body = [
        Row(
            label,
            "measured",
            tuple(_cell(over_seeds(runs, _figure(column))) for column in columns),
            len(runs),
            marks.get(label, ()),
        )
        for label, runs in rows.items()
    ]
    return Block(title, tuple(columns), tuple(body))


def _figure(column: Column) -> str:
    return column.metric if column.data_set is None else f"{column.metric}/{column.data_set}"


def _cell(estimate: Estimate) -> Cell:
    return Cell(estimate.mean, estimate.std)


def _without_empty(block: Block) -> Block:
    """A column in which no row has anything is left out."""
    kept = [
        i
        for i in range(len(block.columns))
        if any(row.cells[i].value is not None or row.cells[i].words is not None for row in block.rows)
    ]
    rows = (replace(row, cells=tuple(row.cells[i] for i in kept)) for row in block.rows)
    return replace(block, columns=tuple(block.columns[i] for i in kept), rows=tuple(rows))


def _per_task(numbers: Sequence[int]) -> str:
    """`120`, or `40/80/120` where tasks differ, `40 to 120` where they are many."""
    if len(set(numbers)) == 1:
        return f"{numbers[0]:,}"
    return "/".join(map(str, numbers)) if len(numbers) <= 8 else f"{min(numbers):,} to {max(numbers):,}"
