"""Continual-learning metrics as pure functions of the accuracy matrix.

R is a list of rows: R[i][j] = score of task j after learning task i, both counted from 0, in percent; None where
a task was not scored. The zero-shot row is not part of R. T = number of tasks = number of rows. Nothing is masked
(a true 0 % counts), nothing is modified, every sum runs over positions.

A function returns None where its definition needs a cell that was not scored, or needs more tasks than there are
(transfer, forgetting and backward transfer of a single task do not exist; they are not 0). The functions named
..._per_task give one value per task; the metric of that name is the mean of those that exist for such a stream.

Definitions and their names: transfer, average, last as in ZSCL and X-TAIL; forgetting_max and forgetting_diag as in
the continual-learning literature; bwt_trace as in the TRACE paper; bwt_clipped and lower_triangle_mean as in TreeLoRA.
"""

import math
from collections.abc import Callable, Iterable, Sequence

Row = Sequence[float | None]
Matrix = Sequence[Row]


def _mean(cells: Iterable[float | None]) -> float | None:
    values = list(cells)
    if not values or any(value is None for value in values):
        return None
    return math.fsum(value for value in values if value is not None) / len(values)


def _differences(minuends: Iterable[float | None], subtrahends: Iterable[float | None]) -> list[float | None]:
    pairs = zip(minuends, subtrahends, strict=True)
    return [None if a is None or b is None else a - b for a, b in pairs]


def _check(R: Matrix) -> int:
    num_tasks = len(R)
    if num_tasks == 0 or any(len(row) != num_tasks for row in R):
        raise ValueError(
            f"the accuracy matrix must be square, one row and one column per task; got {num_tasks} rows of "
            f"lengths {[len(row) for row in R]} (leave the zero-shot row out)"
        )
    return num_tasks


def transfer_per_task(R: Matrix) -> list[float | None]:
    """Mean score of every task before it was learnt: mean_{i<j} R[i][j]. None for the first task."""
    return [_mean(R[i][j] for i in range(j)) for j in range(_check(R))]


def average_per_task(R: Matrix) -> list[float | None]:
    """Mean of every column: mean_i R[i][j]."""
    return [_mean(row[j] for row in R) for j in range(_check(R))]


def last_per_task(R: Matrix) -> list[float | None]:
    """The last row: R[T-1][j]."""
    _check(R)
    return list(R[-1])


def learning_accuracy_per_task(R: Matrix) -> list[float | None]:
    """The diagonal: R[j][j]."""
    return [R[j][j] for j in range(_check(R))]


def forgetting_max_per_task(R: Matrix) -> list[float | None]:
    """max_{i>=j} R[i][j] - R[T-1][j]. None for the last task, which had no time to be forgotten."""
    num_tasks = _check(R)
    best: list[float | None] = []
    for j in range(num_tasks - 1):
        column = [R[i][j] for i in range(j, num_tasks)]
        scored = [value for value in column if value is not None]
        best.append(max(scored) if len(scored) == len(column) else None)
    return [*_differences(best, R[-1][: num_tasks - 1]), None]


def forgetting_diag_per_task(R: Matrix) -> list[float | None]:
    """R[j][j] - R[T-1][j]. None for the last task."""
    num_tasks = _check(R)
    return [*_differences([R[j][j] for j in range(num_tasks - 1)], R[-1][: num_tasks - 1]), None]


def transfer(R: Matrix) -> float | None:
    """Mean over tasks j = 2..T of the mean score of task j before it was learnt: mean_j mean_{i<j} R[i][j]."""
    return _mean(transfer_per_task(R)[1:])


def average(R: Matrix) -> float | None:
    """Mean of all cells: mean_j mean_i R[i][j]."""
    return _mean(average_per_task(R))


def last(R: Matrix) -> float | None:
    """Mean of the last row: mean_j R[T-1][j]."""
    return _mean(last_per_task(R))


def overall_performance(R: Matrix) -> float | None:
    """OP of the TRACE paper; the same number as `last`."""
    return last(R)


def learning_accuracy(R: Matrix) -> float | None:
    """Mean of the diagonal, each task right after it was learnt: mean_j R[j][j]."""
    return _mean(learning_accuracy_per_task(R))


def forgetting_max(R: Matrix) -> float | None:
    """Best score since a task was learnt minus its last one: 1/(T-1) sum_{j<T-1} (max_{i>=j} R[i][j] - R[T-1][j])."""
    return _mean(forgetting_max_per_task(R)[:-1])


def forgetting_diag(R: Matrix) -> float | None:
    """Score right after learning minus the last one: 1/(T-1) sum_{j<T-1} (R[j][j] - R[T-1][j])."""
    return _mean(forgetting_diag_per_task(R)[:-1])


def bwt(R: Matrix) -> float | None:
    """Backward transfer, unclipped, divisor T-1: minus `forgetting_diag`."""
    forgetting = forgetting_diag(R)
    return None if forgetting is None else 0.0 - forgetting  # never -0.0


def _changes_since_learnt(R: Matrix) -> list[float | None]:
    num_tasks = _check(R)
    return _differences(R[-1], [R[j][j] for j in range(num_tasks)])


def bwt_trace(R: Matrix) -> float | None:
    """Backward transfer of the TRACE paper, divisor T: 1/T sum_j (R[T-1][j] - R[j][j]). None for T = 1."""
    return _mean(_changes_since_learnt(R)) if len(R) > 1 else None


def bwt_clipped(R: Matrix) -> float | None:
    """Backward transfer of TreeLoRA, gains clipped, divisor T: 1/T sum_j min(R[T-1][j] - R[j][j], 0). None for T = 1.

    The published "Fgt" is its negative.
    """
    if len(R) <= 1:
        return None
    return _mean(None if change is None else min(change, 0.0) for change in _changes_since_learnt(R))


def lower_triangle_mean(R: Matrix) -> float | None:
    """Mean of R[i][j] with j <= i, the "All Average" of TreeLoRA."""
    num_tasks = _check(R)
    return _mean(R[i][j] for i in range(num_tasks) for j in range(i + 1))


METRICS: dict[str, Callable[[Matrix], float | None]] = {
    function.__name__: function
    for function in (
        transfer,
        average,
        last,
        overall_performance,
        learning_accuracy,
        forgetting_max,
        forgetting_diag,
        bwt,
        bwt_trace,
        bwt_clipped,
        lower_triangle_mean,
    )
}


PER_TASK: dict[str, Callable[[Matrix], list[float | None]]] = {
    "transfer": transfer_per_task,
    "average": average_per_task,
    "last": last_per_task,
    "learning_accuracy": learning_accuracy_per_task,
    "forgetting_max": forgetting_max_per_task,
    "forgetting_diag": forgetting_diag_per_task,
}
"""The metrics that are means over tasks, one value per task: what the mean is taken of."""


def all_metrics(R: Matrix) -> dict[str, float | None]:
    """Every metric of this module by its name."""
    return {name: metric(R) for name, metric in METRICS.items()}


def standard_error(score: float, num_examples: int) -> float:
    """Binomial standard error of an accuracy, in points: 100 sqrt(p (1 - p) / n) with p = score / 100."""
    share = score / 100.0
    return 100.0 * math.sqrt(share * (1.0 - share) / num_examples)
