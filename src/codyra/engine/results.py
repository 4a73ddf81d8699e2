"""From scores to the figures of a run: accuracy matrices and metrics.json."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from codyra import metrics
from codyra.families import TaskScore
from codyra.update import TaskUpdate

Cells = list[float | None]


def percent(score: TaskScore | None, label_space: Literal["all", "task"]) -> float | None:
    """Accuracy in percent, in the pooled label space or the task's own."""
    if score is None:
        return None
    return 100.0 * (score.correct if label_space == "all" else score.correct_task) / score.examples


def own_percent(score: TaskScore) -> float:
    """Accuracy in percent in the task's own label space."""
    return 100.0 * score.correct_task / score.examples


def mean_rank(update: TaskUpdate) -> float | None:
    """Mean surviving rank over all adapted modules, those without any included."""
    return sum(update.ranks.values()) / len(update.ranks) if update.ranks else None


def cells(row: Sequence[TaskScore | None], label_space: Literal["all", "task"]) -> Cells:
    """One row of an accuracy matrix."""
    return [percent(score, label_space) for score in row]


def _with_error(score: TaskScore | None, label_space: Literal["all", "task"]) -> dict[str, float] | None:
    value = percent(score, label_space)
    if score is None or value is None:
        return None
    return {"score": value, "standard_error": metrics.standard_error(value, score.examples)}


def summarise(
    task_names: Sequence[str],
    zero_shot: Sequence[TaskScore | None],
    rows: Sequence[Sequence[TaskScore | None]],
    label_space: Literal["all", "task"],
    updates: Sequence[TaskUpdate],
    drift: Sequence[float],
    trainable_parameters: int,
    benchmark: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Content of metrics.json: every metric of `codyra.metrics`, and what each task learnt, kept and moved.

    Args:
        benchmark: what the manifest says of it; None for a stream of one's own, whose figures carry no marks.
    """
    R = [cells(row, label_space) for row in rows]
    first = [value for value in cells(zero_shot, label_space) if value is not None]
    per_task = {
        name: {
            "examples": score.examples if (score := rows[-1][j]) is not None else None,
            "zero_shot": _with_error(zero_shot[j], label_space),
            "learned": _with_error(rows[j][j], label_space),
            "last": _with_error(rows[-1][j], label_space),
        }
        for j, name in enumerate(task_names)
    }
    return {
        **metrics.all_metrics(R),
        "zero_shot": sum(first) / len(first) if len(first) == len(task_names) else None,
        "label_space": label_space,
        "own_label_space": metrics.all_metrics([cells(row, "task") for row in rows]),
        "update_norm": [update.norm() for update in updates],
        "drift": list(drift),
        "mean_rank": [mean_rank(update) for update in updates],
        "survival_auc": [update.survival_auc for update in updates],
        "trainable_parameters": trainable_parameters,
        "per_task": per_task,
        **({"benchmark": benchmark["title"], "marks": list(benchmark["marks"])} if benchmark else {}),
    }
