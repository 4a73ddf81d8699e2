"""The probe: its points are ordinary runs, and it goes on where it was stopped."""

import csv
import json
import math
import shutil

import pytest

import codyra
from codyra import files
from codyra.analysis import probe as module
from codyra.analysis.probe import probe
from codyra.engine.progress import Narrator
from codyra.errors import UserError
from conftest import colour_tasks
from engine.faults import FaultyFiles, Killed
from families.tiny_encoders import save_bert

QUIET = Narrator(quiet=True)
SMALL = {"ranks": [2], "placements": ["attention", "vision"], "narrator": QUIET}


def everything(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="session")
def whole(stream, tmp_path_factory):
    """A probe that was not disturbed, and its folder."""
    return probe(stream, tmp_path_factory.mktemp("whole") / "probe", **SMALL)


@pytest.mark.parametrize("task", ["warm", pytest.param("cool", marks=pytest.mark.slow)])
def test_a_point_is_what_a_run_of_lora_scores_after_its_first_task(stream, whole, pictures, tmp_path, task):
    found = whole[0]
    if task != "warm":
        found, _ = probe(stream, tmp_path / "probe", task=task, **SMALL)
    tasks = sorted(colour_tasks(pictures), key=lambda one: one["name"] != task)
    lora = {"name": "lora", "r": 2, "targets": "attention"}
    run = codyra.run({**stream, "method": lora, "stream": {"tasks": tasks}}, tmp_path / "run", narrator=QUIET)
    (point,) = [point for point in found.points if (point.placement, point.rank) == ("attention", 2)]
    assert list(found.zero_shot.accuracy.values()) == run.zero_shot
    assert list(point.accuracy.values()) == run.accuracy[0]
    assert point.update_norm == run.metrics["update_norm"][0]
    assert point.trainable_parameters == run.metrics["trainable_parameters"]
    assert found.adaptation(point) == run.accuracy[0][0] - run.zero_shot[0]
    assert found.retention(point) == sum(run.accuracy[0][1:]) / 2


def test_the_table_has_every_point_in_full_precision(whole):
    found, folder = whole
    rows = list(csv.DictReader((folder / "probe.csv").read_text().splitlines()))
    assert [(row["placement"], row["rank"]) for row in rows] == [
        ("zero-shot", "0"),
        ("attention", "2"),
        ("vision", "2"),
    ]
    for row, point in zip(rows, [found.zero_shot, *found.points], strict=True):
        assert float(row["update_norm"]) == point.update_norm
        assert float(row["adaptation"]) == found.adaptation(point)
        assert float(row["retention_change"]) == found.retention_change(point)
        assert math.isclose(float(row["retention"]), found.retention(point))


@pytest.mark.parametrize(
    ("at", "mode"), [pytest.param(0, "killed after", marks=pytest.mark.slow), (2, "truncated"), (5, "failed")]
)
def test_stopped_and_continued_is_the_same_probe(stream, whole, tmp_path, monkeypatch, at, mode):
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", FaultyFiles(at, mode))
        with pytest.raises((Killed, UserError)):
            probe(stream, tmp_path / "probe", **SMALL)
    probe(stream, tmp_path / "probe", **SMALL)
    assert everything(tmp_path / "probe") == everything(whole[1])


def test_what_was_measured_is_not_measured_again(stream, whole, tmp_path, monkeypatch):
    folder = shutil.copytree(whole[1], tmp_path / "probe")
    learnt = []
    real = module.learn_task

    def learn_task(plan, *rest, **named):
        learnt.append(plan.config.method.r)
        return real(plan, *rest, **named)

    monkeypatch.setattr(module, "learn_task", learn_task)
    found, _ = probe(stream, folder, ranks=[4, 2, 2], placements=["vision"], narrator=QUIET)
    assert learnt == [4]
    assert [point.rank for point in found.points] == [2, 4]
    assert found.points[0] == whole[0].points[-1]
    # Where the data lie, and how the method in their place was set, is no matter to a probe.
    probe(stream, folder, overrides=["method.name=lora", "method.targets=text", "guard=null"], **SMALL)
    assert learnt == [4]


def test_another_config_is_refused_before_the_model_is_loaded(stream, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "make_plan", None)
    before = everything(whole[1])
    for options, words in (
        ({"overrides": ["train.steps=5"]}, "train.steps is 4 there, 5 here"),
        ({"task": "cool"}, "task is 'warm' there, 'cool' here"),
    ):
        with pytest.raises(UserError, match=words):
            probe(stream, whole[1], **SMALL, **options)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is no folder of an analysis"):
        probe(stream, tmp_path, **SMALL)
    assert everything(whole[1]) == before
    assert everything(tmp_path) == {"notes.txt": b"mine"}


def test_other_data_are_refused(stream, whole, pictures, tmp_path):
    moved = shutil.copytree(pictures, tmp_path / "pictures")
    (moved / "cool/test/blue/0.png").unlink()
    folder = shutil.copytree(whole[1], tmp_path / "probe")
    with pytest.raises(UserError, match="holds another analysis"):
        probe({**stream, "stream": {"tasks": colour_tasks(moved)}}, folder, **SMALL)


def test_placements_that_a_model_has_not_are_left_out(tmp_path, capsys):
    tasks = []
    for name, classes in (("pets", "cat dog"), ("tones", "red blue")):
        (tmp_path / name).mkdir()
        for split in ("train", "test"):
            rows = [f"a {label},{label}" for label in classes.split()]
            (tmp_path / name / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
        tasks.append({"name": name, "data": f"csv:{tmp_path / name}"})
    config = {
        "model": {"name": str(save_bert(tmp_path / "bert"))},
        "method": {"name": "zero_shot"},
        "train": {"steps": 1, "batch_size": 2},
        "stream": {"tasks": tasks},
    }
    found, _ = probe(config, tmp_path / "probe", ranks=[1])
    assert [point.placement for point in found.points] == ["attention", "mlp", "text"]
    said = capsys.readouterr().out
    assert "vision is left out: this model has no vision tower" in said
    assert "all is left out: in this model it is the same layers as text" in said
    with pytest.raises(UserError, match="has none of these"):
        probe(config, tmp_path / "none", ranks=[1], placements=["vision"], narrator=QUIET)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "colt"}, "the stream has no task 'colt', did you mean 'cool'"),
        ({"placements": ["atention"]}, "there is no 'atention', did you mean 'attention'"),
        ({"ranks": [5000]}, "method.r: "),
        ({"overrides": ["stream.only=[cool]"]}, "the stream has one task, cool"),
    ],
)
def test_refusals_come_before_anything_is_written(stream, tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        probe(stream, tmp_path / "probe", narrator=QUIET, **options)
    assert not (tmp_path / "probe").exists()


@pytest.mark.parametrize(
    "content", ["", "[]", '{"placement": "vision"}', '{"accuracy": {"warm": 1e999}}', None]
)
def test_a_damaged_measurement_is_one_line(stream, whole, tmp_path, content):
    folder = shutil.copytree(whole[1], tmp_path / "probe")
    file = folder / "measured/vision-r2.json"
    if content is None:
        content = json.dumps({**json.loads(file.read_text()), "accuracy": {"warm": 50.0}})
    file.write_text(content)
    with pytest.raises(UserError, match=r"vision-r2\.json is damaged"):
        probe(stream, folder, **SMALL)
