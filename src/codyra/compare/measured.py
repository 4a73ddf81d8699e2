"""What one finished run says for a comparison: its figures, and the budget that it really had."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from codyra.compare.plan import Job
from codyra.engine.folder_reader import RunView, StreamMetrics, TaskTiming, read_run
from codyra.errors import UserError
from codyra.report.runs import LabelledRun
from codyra.report.seeds import spread

Figures = Mapping[str, float | None]


@dataclass(frozen=True)
class Budget:
    """Of every task, by its log: optimizer steps, and examples in their batches; and the batch size."""

    steps: tuple[int, ...]
    examples: tuple[int, ...]
    batch_size: int

    @property
    def trains(self) -> bool:
        """False for a method without gradient steps."""
        return any(self.steps)


@dataclass(frozen=True)
class Measured:
    """One finished run; `run` is without its training logs, which are long."""

    label: str
    seed: int
    run: LabelledRun
    budget: Budget
    figures: Figures
    """`last/TASK` is the score of a task after the last one; `own_...` are figures in each task's own label space."""


def measure(job: Job, style: int) -> Measured:
    """Read a finished run; `style` is that of its row.

    Raises:
        UserError: it is damaged or unfinished.
    """
    view = read_run(job.folder)
    if not view.finished:
        raise UserError(f"{job.folder}: is not finished; run the comparison again")
    steps = tuple(len(task.steps) for task in view.tasks)
    examples = tuple(sum(step.examples for step in task.steps) for task in view.tasks)
    budget = Budget(steps, examples, job.config.train.batch_size)
    view = replace(view, tasks=tuple(replace(task, steps=()) for task in view.tasks))
    return Measured(job.label, job.seed, LabelledRun(view, job.label, style), budget, _figures(view, budget))


def _figures(view: RunView, budget: Budget) -> Figures:
    known, timing = view.metrics, view.manifest.timing
    assert known is not None
    tasks = timing.tasks
    train_seconds = [task.train_seconds for task in tasks]
    return {
        **_of_stream(known),
        **{
            f"own_{name}": value
            for name, value in _of_stream(known.own_label_space or StreamMetrics()).items()
        },
        **{f"last/{name}": task.last.score if task.last else None for name, task in known.per_task.items()},
        "update_norm": spread(known.update_norm)[0],
        "drift": known.drift[-1] if known.drift else None,
        "mean_rank": spread(known.mean_rank)[0],
        "survival_auc": spread(known.survival_auc)[0],
        "trainable_parameters": view.manifest.method.trainable_parameters,
        "kept_kb": max(known.memory_bytes, default=0) / 1e3,
        "extra_parameters": known.extra_parameters[-1] if known.extra_parameters else 0,
        "ms_per_example": _ms_per_example(view),
        "seconds_per_step": _over(_sum(train_seconds), sum(budget.steps)),
        "seconds": _sum(
            [
                timing.zero_shot_seconds,
                *(_learning_seconds(task) for task in tasks),
                *(task.merge_seconds for task in tasks),
                *(task.score_seconds for task in tasks),
            ]
        ),
        "peak_mib": view.manifest.peak_memory_bytes / 2**20 if view.manifest.peak_memory_bytes else None,
    }


def _of_stream(metrics: StreamMetrics) -> Figures:
    return {field.name: getattr(metrics, field.name) for field in fields(StreamMetrics)}


def _learning_seconds(task: TaskTiming) -> float | None:
    """Steps, and what the method does before and after them; a method without steps has the latter alone."""
    known = [seconds for seconds in (task.train_seconds, task.method_seconds) if seconds is not None]
    return math.fsum(known) if known else None


def _ms_per_example(view: RunView) -> float | None:
    """Milliseconds of scoring per test example, over all states that were scored after the base model.

    A task that changed nothing is not scored again. Where no task did, the scoring of the base model is taken.
    """
    timing, tests = view.manifest.timing, [entry.test for entry in view.manifest.data]
    seconds: list[float | None] = []
    examples = 0
    for task, timed, row in zip(view.tasks, timing.tasks, view.accuracy.rows, strict=True):
        if task.ranks is not None and not task.ranks.no_change:
            seconds.append(timed.score_seconds)
            examples += sum(test for test, score in zip(tests, row, strict=True) if score is not None)
    if not seconds:
        seconds, examples = [timing.zero_shot_seconds], sum(tests)
    total = _over(_sum(seconds), examples)
    return None if total is None else 1000 * total


def _sum(values: Sequence[float | None]) -> float | None:
    """None where a value is missing: a stop loses the times of the task that it hits."""
    known = [value for value in values if value is not None]
    return math.fsum(known) if len(known) == len(values) else None


def _over(value: float | None, number: int) -> float | None:
    return value / number if value is not None and number else None
