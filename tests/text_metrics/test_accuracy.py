"""Right or wrong, as the benchmark's authors count it: the table of the protocol, and what must always hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codyra.text_metrics import accuracy, accuracy_prefix, letter, letter_accuracy

GOLDEN = [  # prediction, target, exact, prefix
    ("A", "A", 1, 1),
    (" A\n", "A", 1, 1),
    (" A. because", "A", 0, 1),
    ("Answer: A", "A", 0, 1),
    ("60", "6", 0, 1),
    ("6", "60", 0, 0),
    ("6.0", "6", 0, 1),
    ("june", "June", 0, 0),
    ("", "A", 0, 0),
    (" \n", "", 0, 0),
    ("yes", "yes\n", 1, 1),
]


@pytest.mark.parametrize(("prediction", "target", "exact", "prefix"), GOLDEN)
def test_golden(prediction, target, exact, prefix):
    assert accuracy(prediction, target) == 100.0 * exact
    assert accuracy_prefix(prediction, target) == 100.0 * prefix


@pytest.mark.parametrize(
    ("text", "first"), [("A\nBecause ...", "A"), ("  B", "B"), ("", "N/A"), ("\n", "N/A")]
)
def test_letter(text, first):
    assert letter(text) == first


@pytest.mark.parametrize(
    ("prediction", "target", "right"),
    [
        ("A", "A\nIt falls.", 1),
        ("\nC. Iron", "C\n", 1),
        ("b", "B", 0),
        ("", "A", 0),
        ("", "", 0),
        ("N/A", "", 0),
    ],
)
def test_letter_accuracy(prediction, target, right):
    assert letter_accuracy(prediction, target) == 100.0 * right


@given(st.text(), st.text())
def test_exact_implies_prefix_and_letter(prediction, target):
    assert accuracy(prediction, target) <= accuracy_prefix(prediction, target)
    assert accuracy(prediction, target) <= letter_accuracy(prediction, target)
    assert accuracy(target, target) == (100.0 if target.strip() else 0.0)
