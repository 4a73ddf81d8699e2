"""Means, errors and paired differences against closed forms; budgets that are not alike."""

import math
from types import SimpleNamespace

import pytest

from codyra.compare.measured import Budget, Measured
from codyra.compare.statistics import over_seeds, paired
from codyra.compare.table import NO_STEPS, OTHER_BUDGET, budget_marks


def run(label, seed, value, budget=(5, 5)):
    return Measured(label, seed, SimpleNamespace(), Budget(budget, budget, 1), {"last": value})


def test_mean_deviation_and_error():
    found = over_seeds([run("a", seed, value) for seed, value in enumerate((1.0, 2.0, 6.0))], "last")
    assert found.mean == pytest.approx(3.0)
    assert found.std == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert found.error == pytest.approx(math.sqrt(7 / 3))
    alone = over_seeds([run("a", 0, 4.0)], "last")
    assert (alone.mean, alone.std, alone.error, alone.n) == (4.0, None, None, 1)
    assert over_seeds([run("a", 0, 4.0), run("a", 1, None)], "last").mean is None


def test_differences_are_taken_seed_by_seed():
    reference = [run("r", seed, value) for seed, value in ((0, 10.0), (1, 50.0), (2, 90.0))]
    runs = [run("a", seed, value) for seed, value in ((2, 93.0), (1, 52.0), (0, 11.0), (7, 0.0))]
    found = paired(runs, reference, "last")
    assert (found.mean, found.n) == (pytest.approx(2.0), 3)
    assert found.error == pytest.approx(1 / math.sqrt(3)), "what the seeds do to both cancels"
    one = paired(runs[:1], reference, "last")
    assert (one.mean, one.error, one.n) == (3.0, None, 1)
    none = paired(runs[3:], reference, "last")
    assert (none.mean, none.error, none.n) == (None, None, 0)


def test_rows_with_another_budget_and_without_steps_are_marked():
    rows = {
        "zero": [run("zero", 0, 1.0, (0, 0))],
        "a": [run("a", 0, 1.0), run("a", 1, 1.0)],
        "b": [run("b", 0, 1.0), run("b", 1, 1.0, (5, 4))],
        "c": [run("c", 0, 1.0), run("c", 1, 1.0)],
    }
    assert budget_marks(rows) == {"zero": (NO_STEPS,), "b": (OTHER_BUDGET,)}
