"""How each task was trained: loss, proximal threshold and surviving ranks over its steps."""

from collections.abc import Callable, Sequence

from codyra.engine.folder_reader import TrainStep
from codyra.report.charts import Point, Series, downsample, line_chart, nice_ticks, y_range
from codyra.report.markup import Markup, join, tag
from codyra.report.numbers import short
from codyra.report.runs import LabelledRun, legend

_PANELS: tuple[tuple[str, str, Callable[[TrainStep], float | None], int], ...] = (
    ("loss", "Training loss", lambda step: step.loss, 150),
    ("threshold κ", "Proximal threshold kappa", lambda step: step.kappa, 92),
    ("ranks left", "Mean number of surviving ranks", lambda step: step.kept, 92),
)


def training_charts(group: Sequence[LabelledRun]) -> Markup:
    """One figure per task with a panel for each quantity that any run logged, all runs in it."""
    trained = [run for run in group if any(task.steps for task in run.view.tasks)]
    if not trained:
        return tag("p", "No training step was logged.", class_="note")
    # One range per quantity for all tasks, so that the figures can be compared by eye.
    spans = {
        short_title: y_range(
            [line for number in _numbers(trained) for line in _lines(trained, number, read)], from_zero=True
        )
        for short_title, _, read, _ in _PANELS
    }
    names = trained[0].view.accuracy.tasks
    figures = []
    for number in _numbers(trained):
        panels: list[Markup] = []
        for short_title, title, read, height in _PANELS:
            lines = _lines(trained, number, read)
            if not lines:
                continue
            chart = line_chart(
                lines,
                title=f"{title}, task {number}, {names[number - 1]}",
                description="; ".join(_story(line) for line in lines),
                y_span=spans[short_title],
                x_ticks=_step_ticks(lines),
                height=height,
            )
            panels.append(tag("div", tag("span", short_title, class_="panel"), chart))
        caption = tag("figcaption", tag("span", str(number), class_="index"), " ", names[number - 1])
        figures.append(tag("figure", caption, *panels))
    return join([legend(trained), tag("div", *figures, class_="multiples")])


def _step_ticks(lines: Sequence[Series]) -> list[float]:
    last = max(x for line in lines for x, _ in line.points)
    return [tick for tick in nice_ticks(0, last, about=5) if tick <= last + 1]


def _numbers(group: Sequence[LabelledRun]) -> list[int]:
    return sorted({task.number for run in group for task in run.view.tasks if task.steps})


def _lines(
    group: Sequence[LabelledRun], number: int, read: Callable[[TrainStep], float | None]
) -> list[Series]:
    """The logged values of one task, one line per run that has any; unlogged steps are left out, not gaps."""
    lines = []
    for run in group:
        for task in run.view.tasks:
            points: list[Point] = [(step.step, read(step)) for step in task.steps if read(step) is not None]
            if task.number == number and points:
                lines.append(Series(run.label, run.style, downsample(points)))
    return lines


def _story(line: Series) -> str:
    return f"{line.label}: from {short(line.points[0][1])} to {short(line.points[-1][1])}"
