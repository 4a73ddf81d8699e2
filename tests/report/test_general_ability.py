"""The rows of harness.json and their part of the page."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from codyra.engine.folder_reader import HarnessResult, HarnessScore, HarnessState, read_run
from codyra.report import render
from codyra.report.general_ability import ability_rows, settings, written
from codyra.report.numbers import DASH, MINUS


def result(*values: float | None, error: float | None = 0.03, **options) -> HarnessResult:
    """One metric, scored at the base model and after task 1, 2, ..."""
    states = tuple(
        HarnessState(after, {"acc": HarnessScore(value, error)}) for after, value in enumerate(values)
    )
    fields = {"task": "piqa", "version": "1.0", "harness": "0.4.13", "fingerprint": "ab", "examples": 100}
    fields |= {"num_fewshot": None, "limit": None, "higher_is_better": {"acc": True}}
    return HarnessResult(**(fields | options), states=states)


def test_the_change_is_from_the_first_to_the_last_state():
    (row,) = ability_rows([result(0.5, 0.2, 0.46, error=0.03)])
    assert row.change.value == pytest.approx(-0.04)
    assert row.change.standard_error == pytest.approx(0.03 * 2**0.5)
    assert (row.metric, row.direction) == ("acc", "↑")


@pytest.mark.parametrize("values", [(0.5,), (None, 0.5), (0.5, None)])
def test_no_change_without_two_figures(values):
    assert ability_rows([result(*values)])[0].change is None


def test_a_standard_error_that_is_not_known_stays_unknown():
    (row,) = ability_rows([result(0.5, 0.6, error=None)])
    assert written(row.change, "+") == "+0.1000"


def test_numbers_as_people_read_them():
    assert written(HarnessScore(0.5, 0.0123)) == "0.5000 ± 0.0123"
    assert written(HarnessScore(-0.25, None), "+") == f"{MINUS}0.2500"
    assert written(HarnessScore(None, None)) == written(None) == DASH
    assert settings(result(0.5)) == "100 examples"
    assert settings(result(0.5, num_fewshot=5, limit=100)) == "5-shot, first 100 examples"


def test_page(new_run: Callable[..., Path]):
    folder = new_run("codyra")
    assert "General ability" not in render([read_run(folder)])
    states = [
        {"after": 0, "scores": {"acc": {"value": 0.5, "standard_error": 0.05}}},
        {"after": 5, "scores": {"acc": {"value": 0.375, "standard_error": None}}},
    ]
    entry = vars(result(0.0)) | {"task": "<b>piqa", "states": states}
    (folder / "harness.json").write_text(json.dumps([entry]))
    page = render([read_run(folder)])
    assert "General ability" in page
    assert "&lt;b&gt;piqa" in page
    assert "after 5 (road signs)" in page
    assert f"{MINUS}0.1250" in page
