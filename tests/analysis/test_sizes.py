"""Ranks, sizes and drift: the same figures that the run has, and the bound."""

import csv
import json
import math
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from codyra.analysis.sizes import analyse
from codyra.engine.run import Run
from codyra.errors import UserError
from engine.faults import contents


def rows(file):
    return list(csv.DictReader(file.read_text().splitlines()))


@pytest.mark.parametrize("name", ["codyra", "cumulative", "full", "zero_shot"])
def test_figures_are_those_of_the_run(runs, tmp_path, name):
    before = contents(runs[name])
    tasks, folder = analyse(runs[name], tmp_path / "out")
    run = Run(runs[name])
    assert [task.norm for task in tasks] == [update.norm() for update in run.updates]
    if name != "cumulative":  # whose metrics.json says what each task changed of the adapter
        assert [task.norm for task in tasks] == run.metrics["update_norm"]
    assert [task.drift for task in tasks] == run.metrics["drift"]
    assert [task.mean_rank for task in tasks] == run.metrics["mean_rank"]
    for task, update in zip(tasks, run.updates, strict=True):
        assert {module.module: module.norm for module in task.modules} == update.norms
        assert {m.module: m.rank for m in task.modules if m.rank is not None} == update.ranks
        assert math.fsum(module.norm**2 for module in task.modules) == pytest.approx(task.norm**2)
    table = rows(folder / "drift.csv")
    assert [float(row["drift"]) for row in table] == run.metrics["drift"]
    assert (
        (folder / "ranks.csv").exists()
        is (folder / "rank-heatmap.svg").exists()
        is bool(run.updates[0].ranks)
    )
    assert contents(runs[name]) == before


@pytest.mark.parametrize("name", ["codyra", "cumulative"])
def test_the_bound_holds_and_is_met_by_one_rank(runs, tmp_path, name):
    tasks, folder = analyse(runs[name], tmp_path / "out")
    assert any(module.rank == 0 for task in tasks for module in task.modules) is (name == "codyra")
    for task in tasks:
        assert task.norm <= task.bound * (1 + 1e-9)
        for module in task.modules:
            assert module.norm <= module.bound * (1 + 1e-9)
            if module.rank == 0:
                assert module.norm == module.bound == 0
            if module.rank == 1:
                assert module.norm == pytest.approx(module.bound)
    for row in rows(folder / "magnitude.csv"):
        product = math.sqrt(int(row["rank"])) * float(row["B_norm"]) * float(row["A_norm"])
        assert float(row["norm"]) <= product * (1 + 1e-9)


def test_whole_weights_have_a_size_and_no_rank(runs, tmp_path):
    tasks, folder = analyse(runs["full"], tmp_path / "out")
    assert all(task.norm > 0 and task.bound is None and task.mean_rank is None for task in tasks)
    for row in rows(folder / "magnitude.csv"):
        assert row["rank"] == row["bound"] == row["A_norm"] == ""
        assert float(row["norm"]) >= 0


def test_the_default_place_is_beside_the_run_whatever_it_is_called(runs, tmp_path, monkeypatch):
    run = shutil.copytree(runs["codyra"], tmp_path / "run")
    before = contents(run)
    for inside, word in ((run, "."), (run / "tasks", ".."), (tmp_path, "run/")):
        monkeypatch.chdir(inside)
        assert analyse(Path(word))[1].resolve() == tmp_path / "run-analysis"
    assert contents(run) == before


def test_an_unfinished_run_has_the_tasks_it_has_learnt(runs, tmp_path):
    run = shutil.copytree(runs["codyra"], tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "status": "unfinished"}))
    shutil.rmtree(run / "tasks/03-plain")
    (run / "metrics.json").unlink()
    for name in ("accuracy.csv", "accuracy_task.csv"):
        lines = (run / name).read_text().splitlines()
        (run / name).write_text("\n".join(lines[:3]) + "\n")
    tasks, folder = analyse(run)
    assert folder == tmp_path / "run-analysis"
    assert [task.task for task in tasks] == ["warm", "cool"]
    ElementTree.parse(folder / "drift.svg")
    shutil.rmtree(run / "tasks/01-warm")
    with pytest.raises(UserError, match="no task is learnt yet"):
        analyse(run)
    with pytest.raises(UserError, match="lies in the run folder"):
        analyse(runs["codyra"], runs["codyra"] / "analysis")
