"""Append and revert: a run that grew, shrank and grew again is the run that was planned so from the start."""

import json
import shutil
from functools import partial

import pytest
import yaml

from codyra import files
from codyra.engine.folder_reader import read_run
from codyra.engine.progress import Narrator
from codyra.engine.run import run
from codyra.errors import UserError
from codyra.history.append import append
from codyra.history.revert import revert
from conftest import TASKS
from engine.faults import FaultyFiles, Killed, contents

QUIET = Narrator(quiet=True)


def figures(folder):
    """Everything that a run over the same tasks must have, whatever happened on the way to it."""
    return {name: content for name, content in contents(folder).items() if not name.startswith("archive/")}


def write(path, content):
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def stream(config, tmp_path):
    """Config files: `whole` of all tasks, `first` of the first two, `more` with the third one alone."""
    config["train"]["steps"] = 6
    tasks = config["stream"]["tasks"]
    return {
        "whole": write(tmp_path / "whole.yaml", {"name": "s", **config}),
        "first": write(tmp_path / "first.yaml", {"name": "s", **config, "stream": {"tasks": tasks[:2]}}),
        "more": write(tmp_path / "more.yaml", {"stream": {"tasks": tasks[2:]}}),
    }


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["method.name=lora"],
        ["method.name=lora", "method.carry=continue"],
        ["method.name=gpm", "method.r=2"],
        ["method.name=ewc", "method.r=2"],
    ],
)
def test_appended_is_the_same_as_planned(stream, tmp_path, overrides):
    whole = run(stream["whole"], tmp_path / "whole", overrides=overrides, narrator=QUIET).folder
    folder = run(stream["first"], tmp_path / "run", overrides=overrides, narrator=QUIET).folder
    before = contents(folder)
    grown = append(folder, stream["more"], QUIET)
    assert figures(folder) == contents(whole)
    assert grown.task_names == list(TASKS)
    for name in ("accuracy.csv", "metrics.json", "config.yaml", "tasks/02-cool/scores.json"):
        assert (folder / "archive/01" / name).read_bytes() == before[name]
    assert append(folder, stream["more"], QUIET).metrics == grown.metrics, (
        "the same tasks are not learnt twice"
    )


def test_nothing_is_appended_where_the_number_of_tasks_had_to_be_known(stream, tmp_path):
    overrides = ["method.name=inflora", "method.r=2"]
    folder = run(stream["first"], tmp_path / "run", overrides=overrides, narrator=QUIET).folder
    before = contents(folder)
    with pytest.raises(UserError, match=r"inflora shares out its room among .* which was 2; give all tasks"):
        append(folder, stream["more"], QUIET)
    assert contents(folder) == before


def test_what_a_partial_stream_left_out_can_be_appended(stream, tmp_path):
    names = list(TASKS)
    chosen = ["stream.only=[" + ",".join(names[:2]) + "]"]
    folder = run(stream["whole"], tmp_path / "run", overrides=chosen, narrator=QUIET).folder
    assert append(folder, stream["more"], QUIET).task_names == names
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["stream"]["only"] == [task["name"] for task in config["stream"]["tasks"]] == names
    whole = run(stream["whole"], tmp_path / "whole", narrator=QUIET).folder
    assert (folder / "accuracy.csv").read_bytes() == (whole / "accuracy.csv").read_bytes()


def test_reverted_and_appended_is_the_same_again(stream, tmp_path):
    folder = run(stream["whole"], tmp_path / "run", narrator=QUIET).folder
    whole = contents(folder)
    archive = revert(folder, 2)
    view = read_run(folder)
    assert view.accuracy.tasks == ("warm", "cool")
    assert view.finished
    assert view.manifest.status == "finished"
    assert view.manifest.scored_among == tuple(TASKS), (
        "scores were taken among the classes of the third task too"
    )
    rows = [line.split(",")[:3] for line in whole["accuracy.csv"].decode().splitlines()][:4]
    assert [line.split(",") for line in (folder / "accuracy.csv").read_text().splitlines()] == rows
    for name, content in whole.items():
        if name.startswith("tasks/03-plain/"):
            assert (archive / name).read_bytes() == content, "nothing is deleted"
            assert not (folder / name).exists()
    append(folder, stream["more"], QUIET)
    assert figures(folder) == whole


def test_a_reverted_run_takes_other_tasks(stream, config, pictures, tmp_path):
    folder = run(stream["whole"], tmp_path / "run", narrator=QUIET).folder
    revert(folder, 1)
    other = {"name": "other", "data": f"imagefolder:{pictures / 'plain'}", "shots": 2}
    more = write(tmp_path / "other.yaml", {"stream": {"tasks": [other]}})
    assert append(folder, more, QUIET).task_names == ["warm", "other"]
    archived = json.loads((folder / "manifest.json").read_text())["archive"]
    assert [entry["reason"] for entry in archived] == ["revert", "append"]
    assert (folder / "archive/01/tasks/02-cool/ranks.json").is_file()


