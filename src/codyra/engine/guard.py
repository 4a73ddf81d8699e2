"""The guard: a candidate is scored on a held-out set before it is committed."""

from collections.abc import Callable
from dataclasses import dataclass

from codyra.engine.config import GuardConfig

ROUNDING = 1e-9
"""Points; two scores in percent that differ by exactly the tolerance may do so by a bit more as floats."""
COARSE, FINE = 16, 256
"""The line search tries multiples of 1/16 from above, then bisects down to 1/256."""


@dataclass(frozen=True)
class Verdict:
    """What the guard found, scores in percent; `factor` is what the update is multiplied by, 0 to 1."""

    before: float
    candidate: float
    after: float
    tolerance: float
    factor: float
    accepted: bool

    @property
    def lost(self) -> float:
        """Points that the candidate as trained would have cost."""
        return self.before - self.candidate


def judge(guard: GuardConfig, before: float, measure: Callable[[float], float]) -> Verdict:
    """Score the candidate and, where the config says so, find the largest part of it that is tolerated.

    Args:
        before: score that the loss is counted from, percent.
        measure: score of the model with this multiple of the candidate, percent.
    """
    measured: dict[float, float] = {}

    def holds(factor: float) -> bool:
        measured[factor] = measure(factor)
        return before - measured[factor] <= guard.tolerance + ROUNDING

    accepted = holds(1.0)
    factor = 1.0
    if not accepted and guard.on_violation == "shrink":
        accepted, factor = True, largest_factor(holds)
    if factor not in measured:
        measured[factor] = measure(factor)
    return Verdict(before, measured[1.0], measured[factor], guard.tolerance, factor, accepted)


def largest_factor(holds: Callable[[float], bool]) -> float:
    """The largest multiple of 1/256 below 1 that holds while the next one does not; 0.0 when none does.

    A score is a step function of the factor and need not fall steadily, so the search comes from above.
    """
    for step in range(COARSE - 1, -1, -1):
        if step == 0 or holds(step / COARSE):
            break
    inside, outside = step * (FINE // COARSE), (step + 1) * (FINE // COARSE)
    while outside - inside > 1:
        middle = (inside + outside) // 2
        if holds(middle / FINE):
            inside = middle
        else:
            outside = middle
    return inside / FINE
