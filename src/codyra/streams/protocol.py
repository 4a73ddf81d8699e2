"""Whether a stream is the benchmark it is called after, or in which way it is not."""

from collections.abc import Sequence
from typing import Any

from codyra.streams.instructions import InstructionTask
from codyra.streams.spec import StreamSpec, TaskSpec, benchmark_of, benchmark_tasks
from codyra.streams.stream import Task

_TASK_KEYS = (
    *("prompt", "ensemble", "underscores", "shots", "test_examples", "classes"),
    *("metric", "choices", "max_new_tokens", "frame"),
)
"""Of a task: those that a benchmark decides."""


def describe_benchmark(spec: StreamSpec, tasks: Sequence[Task | InstructionTask]) -> dict[str, Any] | None:
    """What manifest.json says of the benchmark; None for a stream that is called after none.

    `marks` says, in words, everything that keeps figures of this stream from standing beside published ones; it is
    empty for the benchmark to the letter.
    """
    if spec.benchmark is None:
        return None
    benchmark = benchmark_of(spec.model_dump())
    return {
        "name": spec.benchmark,
        "title": benchmark.title,
        **({"variant": spec.variant} if spec.variant is not None else {}),
        "order": spec.order,
        "shots": spec.shots,
        "prompts": spec.prompts,
        "label_space": spec.label_space,
        "tasks": list(benchmark.orders[spec.order]),
        "marks": [*_deviations(spec), *(f"{task.name}: {mark}" for task in tasks for mark in task.marks)],
    }


def _deviations(spec: StreamSpec) -> list[str]:
    section = spec.model_dump()
    benchmark = benchmark_of(section)
    expected = [TaskSpec.model_validate(task) for task in benchmark_tasks(section)]
    by_name = {task.name: task for task in expected}
    chosen = spec.chosen()
    names, full = [task.name for task in chosen], list(by_name)
    marks = []
    of_benchmark = [name for name in names if name in by_name]
    if len(of_benchmark) < len(full):
        marks.append(f"partial: {len(of_benchmark)} of {len(full)} data sets")
    if of_benchmark != [name for name in full if name in names]:
        marks.append(f"learnt in another order than order {spec.order}")
    if others := [name for name in names if name not in by_name]:
        marks.append(f"tasks that {benchmark.title} has not: {', '.join(others)}")
    for key, published in benchmark.published.items():
        value = getattr(spec, key)
        if value not in published:
            marks.append(f"{key} {_shown(value)}, published is {' or '.join(map(_shown, published))}")
    if spec.score_split != "test":
        marks.append(f"scored on the {spec.score_split} part")
    for task in chosen:
        if task.name not in by_name:
            continue
        if task.data.partition(":")[0] != benchmark.name:
            marks.append(f"{task.name}: read from {task.data}, not from the benchmark's files and splits")
        for key in _TASK_KEYS:
            if getattr(task, key) != getattr(by_name[task.name], key):
                marks.append(f"{task.name}: {key} is not the benchmark's")
    return marks


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()  # as in a config
    return "all" if value is None else str(value)
