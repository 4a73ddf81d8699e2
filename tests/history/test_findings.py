"""What people who tried to break the history commands found."""

import json
import shutil

import pytest
import yaml

from codyra.engine.progress import Narrator
from codyra.engine.run import run
from codyra.history.verify import verify
from conftest import TASKS
from engine.faults import contents, reseal

QUIET = Narrator(quiet=True)


@pytest.fixture
def copied(runs, tmp_path):
    return shutil.copytree(runs["codyra"], tmp_path / "run")


def refused(command, *arguments):
    code, _, err = command(*arguments)
    assert (code, err.count("\n")) == (2, 1), err
    return err


@pytest.mark.parametrize("link", ["archive", "archive/01", "samples", "tasks"])
def test_nothing_is_written_through_a_link_out_of_the_run(copied, tmp_path, command, link):
    outside = tmp_path / "outside"
    if link in ("samples", "tasks"):
        shutil.move(copied / link, outside)
    else:
        outside.mkdir()
        (copied / link).parent.mkdir(exist_ok=True)
    (copied / link).symlink_to(outside)
    before = contents(outside)
    assert "lies outside" in refused(command, "revert", copied, "--to", 1)
    assert contents(outside) == before
    assert not (copied / "pending.json").exists()


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("zero_shot.json", {"correct_task": {}}),
        ("zero_shot.json", {"correct": 10**29}),
        ("tasks/01-warm/scores.json", {"examples": "many"}),
        ("tasks/01-warm/scores.json", {"correct": -1}),
        ("tasks/01-warm/scores.json", {"examples": 0}),
    ],
)
def test_crafted_scores_are_one_line_and_nothing_is_moved(copied, command, file, change):
    content = json.loads((copied / file).read_text())
    content["tasks"][0] |= change
    (copied / file).write_text(json.dumps(content))
    reseal(copied)
    before = contents(copied)
    assert file in refused(command, "revert", copied, "--to", 1)
    assert contents(copied) == before
    assert file in command("verify", copied)[1]


@pytest.mark.parametrize("among", [[{}], [-1], 3, ["other"]])
def test_a_crafted_label_space_is_one_line(copied, command, among):
    content = json.loads((copied / "zero_shot.json").read_text())
    (copied / "zero_shot.json").write_text(json.dumps({**content, "among": among}))
    reseal(copied)
    code, out, err = command("verify", copied)
    assert (code, err.count("\n")) == (2, 1)
    assert "zero_shot.json is damaged" in out


def test_an_adapter_that_peft_cannot_load_is_a_finding(copied):
    file = copied / "tasks/02-cool/adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "bias": "strange"}))
    reseal(copied)
    assert any("tasks/02-cool" in finding.text for finding in verify(copied) if finding.ok is False)


def test_far_beyond_the_last_task_is_one_line_at_once(copied, tmp_path, command):
    assert "learnt so far" in refused(command, "checkout", copied, "--after", 10**40, "--out", tmp_path / "x")


def test_strange_places_are_one_line(copied, checkouts, tmp_path, command):
    assert "choose another --out" in refused(command, "checkout", copied, "--out", "/")
    assert "there is no such file" in refused(command, "predict", checkouts["codyra"], "a long text " * 100)


def test_a_checkout_without_safetensors_is_not_read(checkouts, tmp_path, command):
    folder = shutil.copytree(checkouts["codyra"], tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "has no model.safetensors" in refused(command, "predict", folder, "x.png")


@pytest.mark.parametrize(
    ("key", "value"), [("image_mean", ["x", 0, 0]), ("rescale_factor", "x"), ("size", {"shortest_edge": {}})]
)
def test_a_crafted_processor_is_one_line(checkouts, pictures, tmp_path, command, key, value):
    folder = shutil.copytree(checkouts["codyra"], tmp_path / "model")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    refused(command, "predict", folder, next(pictures.glob("warm/test/*/*.png")))


def test_append_says_what_it_will_not_do(copied, tmp_path, command):
    more = tmp_path / "more.yaml"
    task = {"name": "new", "data": "imagefolder:x"}
    for content, words in (
        ({"stream": {"only": ["new"], "tasks": [task]}}, "stream.only"),
        ({"method": {"name": "lora"}, "stream": {"tasks": [task]}}, "method.name is codyra there, lora here"),
        (
            {"guard": {"data": "imagefolder:x", "tolerance": 1}, "stream": {"tasks": [task]}},
            "guard is None there, set",
        ),
    ):
        more.write_text(yaml.safe_dump(content))
        assert words in refused(command, "append", copied, "--config", more)


def test_the_planned_config_of_a_run_that_grew_is_told_how_to_go_on(config, tmp_path, command):
    config["train"]["steps"] = 4
    tasks = config["stream"]["tasks"]
    first, more, out = tmp_path / "first.yaml", tmp_path / "more.yaml", tmp_path / "run"
    first.write_text(yaml.safe_dump({**config, "stream": {"tasks": tasks[:1]}}))
    more.write_text(yaml.safe_dump({"stream": {"tasks": tasks[1:2]}}))
    run(first, out, narrator=QUIET)
    assert command("append", out, "--config", more)[0] == 0
    line = refused(command, "run", first, "--out", out)
    assert "stream.tasks has 2 entries there, 1 here" in line
    assert f"codyra run {out / 'config.yaml'} --out {out}" in line
    # What is taken back takes its thumbnails along, so that the rest is the run it would have been.
    assert command("revert", out, "--to", 1)[0] == 0
    assert sorted(file.name[:2] for file in (out / "samples").iterdir()) == ["01", "01"]
    assert sorted(file.name[:2] for file in (out / "archive/02/samples").iterdir()) == ["02", "02"]
    assert list(TASKS)[1] in json.loads((out / "archive/02/manifest.json").read_text())["scored_among"]
