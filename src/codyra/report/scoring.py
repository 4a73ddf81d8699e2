"""What a score of a run means, in words: right among which class names, or by which metric of answers."""

from collections.abc import Iterator

from codyra.engine.folder_reader import DataInfo, Manifest, RunView, TaskScores
from codyra.text_metrics import METRICS


def how_scored(manifest: Manifest, pooled: bool) -> str:
    """One sentence about the scores of a run, in the label space of all tasks or of each; answers have none."""
    if manifest.of_answers:
        return f"Percent of each task's own metric: {'; '.join(_tasks_by_metric(manifest))}."
    space = "all tasks" if pooled else "its own task"
    return f"Percent; an example counts as right when its true class wins among the class names of {space}."


def metric_title(task: DataInfo) -> str | None:
    """What the answers of a task are scored by, as people call it; None for a task of classes."""
    if task.metric is None:
        return None
    return METRICS[task.metric].title if task.metric in METRICS else task.metric


def irregular_answers(view: RunView) -> list[str]:
    """How many prompts were cut, and how many answers were unfinished at the end of the stream, where any were."""
    scores = view.metrics.per_task if view.metrics is not None else {}
    cut = [_share(name, task.cut, task) for name, task in scores.items() if task.cut]
    unfinished = [_share(name, task.unfinished, task) for name, task in scores.items() if task.unfinished]
    return [
        *([f"prompts that were cut: {', '.join(cut)}"] if cut else []),
        *(
            [f"answers at the end that reached their longest length: {', '.join(unfinished)}"]
            if unfinished
            else []
        ),
    ]


def _share(name: str, count: int | None, task: TaskScores) -> str:
    return f"{name} {count} of {task.examples}"


def _tasks_by_metric(manifest: Manifest) -> Iterator[str]:
    titles = {task.task: metric_title(task) or "unknown" for task in manifest.data}
    for title in dict.fromkeys(titles.values()):
        yield f"{title} for {', '.join(name for name, its in titles.items() if its == title)}"
