"""Taking updates out: what is left is what one gets by never having put them in."""

import csv
import json
import math
import shutil
from dataclasses import replace

import pytest

from codyra import files
from codyra.analysis import ablation as module
from codyra.analysis.ablation import ablate, units_of
from codyra.engine import results
from codyra.engine.folder import RunFolder
from codyra.engine.plan import make_plan
from codyra.engine.progress import Narrator
from codyra.engine.run import Run
from codyra.errors import UserError
from codyra.update import compose, write_weights
from conftest import TASKS
from engine.faults import FaultyFiles, Killed, contents

QUIET = Narrator(quiet=True)


@pytest.fixture(scope="session")
def whole(runs, tmp_path_factory):
    """The ablation of the first two tasks of the codyra run, which was not disturbed, and its folder."""
    return ablate(runs["codyra"], tmp_path_factory.mktemp("ablation") / "out", after=2, narrator=QUIET)


def test_a_state_is_the_run_without_these_factors(runs, whole):
    found, _ = whole
    plan = make_plan(RunFolder(runs["codyra"]).stored_config(), {}, QUIET)
    updates = Run(runs["codyra"]).updates[:2]
    checked = 0
    for unit, state in found.without[:: max(1, len(found.without) // 6)]:
        gone = {name.removesuffix(".weight") for name in unit.parameters}
        left = [
            replace(
                update,
                factors={name: pair for name, pair in update.factors.items() if name not in gone},
                ranks={name: 0 if name in gone else kept for name, kept in update.ranks.items()},
            )
            for update in updates
        ]
        write_weights(plan.family.net, compose(plan.family.net, plan.base, left))
        assert list(state.accuracy.values()) == results.cells(plan.family.score(plan.tasks), "all")
        assert state.held_out == plan.family.score([plan.guard_task])[0].percent("task")
        checked += 1
    assert checked > 4


def test_nothing_out_is_the_run_and_everything_out_is_where_it_began(runs, whole):
    found, run = whole[0], Run(runs["codyra"])
    unit, bare = found.without[-1]
    assert unit.by == "model"
    assert list(found.whole.accuracy.values()) == run.accuracy[1]
    assert list(bare.accuracy.values()) == run.zero_shot
    assert bare.update_norm == pytest.approx(run.metrics["drift"][1], rel=1e-6)
    folder = RunFolder(runs["codyra"])
    assert found.whole.held_out == folder.read_figure("tasks/02-cool/guard.json", "after")
    assert bare.held_out == folder.read_figure("guard.json", "score")


@pytest.mark.parametrize("name", ["codyra", "cumulative", "full"])
def test_kinds_and_layers_share_out_the_whole_update(runs, whole, tmp_path, name):
    found, _ = whole if name == "codyra" else ablate(runs[name], tmp_path / "out", narrator=QUIET)
    squares = {
        by: math.fsum(state.update_norm**2 for unit, state in found.without if unit.by == by)
        for by in ("kind", "layer", "model")
    }
    assert squares["kind"] == pytest.approx(squares["model"])
    if name == "full":  # embeddings and the last norms are in no layer
        assert 0 < squares["layer"] < squares["model"]
    else:
        assert squares["layer"] == pytest.approx(squares["model"])


def test_a_kind_without_a_surviving_rank_changes_nothing(runs, whole):
    kept = {}
    for update in Run(runs["codyra"]).updates[:2]:
        for name, rank in update.ranks.items():
            kept[f"{name}.weight"] = kept.get(f"{name}.weight", 0) + rank
    empty = [
        (unit, state) for unit, state in whole[0].without if not any(kept[name] for name in unit.parameters)
    ]
    assert empty
    for _, state in empty:
        assert state == replace(whole[0].whole, update_norm=0.0)


def test_retention_is_of_what_is_not_learnt_yet(runs, whole, tmp_path):
    found, folder = whole
    scores = list(found.whole.accuracy.values())
    assert found.adaptation(found.whole) == sum(scores[:2]) / 2
    assert found.retention(found.whole) == scores[2]
    rows = list(csv.DictReader((folder / "ablate.csv").read_text().splitlines()))
    assert [row["removed"] for row in rows[1:]] == [unit.name for unit, _ in found.without]
    for row, (_, state) in zip(rows[1:], found.without, strict=True):
        assert float(row["adaptation_change"]) == found.adaptation(state) - found.adaptation(found.whole)
        assert float(row["retention"]) == found.retention(state)
        assert float(row["held_out"]) == state.held_out
    complete, place = ablate(runs["full"], tmp_path / "out", by="layer", narrator=QUIET)
    assert complete.retention(complete.whole) is None
    assert {unit.by for unit, _ in complete.without} == {"layer", "model"}
    assert "retention" not in (place / "ablate.svg").read_text()
    for row in csv.DictReader((place / "ablate.csv").read_text().splitlines()):
        assert row["retention"] == row["retention_change"] == ""


@pytest.mark.parametrize(
    ("at", "mode"), [(3, "truncated"), pytest.param(9, "killed after", marks=pytest.mark.slow)]
)
def test_stopped_and_continued_is_the_same_and_scores_nothing_twice(
    runs, whole, tmp_path, monkeypatch, at, mode
):
    place = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", FaultyFiles(at, mode))
        with pytest.raises(Killed):
            ablate(runs["codyra"], place, after=2, narrator=QUIET)
    ablate(runs["codyra"], place, after=2, narrator=QUIET)
    assert contents(place) == contents(whole[1])
    monkeypatch.setattr(module, "accuracy", None)
    ablate(runs["codyra"], place, after=2, by="kind", narrator=QUIET)


def test_the_run_is_only_read(runs, tmp_path):
    run = shutil.copytree(runs["codyra"], tmp_path / "run")
    before = contents(run)
    _, place = ablate(run, by="layer", after=1, narrator=QUIET)
    assert place == tmp_path / "run-ablation-after-1"
    assert contents(run) == before
    for inside in (run, run / "ablation", tmp_path / "x/../run/deep"):
        with pytest.raises(UserError, match="lies in the run folder"):
            ablate(run, inside, narrator=QUIET)
    assert contents(run) == before


def test_refusals(runs, whole, tmp_path):
    for run, options, words in (
        ("zero_shot", {}, "changed nothing"),
        ("codyra", {"after": 4}, "task 4 is not learnt"),
        ("codyra", {"after": 0}, "no updates to take out"),
    ):
        with pytest.raises(UserError, match=words):
            ablate(runs[run], tmp_path / "out", narrator=QUIET, **options)
    with pytest.raises(UserError, match=r"after is 2 there, 1 here"):
        ablate(runs["codyra"], whole[1], after=1, narrator=QUIET)
    with pytest.raises(UserError, match="is no run folder"):
        ablate(tmp_path, narrator=QUIET)
    assert not (tmp_path / "out").exists()


def test_changed_data_and_adapters_are_refused(runs, pictures, tmp_path):
    moved = shutil.copytree(pictures, tmp_path / "pictures")
    run = shutil.copytree(runs["codyra"], tmp_path / "run")
    config = (run / "config.yaml").read_text().replace(str(pictures), str(moved))
    (run / "config.yaml").write_text(config)
    (moved / "warm/test/red/0.png").unlink()
    with pytest.raises(UserError, match="the data of task warm"):
        ablate(run, tmp_path / "out", narrator=QUIET)
    assert not (tmp_path / "out").exists()
    run = shutil.copytree(runs["codyra"], tmp_path / "other")
    file = run / "tasks/01-warm/ranks.json"
    table = json.loads(file.read_text())
    file.write_text(json.dumps(table))
    with pytest.raises(UserError, match="its checksum is not"):
        ablate(run, tmp_path / "out2", narrator=QUIET)


def test_units_of_a_tower_of_whole_weights():
    names = [
        "embed.weight",
        "blocks.0.attn.q.weight",
        "blocks.0.attn.q.bias",
        "blocks.1.attn.q.weight",
        "blocks.1.norm.weight",
    ]
    units = {(unit.by, unit.name): unit for unit in units_of(names, "both")}
    assert units["kind", "q"].parameters == (names[1], names[2], names[3])
    assert units["kind", "q"].num_modules == 2
    assert units["layer", "layer 1"].parameters == (names[3], names[4])
    assert units["kind", "embed"].parameters == ("embed.weight",)
    assert units["model", "all updates"].num_modules == 4
    assert [unit.by for unit in units_of(names, "kind")] == ["kind"] * 3 + ["model"]


def test_a_label_space_with_tasks_taken_back_is_said(runs, tmp_path, capsys):
    from codyra.history.revert import revert

    run = shutil.copytree(runs["codyra"], tmp_path / "run")
    revert(run, 1)
    found, _ = ablate(run, by="layer")
    assert list(found.whole.accuracy) == list(TASKS)[:1]
    if list(found.whole.accuracy.values()) != Run(run).accuracy[0]:
        assert "differs from accuracy.csv" in capsys.readouterr().out
