"""Means, errors and paired differences against closed forms; budgets against what training draws."""

import math
import random
from itertools import islice
from types import SimpleNamespace

import pytest

from codyra.compare.measured import Budget, Measured, examples_shown
from codyra.compare.statistics import over_seeds, paired
from codyra.compare.table import NO_STEPS, OTHER_BUDGET, budget_marks
from codyra.engine.config import load_config
from codyra.engine.trainer import batches


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


@pytest.mark.parametrize("train", [{"steps": 7}, {"steps": 23}, {"epochs": 2.2}, {"epochs": 0.5}])
@pytest.mark.parametrize(("number", "size"), [(10, 4), (12, 4), (3, 8), (1, 1)])
def test_examples_shown_are_those_that_training_draws(config, train, number, size):
    resolved = load_config({**config, "train": {**train, "batch_size": size}})
    steps = resolved.num_steps("warm", number)
    drawn = islice(batches(number, size, random.Random(0), resolved.num_epochs("warm")), steps)
    assert examples_shown(resolved, "warm", number, steps) == sum(map(len, drawn))


def test_rows_with_another_budget_and_without_steps_are_marked():
    rows = {
        "zero": [run("zero", 0, 1.0, (0, 0))],
        "a": [run("a", 0, 1.0), run("a", 1, 1.0)],
        "b": [run("b", 0, 1.0), run("b", 1, 1.0, (5, 4))],
        "c": [run("c", 0, 1.0), run("c", 1, 1.0)],
    }
    assert budget_marks(rows) == {"zero": (NO_STEPS,), "b": (OTHER_BUDGET,)}