def test_relative_places_of_an_appended_task_start_at_its_file(stream, config, pictures, tmp_path):
    folder = run(stream["first"], tmp_path / "run", narrator=QUIET).folder
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "pictures").symlink_to(pictures)
    tasks = [
        {"name": "one", "data": "imagefolder:pictures/plain", "shots": 1},
        {"name": "two", "data": "imagefolder:${data_dir}/warm", "shots": 1},
    ]
    more = write(elsewhere / "more.yaml", {"data_dir": "pictures", "stream": {"tasks": tasks}})
    assert append(folder, more, QUIET).task_names == ["warm", "cool", "one", "two"]


def interrupt_and_repeat(act, source, tmp_path, monkeypatch, mode, every):
    """Disturb every so-manieth write of `act`, repeat it, and compare with the undisturbed one."""
    counting = FaultyFiles(-1, "")
    whole = shutil.copytree(source, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", counting)
        act(whole)
    for at in range(0, len(counting.written), every):
        folder = shutil.copytree(source, tmp_path / f"at{at}")
        with monkeypatch.context() as patch:
            patch.setattr(files, "write_atomic", FaultyFiles(at, mode))
            with pytest.raises(UserError if mode == "failed" else Killed):
                act(folder)
        act(folder)
        assert figures(folder) == figures(whole), counting.written[at]
        assert json.loads((folder / "manifest.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("mode", FaultyFiles.MODES)
def test_an_interrupted_revert_repeated(stream, tmp_path, monkeypatch, mode):
    source = run(stream["first"], tmp_path / "source", narrator=QUIET).folder
    interrupt_and_repeat(lambda folder: revert(folder, 1), source, tmp_path, monkeypatch, mode, every=3)


def test_an_interrupted_append_repeated(stream, tmp_path, monkeypatch):
    source = run(stream["first"], tmp_path / "source", narrator=QUIET).folder
    act = partial(append, more=stream["more"], narrator=QUIET)
    interrupt_and_repeat(act, source, tmp_path, monkeypatch, "killed after", every=16)


@pytest.mark.slow
@pytest.mark.parametrize("mode", FaultyFiles.MODES)
def test_an_append_interrupted_anywhere_repeated(stream, tmp_path, monkeypatch, mode):
    source = run(stream["first"], tmp_path / "source", narrator=QUIET).folder
    act = partial(append, more=stream["more"], narrator=QUIET)
    interrupt_and_repeat(act, source, tmp_path, monkeypatch, mode, every=1)


def test_an_interrupted_revert_is_named_and_finished(stream, tmp_path, monkeypatch, command):
    folder = run(stream["first"], tmp_path / "run", narrator=QUIET).folder
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", FaultyFiles(8, "killed after"))
        with pytest.raises(Killed):
            revert(folder, 1)
    for arguments in (
        ["run", stream["first"], "--out", folder],
        ["append", folder, "--config", stream["more"]],
    ):
        code, _, err = command(*arguments)
        assert code == 2
        assert f"finish it with: codyra revert {folder} --to 1" in err
    assert command("revert", folder, "--to", 1)[0] == 0
    assert read_run(folder).accuracy.tasks == ("warm",)


BAD = {
    "nothing there": (lambda s, tmp: ["append", tmp / "none", "--config", s["more"]], "is no run folder"),
    "no such file": (
        lambda s, tmp: ["append", tmp / "run", "--config", tmp / "x.yaml"],
        "there is no such file",
    ),
    "no tasks": (
        lambda s, tmp: ["append", tmp / "run", "--config", write(tmp / "n.yaml", {"train": {"steps": 6}})],
        "names no new tasks",
    ),
    "other steps": (
        lambda s, tmp: ["append", tmp / "run", "--config", s["other"]],
        "train.steps is 6 there, 7 here",
    ),
    "old name": (lambda s, tmp: ["append", tmp / "run", "--config", s["first"]], "two tasks are named"),
    "to nothing": (lambda s, tmp: ["revert", tmp / "run", "--to", 0], "--to 0 is none of them"),
    "to the end": (lambda s, tmp: ["revert", tmp / "run", "--to", 2], "nothing to revert"),
    "beyond": (lambda s, tmp: ["revert", tmp / "run", "--to", 9], "2 tasks are learnt"),
}


def test_what_cannot_be_done_is_one_line(stream, tmp_path, command):
    run(stream["first"], tmp_path / "run", narrator=QUIET)
    untouched = contents(tmp_path / "run")
    more = yaml.safe_load(stream["more"].read_text())
    stream["other"] = write(tmp_path / "other.yaml", {**more, "train": {"steps": 7}})
    for name, (arguments, words) in BAD.items():
        code, _, err = command(*arguments(stream, tmp_path))
        assert (code, err.count("\n")) == (2, 1), f"{name}: {err}"
        assert words in err, name
    assert contents(tmp_path / "run") == untouched
