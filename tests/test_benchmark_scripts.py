"""benchmarks/: every timing script runs at its smallest size, prints one table and writes what it measured."""

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.slow,  # models are built, trained and scored
]


@pytest.fixture
def measured(tmp_path, monkeypatch, capsys):
    """Runs a script with these arguments; the figures it wrote and the table it printed."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("CODYRA_CACHE_DIR", str(tmp_path / "cache"))  # scripts set others: put back afterwards
    monkeypatch.setenv("CODYRA_CACHE_GIB", "1")

    def run(script: str, *arguments: str) -> tuple[dict, list[list[str]]]:
        out = tmp_path / f"{script}.json"
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments, "--json", str(out)])
        importlib.import_module(script).main()
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
        header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
        assert all(len(row) == len(header) for row in rows)
        figures = json.loads(out.read_text("utf-8"))
        assert figures["machine"]["versions"]
        return figures, rows

    return run


def test_scoring_opens_every_image_once_and_before_the_first_row(measured):
    figures, rows = measured("score", "--model", "tiny", "--images", "2", "--rows", "3")
    assert figures["prepare"]["opened"] == 20
    assert [row["opened"] for row in figures["rows"]] == [0, 0, 0]
    assert all(0 < row["prompts"] < row["row"] for row in figures["rows"])
    assert [row[0] for row in rows] == ["first", "later"]


@pytest.mark.parametrize("model", ["tiny", "tiny-lm"])
def test_the_parts_of_a_tasks_end_are_measured_beside_a_step(measured, model):
    arguments = ("--model", model, "--tasks", "2", "--rounds", "2", "--batch", "2", "--classes", "3")
    figures, rows = measured("task_end", *arguments, "--tokens", "16")
    assert len(figures["seconds"]) == 2
    assert 0 < figures["kept"] < 16
    assert [row[0] for row in rows][::6] == ["training step", "together"]


def test_codyra_is_measured_beside_lora(measured):
    figures, rows = measured(
        "lm_step", "--model", "tiny", "--tokens", "8", "--rounds", "2", "--targets", "all", "--rank", "4"
    )
    assert [case["precision"] for case in figures["cases"]] == ["float32", "bf16"]
    assert all(set(one) == {"LoRA", "codyra"} for case in figures["cases"] for one in case["seconds"])
    assert all(case["peak_gib"]["codyra"] > 0 for case in figures["cases"])
    assert len(rows) == 2


def test_two_processes_are_measured_beside_one(measured, monkeypatch):
    module = importlib.import_module("processes")
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    for name, small in {"BATCH": 4, "TESTS": 4, "CLASSES": 2, "TOWER": tower}.items():
        monkeypatch.setattr(module, name, small)
    figures, rows = measured("processes", "--rounds", "1")
    assert list(figures["seconds"]) == ["clip, step", "clip, scoring", "llama, step", "llama, scoring"]
    assert all(figures["seconds"][name][0].keys() == set(module.WAYS) for name in figures["seconds"])
    assert len(rows) == 12
    assert all(row[-1] == "1.00 / 1.00 / 1.00" for row in rows[::3])


def test_the_cache_of_test_images_is_measured_beside_decoding(measured):
    figures, rows = measured("image_cache", "--images", "4", "--rounds", "2")
    assert len(figures["seconds_per_1000_images"]) == 2
    assert [row[-1] for row in rows if row[0].startswith("row without cache")] == ["1.0 / 1.0 / 1.0"]


def test_a_sweep_compares_with_its_first_value(measured):
    figures, rows = measured("scale", "--model", "tiny", "--only", "ranks", "--values", "2", "--rounds", "2")
    assert list(figures["ranks"][0]) == ["4", "8"]
    assert rows[0][-1] == "to 4: 1.00 / 1.00 / 1.00"


def test_a_run_of_many_tasks_has_figures_of_each(measured):
    arguments = ("--model", "tiny", "--only", "tasks", "--tasks", "5", "--steps", "4", "--repeats", "2")
    figures, rows = measured("scale", *arguments)
    assert len(figures["tasks"]["tasks"]) == 5
    assert len(figures["tasks"]["alone"]) == 2
    assert all("± " in row[-1] and "noise" in row[-1] for row in rows)


def test_the_slope_of_a_straight_line_is_its_own_with_no_error(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    slope, error = importlib.import_module("scale").slope_of([10.0, 11.0, 12.0, 13.0, 14.0])
    assert slope == pytest.approx(1000 / 12)
    assert error == pytest.approx(0)
