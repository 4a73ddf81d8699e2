"""Means over seeds with their errors, and differences between methods on the same seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from codyra.compare.measured import Measured
from codyra.report.seeds import spread


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds; `std` is the sample standard deviation (divisor n - 1), None for one seed."""

    mean: float | None
    std: float | None
    n: int

    @property
    def error(self) -> float | None:
        """Standard error of the mean: std / sqrt(n)."""
        return None if self.std is None else self.std / math.sqrt(self.n)


def over_seeds(runs: Sequence[Measured], figure: str) -> Estimate:
    """Mean and spread of one figure of the runs of a method; the mean is None where a run has no such figure."""
    values = [run.figures[figure] for run in runs]
    return Estimate(*spread(values), len(values))


def paired(runs: Sequence[Measured], reference: Sequence[Measured], figure: str) -> Estimate:
    """Mean over the seeds that both have of (method - reference), and the spread of these differences.

    Runs of one seed share shots, batches and crops, so that what a seed does to both cancels.
    """
    theirs = {run.seed: run.figures[figure] for run in reference}
    differences: list[float | None] = []
    for run in runs:
        if run.seed in theirs:
            own, other = run.figures[figure], theirs[run.seed]
            differences.append(None if own is None or other is None else own - other)
    return Estimate(*spread(differences), len(differences))
