"""What was learnt and what was lost: summary tables, accuracy matrices, the curve of each task."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from codyra.engine.folder_reader import (
    AccuracyTable,
    DataInfo,
    MeasuredScore,
    StreamMetrics,
    TaskScores,
)
from codyra.report.charts import Series, line_chart, y_range
from codyra.report.markup import Markup, breakable, folded, join, scroll_box, sentence, tag
from codyra.report.numbers import DASH, percent, signed
from codyra.report.runs import LabelledRun, legend
from codyra.report.scoring import how_scored, irregular_answers, metric_title

HEAT_LEVELS = 10
"""style.css has one class per level, 0 to 10, in each of its colour ramps."""


@dataclass(frozen=True)
class _Metric:
    key: str
    name: str
    meaning: str
    formula: str
    better: Callable[[list[float]], float] | None
    """max, min, or None where no value is the best one."""


_R = "R[i][j] is the score of task j after task i, T the number of tasks"

_MAIN = (
    _Metric(
        "transfer",
        "Transfer",
        "Tasks not learnt yet: mean score of every task but the first over the time before it is learnt.",
        "mean over j = 1..T-1 of the mean of R[i][j] over i < j",
        max,
    ),
    _Metric(
        "average",
        "Average",
        "The whole stream: mean score over all tasks and all moments after learning one.",
        "mean over i and j of R[i][j]",
        max,
    ),
    _Metric(
        "last",
        "Last",
        "The result: mean score over all tasks after the last one was learnt.",
        "mean over j of R[T-1][j]",
        max,
    ),
    _Metric(
        "forgetting_max",
        "Forgetting, from the best",
        "Mean drop from the best score a task has had since it was learnt to its last score.",
        "1/(T-1) sum over j < T-1 of max over i ≥ j of R[i][j] - R[T-1][j]",
        min,
    ),
    _Metric(
        "forgetting_diag",
        "Forgetting, from just learnt",
        "Mean drop from the score right after learning a task to its last score; negative means it improved.",
        "1/(T-1) sum over j < T-1 of R[j][j] - R[T-1][j]",
        min,
    ),
    _Metric(
        "learning_accuracy",
        "Learning accuracy",
        "Mean score of each task right after it was learnt.",
        "mean over j of R[j][j]",
        max,
    ),
    _Metric(
        "zero_shot",
        "Zero-shot",
        "Mean score over all tasks of the untouched model, before the first task.",
        "mean over j of the zero-shot row",
        None,
    ),
)

_FURTHER = (
    _Metric(
        "bwt",
        "Backward transfer",
        "Forgetting from just learnt with the sign turned.",
        "1/(T-1) sum over j < T-1 of R[T-1][j] - R[j][j]",
        max,
    ),
    _Metric(
        "bwt_trace",
        "Backward transfer, TRACE paper",
        "The same, divided by the number of all tasks.",
        "1/T sum over j of R[T-1][j] - R[j][j]",
        max,
    ),
    _Metric(
        "bwt_clipped",
        "Backward transfer, TreeLoRA",
        "The same, counting losses only.",
        "1/T sum over j of min(R[T-1][j] - R[j][j], 0)",
        max,
    ),
    _Metric(
        "lower_triangle_mean",
        "Lower-triangle mean",
        "Mean score of the tasks learnt so far, over the stream; TreeLoRA calls it All Average.",
        "mean of R[i][j] over j ≤ i",
        max,
    ),
)

METRIC_NAMES = {metric.key: metric.name for metric in _MAIN + _FURTHER}
"""What people call the metrics of `codyra.metrics`."""

_WITH_ERROR: dict[str, Callable[[TaskScores], MeasuredScore | None]] = {
    "zero_shot": lambda task: task.zero_shot,
    "learning_accuracy": lambda task: task.learned,
    "last": lambda task: task.last,
}
"""Means over different test sets, whose errors are independent; the other figures mix correlated rows."""


def summary_tables(group: Sequence[LabelledRun]) -> Markup:
    """The figures of a group's runs side by side; those of classes in each task's own label space too."""
    manifest, pooled = group[0].view.manifest, group[0].pooled
    caption = how_scored(manifest, pooled)
    parts = [_metric_table(group, _MAIN, _run_metrics, _errors, caption)]
    if pooled and any(_own_metrics(run) for run in group):
        parts += [
            tag("h3", "The same in each task's own label space"),
            tag(
                "p", "Here a task is scored against its own class names only, which is easier.", class_="note"
            ),
            _metric_table(group, _MAIN, _own_metrics, None, how_scored(manifest, False), explained=False),
        ]
    parts.append(_footnotes(group))
    parts.append(
        folded(
            "Further metrics and exact formulas",
            _metric_table(group, _FURTHER, _run_metrics, None, caption),
            tag("p", f"{_R}, both counted from 0; the zero-shot row is not part of R.", class_="note"),
            tag(
                "dl",
                *(
                    join(
                        [
                            tag("dt", metric.name, " (", tag("code", metric.key), ")"),
                            tag("dd", metric.formula),
                        ]
                    )
                    for metric in _MAIN + _FURTHER
                ),
            ),
        )
    )
    return join(parts)


def _run_metrics(run: LabelledRun) -> StreamMetrics | None:
    return run.view.metrics if run.view.finished else None


def _own_metrics(run: LabelledRun) -> StreamMetrics | None:
    own, table = run.view.metrics and run.view.metrics.own_label_space, run.view.accuracy_task
    if own is None or table is None or not run.view.finished:
        return None
    known = [score for score in table.zero_shot or () if score is not None]
    complete = known and len(known) == len(table.tasks)
    return replace(own, zero_shot=math.fsum(known) / len(known) if complete else None)


def _errors(run: LabelledRun, key: str) -> float | None:
    """Standard error of a mean over tasks, in percentage points; None where there is none."""
    if key not in _WITH_ERROR or run.view.metrics is None or not run.view.metrics.per_task:
        return None
    scores = [_WITH_ERROR[key](task) for task in run.view.metrics.per_task.values()]
    known = [
        score.standard_error for score in scores if score is not None and score.standard_error is not None
    ]
    return math.hypot(*known) / len(known) if len(known) == len(scores) else None


def _metric_table(
    group: Sequence[LabelledRun],
    chosen: Sequence[_Metric],
    of: Callable[[LabelledRun], StreamMetrics | None],
    error_of: Callable[[LabelledRun, str], float | None] | None,
    caption: str,
    explained: bool = True,
) -> Markup:
    head = tag(
        "tr",
        tag("th", "Metric", scope="col"),
        *(tag("th", run.heading, scope="col", class_="run") for run in group),
    )
    rows = []
    for metric in chosen:
        values = [getattr(of(run), metric.key) if of(run) else None for run in group]
        rivals = [value for run, value in zip(group, values, strict=True) if run.learns]
        known = [round(value, 1) for value in rivals if value is not None]
        best = metric.better(known) if metric.better and len(known) > 1 else None
        cells = []
        for run, value in zip(group, values, strict=True):
            is_best = run.learns and value is not None and round(value, 1) == best
            error = error_of(run, metric.key) if error_of and value is not None else None
            cells.append(
                tag(
                    "td",
                    tag("b", percent(value)) if is_best else percent(value),
                    tag("span", f" ±{error:.1f}", class_="error") if error is not None else None,
                    tag("span", "★", class_="star", title="best of these runs", role="img", aria_label="best")
                    if is_best
                    else None,
                    class_="number",
                )
            )
        label = tag(
            "th",
            tag("span", metric.name, class_="metric", title=metric.formula),
            tag("span", metric.meaning, class_="meaning") if explained else None,
            scope="row",
        )
        rows.append(tag("tr", label, *cells))
    # Visible outside the box: a caption is as wide as its table, which a phone would cut.
    hidden = tag("caption", caption, class_="hidden")
    table = tag("table", hidden, tag("thead", head), tag("tbody", *rows), class_="summary")
    return join(
        [tag("p", caption, class_="note", aria_hidden="true"), scroll_box(table, "Metrics of the runs")]
    )


def _footnotes(group: Sequence[LabelledRun]) -> Markup:
    notes = []
    if len(group) > 1:
        notes.append("★ best of these runs at the printed precision (for forgetting the lowest).")
    if len(group) > 1 and not all(run.learns for run in group):
        notes.append("A run that trains nothing is a reference and takes no star.")
    if any(_errors(run, "last") is not None for run in group):
        kind = "" if group[0].view.manifest.of_answers else "binomial "
        notes.append(
            f"± one {kind}standard error of the test examples; the other figures have no simple one."
        )
    if any(not run.view.finished for run in group):
        notes.append(f"{DASH} for an unfinished run: these figures exist for a whole stream only.")
    if len(group[0].view.accuracy.tasks) == 1:
        notes.append(
            f"{DASH} for a stream of one task: transfer and forgetting need a second one; they are not 0."
        )
    elif any(run.view.finished and getattr(run.view.metrics, "transfer", None) is None for run in group):
        notes.append(f"{DASH} where a definition needs scores that were not measured.")
    return tag("p", " ".join(notes), class_="note") if notes else Markup()


# --- accuracy matrices ---


def matrices(run: LabelledRun) -> Markup:
    """The accuracy matrix of one run as heat maps, in both label spaces where they differ."""
    view = run.view
    if view.accuracy.zero_shot is None:
        return tag("p", "Nothing was scored yet.", class_="note")
    if view.manifest.of_answers:
        irregular = irregular_answers(view)
        said = tag("p", sentence("; ".join(irregular)), class_="note") if irregular else None
        return join([_matrix(run, view.accuracy, "Each task by its own metric"), said])
    tables = [_matrix(run, view.accuracy, "All class names" if run.pooled else "Own class names")]
    if view.accuracy_task is not None and view.accuracy_task.zero_shot is not None and run.pooled:
        tables.append(_matrix(run, view.accuracy_task, "Own class names"))
    return tag("div", *tables, class_="pair")


def matrix_key(group: Sequence[LabelledRun]) -> Markup:
    """How to read the heat maps."""
    spaces = "Scored among all class names of the stream, or among the task's own."
    return tag(
        "p",
        tag("span", "63.2", class_="swatch h6"),
        "already learnt  ",
        tag("span", "63.2", class_="swatch h6 diagonal"),
        "just learnt (framed)  ",
        tag("span", "63.2", class_="swatch g6 ahead"),
        "not learnt yet (grey, italic). The stronger the colour, the higher the score, from 0 to 100 %. ",
        None if group[0].view.manifest.of_answers else spaces,
        class_="note matrix-key",
    )


def _matrix(run: LabelledRun, table: AccuracyTable, title: str) -> Markup:
    assert table.zero_shot is not None
    head = [tag("th", "after", scope="col")]
    head += [
        tag(
            "th",
            tag("span", str(number), class_="index"),
            " ",
            breakable(task.task),
            _metric_line(task),
            scope="col",
        )
        for number, task in enumerate(run.view.manifest.data, start=1)
    ]
    rows = [
        tag(
            "tr",
            tag("th", "zero-shot", scope="row"),
            *(_score_cell(score, "ahead") for score in table.zero_shot),
            class_="zero-shot",
        )
    ]
    for i, scores in enumerate(table.rows):
        name = tag("th", tag("span", str(i + 1), class_="index"), " ", breakable(table.tasks[i]), scope="row")
        kinds = ["diagonal" if j == i else "ahead" if j > i else "learnt" for j in range(len(scores))]
        rows.append(
            tag("tr", name, *(_score_cell(score, kind) for score, kind in zip(scores, kinds, strict=True)))
        )
    foot = None
    if table.rows:
        changes = [
            None if now is None or before is None else now - before
            for now, before in zip(table.rows[-1], table.zero_shot, strict=True)
        ]
        foot = tag(
            "tfoot", tag("tr", tag("th", "change to zero-shot", scope="row"), *map(_change_cell, changes))
        )
    return scroll_box(
        tag(
            "table",
            tag("caption", title, tag("span", f" ({run.label})", class_="hidden")),
            tag("thead", tag("tr", *head)),
            tag("tbody", *rows),
            foot,
            class_="heat matrix",
        ),
        f"Scores of {run.label}: {title}",
    )


def _metric_line(task: DataInfo) -> Markup | None:
    title = metric_title(task)
    return tag("span", title, class_="meaning") if title is not None else None


def _score_cell(score: float | None, kind: str) -> Markup:
    if score is None:
        return tag("td", DASH, class_="none", title="not scored")
    level = min(HEAT_LEVELS, max(0, round(score / 100 * HEAT_LEVELS)))
    ramp = "g" if kind == "ahead" else "h"
    return tag("td", percent(score), class_=f"{ramp}{level}" + (f" {kind}" if kind != "learnt" else ""))


def _change_cell(change: float | None) -> Markup:
    if change is None:
        return tag("td", DASH, class_="none")
    level = min(5, math.ceil(abs(change) / 10)) if abs(change) >= 0.05 else 0
    return tag("td", signed(change), class_=f"{'up' if change > 0 else 'down'}{level}" if level else None)


# --- the curve of each task ---


def task_curves(group: Sequence[LabelledRun]) -> Markup:
    """The score of each task over the stream: one chart per task, all runs in it."""
    scored = [run for run in group if run.view.accuracy.zero_shot is not None]
    if not scored:
        return tag("p", "Nothing was scored yet.", class_="note")
    tasks = scored[0].view.manifest.data
    lines = [[_curve(run, index) for run in scored] for index in range(len(tasks))]
    span = y_range([line for chart in lines for line in chart], from_zero=False)
    ticks = list(range(len(tasks) + 1))
    charts = []
    for index, task in enumerate(tasks):
        story = "; ".join(_story(run, index) for run in scored)
        chart = line_chart(
            lines[index],
            title=f"Score of task {index + 1}, {task.task}, over the stream",
            description=story,
            y_span=span,
            x_ticks=ticks,
            shade_until=index + 1,
        )
        number = tag("span", str(index + 1), class_="index")
        charts.append(tag("figure", tag("figcaption", number, " ", task.task, _metric_line(task)), chart))
    return join([legend(group), tag("div", *charts, class_="multiples")])


def _curve(run: LabelledRun, index: int) -> Series:
    table = run.view.accuracy
    assert table.zero_shot is not None
    points = [(0.0, table.zero_shot[index])]
    points += [(float(after), row[index]) for after, row in enumerate(table.rows, start=1)]
    return Series(run.label, run.style, points)


def _story(run: LabelledRun, index: int) -> str:
    table = run.view.accuracy
    assert table.zero_shot is not None
    words = f"{run.label}: zero-shot {percent(table.zero_shot[index])}"
    if index < len(table.rows):
        words += (
            f", just learnt {percent(table.rows[index][index])}, at the end {percent(table.rows[-1][index])}"
        )
    return words
