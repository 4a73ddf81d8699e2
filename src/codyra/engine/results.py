"""From scores to the figures of a run: accuracy matrices and metrics.json."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from codyra import metrics
from codyra.families import AnswerScore, Score
from codyra.update import TaskUpdate

Cells = list[float | None]
LabelSpace = Literal["all", "task"]


def mean_rank(update: TaskUpdate) -> float | None:
    """Mean surviving rank over all adapted modules, those without any included."""
    return sum(update.ranks.values()) / len(update.ranks) if update.ranks else None


def _beside_the_network(update: TaskUpdate) -> int:
    """Numbers that scoring reads and the base model does not have."""
    return update.head.num_parameters if update.head is not None else 0


def cells(row: Sequence[Score | None], label_space: LabelSpace) -> Cells:
    """One row of an accuracy matrix."""
    return [None if score is None else score.percent(label_space) for score in row]


def matrix_files(row: Sequence[Score | None], label_space: LabelSpace) -> dict[str, LabelSpace]:
    """The accuracy tables of a run with such a row, and the label space of each; answers have none, hence one table."""
    if _of_answers(row):
        return {"accuracy.csv": label_space}
    return {"accuracy.csv": label_space, "accuracy_task.csv": "task"}


def _of_answers(row: Sequence[Score | None]) -> bool:
    return any(isinstance(score, AnswerScore) for score in row)


def _with_error(score: Score | None, label_space: LabelSpace) -> dict[str, float] | None:
    if score is None:
        return None
    return {"score": score.percent(label_space), "standard_error": score.standard_error(label_space)}


def _about_answers(score: Score | None) -> dict[str, Any]:
    if not isinstance(score, AnswerScore):
        return {}
    return {"metric": score.metric, "cut": score.cut, "unfinished": score.unfinished}


def summarise(
    task_names: Sequence[str],
    zero_shot: Sequence[Score | None],
    rows: Sequence[Sequence[Score | None]],
    label_space: LabelSpace,
    updates: Sequence[TaskUpdate],
    drift: Sequence[float],
    trainable_parameters: int,
    memory_bytes: Sequence[int],
    benchmark: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Content of metrics.json: every metric of `codyra.metrics`, and what each task learnt, kept and moved.

    Args:
        memory_bytes: what the method kept after each task, beside the updates.
        benchmark: what the manifest says of it; None for a stream of one's own, whose figures carry no marks.
    """
    R, answers = [cells(row, label_space) for row in rows], _of_answers(zero_shot)
    first = [value for value in cells(zero_shot, label_space) if value is not None]
    per_task = {
        name: {
            "examples": score.examples if (score := rows[-1][j]) is not None else None,
            "zero_shot": _with_error(zero_shot[j], label_space),
            "learned": _with_error(rows[j][j], label_space),
            "last": _with_error(rows[-1][j], label_space),
            **_about_answers(rows[-1][j]),
        }
        for j, name in enumerate(task_names)
    }
    return {
        **metrics.all_metrics(R),
        "zero_shot": sum(first) / len(first) if len(first) == len(task_names) else None,
        "label_space": None if answers else label_space,
        "own_label_space": None if answers else metrics.all_metrics([cells(row, "task") for row in rows]),
        "update_norm": [
            update.moved(before) for update, before in zip(updates, [None, *updates], strict=False)
        ],
        "drift": list(drift),
        "mean_rank": [mean_rank(update) for update in updates],
        "survival_auc": [update.survival_auc for update in updates],
        "trainable_parameters": trainable_parameters,
        "memory_bytes": list(memory_bytes),
        "extra_parameters": [_beside_the_network(update) for update in updates],
        "per_task": per_task,
        **({"benchmark": benchmark["title"], "marks": list(benchmark["marks"])} if benchmark else {}),
    }
