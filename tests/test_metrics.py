"""Metrics against a hand-computed matrix, the published matrices, and what must hold for any matrix."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codyra import metrics

GOLDEN = json.loads((Path(__file__).parent / "golden" / "metrics.json").read_text())

# Printed in the papers with one decimal, from more digits than the published matrices carry.
PUBLISHED = {
    "order_1 ZSCL": (68.1, 75.4, 83.6),
    "order_1 Continual fine-tune": (44.6, 55.9, 77.3),
    "order_2 ZSCL": (64.2, 74.5, 83.4),
    "order_2 Continual fine-tune": (46.6, 56.2, 67.4),
}


@pytest.mark.parametrize("name", ["toy_matrix", "toy_lower_triangle"])
def test_hand_computed(name):
    case = GOLDEN[name]
    got = metrics.all_metrics(case["R"])
    for metric, value in case["expected"].items():
        assert got[metric] == pytest.approx(value, abs=5e-5)
    undefined = set(got) - set(case["expected"])
    assert {metric for metric in undefined if got[metric] is not None} == set()


@pytest.mark.parametrize("name", sorted(GOLDEN["zscl"]))
def test_published_matrices(name):
    case = GOLDEN["zscl"][name]
    got = metrics.all_metrics(case["R"])
    assert set(got) == set(case["expected"])
    assert got == pytest.approx(case["expected"], abs=5e-4)
    if name in PUBLISHED:
        assert (got["transfer"], got["average"], got["last"]) == pytest.approx(PUBLISHED[name], abs=0.07)


def test_a_true_zero_counts():
    assert metrics.transfer([[80, 0, 20], [85, 60, 30], [65, 64, 90]]) == 12.5  # 25.0 where zeros are masked


def test_one_task_has_no_transfer_and_no_forgetting():
    got = metrics.all_metrics([[70.0]])
    for name in ("transfer", "forgetting_max", "forgetting_diag", "bwt", "bwt_trace", "bwt_clipped"):
        assert got[name] is None, name
    assert got["average"] == got["last"] == got["learning_accuracy"] == 70.0


@pytest.mark.parametrize("R", [[], [[1.0, 2.0]], [[1.0], [2.0]], [[1.0, 2.0], [3.0]]])
def test_a_matrix_that_is_not_square_is_refused(R):
    with pytest.raises(ValueError, match="square"):
        metrics.average(R)


def square(max_tasks=6):
    score = st.floats(0, 100)
    return st.integers(2, max_tasks).flatmap(
        lambda n: st.lists(st.lists(score, min_size=n, max_size=n), min_size=n, max_size=n)
    )


@given(square())
def test_identities(R):
    before = copy.deepcopy(R)
    got = metrics.all_metrics(R)
    num_tasks = len(R)
    assert before == R  # never modified
    assert got["last"] == got["overall_performance"]
    assert got["bwt"] == -got["forgetting_diag"]
    assert got["bwt_trace"] == pytest.approx(got["bwt"] * (num_tasks - 1) / num_tasks)
    assert got["forgetting_max"] >= got["forgetting_diag"] - 1e-9
    assert got["bwt_clipped"] <= min(0.0, got["bwt_trace"]) + 1e-9


@given(square(), st.floats(-10, 10))
def test_a_constant_shift_moves_means_and_not_differences(R, shift):
    moved = metrics.all_metrics([[value + shift for value in row] for row in R])
    for name, value in metrics.all_metrics(R).items():
        moves = name in (
            "transfer",
            "average",
            "last",
            "overall_performance",
            "learning_accuracy",
            "lower_triangle_mean",
        )
        assert moved[name] == pytest.approx(value + shift * moves, abs=1e-9)


def test_standard_error():
    assert metrics.standard_error(50.0, 100) == pytest.approx(5.0)
    assert metrics.standard_error(100.0, 10) == 0.0
