"""What bad input gets, through the real command: one clear line, exit code 2, nothing lost, no traceback."""

import errno
import json
import re
import shutil

import pytest
import yaml
from PIL import Image


def write(config, folder):
    path = folder / "stream.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def refused(result, *words):
    code, out, err = result
    assert code == 2, (code, out, err)
    assert "Traceback" not in err + out
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    for word in words:
        assert word in lines[0], (word, lines[0])


def own_pictures(config, pictures, folder):
    """Give the config a copy of the pictures that a test may damage."""
    copy = folder / "pictures"
    shutil.copytree(pictures, copy)
    for task in config["stream"]["tasks"]:
        task["data"] = task["data"].replace(str(pictures), str(copy))
    return copy


def change(path, value):
    """A mutation that sets config[path...] = value."""

    def mutate(config, pictures, folder):
        node = config
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value

    return mutate


def typo(config, pictures, folder):
    config["train"]["stepz"] = config["train"].pop("steps")


def missing_folder(config, pictures, folder):
    config["stream"]["tasks"][0]["data"] = f"imagefolder:{folder / 'nowhere'}"


def empty_class(config, pictures, folder):
    for picture in (own_pictures(config, pictures, folder) / "warm/train/red").iterdir():
        picture.unlink()


def unreadable_image(config, pictures, folder):
    (own_pictures(config, pictures, folder) / "cool/test/grey/3.png").write_bytes(b"no picture")


def truncated_image(config, pictures, folder):
    path = own_pictures(config, pictures, folder) / "cool/train/blue/2.png"
    path.write_bytes(path.read_bytes()[:400])


def too_few_shots(config, pictures, folder):
    config["stream"]["tasks"][1]["shots"] = 9


def two_tasks_of_one_name(config, pictures, folder):
    config["stream"]["tasks"][1]["name"] = "warm"


def encoder_decoder(config, pictures, folder):
    directory = folder / "t5"
    directory.mkdir()
    (directory / "config.json").write_text(
        json.dumps({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]})
    )
    config["model"]["name"] = str(directory)


def text_for_an_image_model(config, pictures, folder):
    for split in ("train", "test"):
        (folder / f"{split}.csv").write_text("text,label\nhello,a\nworld,b\n")
    config["stream"]["tasks"][0] = {"name": "words", "data": f"csv:{folder}"}


def long_prompt(config, pictures, folder):
    config["stream"]["tasks"][2]["prompt"] = "a photo of a {}" + " and one more thing" * 40


def official_schedule_without_room(config, pictures, folder):
    config["method"]["schedule"] = "official"


def prune_nothing(config, pictures, folder):
    config["method"]["dense_fraction"] = 0.99


BAD = {
    "yaml typo": (typo, ["train.stepz", "did you mean steps?"]),
    "missing folder": (missing_folder, ["nowhere"]),
    "empty class": (empty_class, ["red"]),
    "unreadable image": (unreadable_image, ["cool/test/grey/3.png"]),
    "truncated image": (truncated_image, ["cool/train/blue/2.png"]),
    "fewer examples than shots": (too_few_shots, ["cool", "8", "9", "allow_fewer"]),
    "two tasks of one name": (two_tasks_of_one_name, ["warm"]),
    "prompt without {}": (change(["stream", "tasks", 0, "prompt"], "a photo"), ["{}", "a photo"]),
    "prompt too long": (long_prompt, ["plain", "tokens"]),
    "a model of no known kind": (encoder_decoder, ["encoder-decoder (t5)", "codyra trains"]),
    "no such model": (change(["model", "name"], "./no-such-model"), ["no-such-model"]),
    "no such builtin": (change(["model", "name"], "builtin:huge-clip"), ["builtin:tiny-clip"]),
    "texts for an image model": (text_for_an_image_model, ["words", "text"]),
    "target matches nothing": (change(["method", "targets"], ["q_prj"]), ["q_prj", "q_proj"]),
    "unknown method": (change(["method", "name"], "codira"), ["codira", "did you mean codyra?"]),
    "steps=0": (change(["train", "steps"], 0), ["train.steps"]),
    "no steps at all": (change(["train", "steps"], None), ["steps or epochs"]),
    "betas outside [0, 1)": (change(["train", "betas"], [1, 2]), ["train.betas"]),
    "infinite lr": (change(["train", "lr"], float("inf")), ["train.lr"]),
    "an option that is no word": (change(["method", 3], 4), ["method"]),
    "more ranks than anything has": (change(["method", "r"], 10**9), ["method.r"]),
    "r=0": (change(["method", "r"], 0), ["method.r"]),
    "official schedule without room": (official_schedule_without_room, ["schedule='linear'"]),
    "a schedule that never prunes": (prune_nothing, ["dense_fraction"]),
    "loss not finite": (change(["train", "lr"], 1e35), ["step", "train.lr"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(command, config, pictures, tmp_path, case):
    mutate, words = BAD[case]
    mutate(config, pictures, tmp_path)
    result = command("run", write(config, tmp_path), "--out", tmp_path / "run")
    refused(result, *words)
    if case != "loss not finite":
        assert not (tmp_path / "run").exists()  # refused before anything was written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "demp"], ["demp", "did you mean demo?"]),
        (["run", "nowhere.yaml"], ["nowhere.yaml", "no such file"]),
        (["report", "nowhere"], ["nowhere", "no run folder"]),
        (["history", "nowhere"], ["nowhere", "no run folder"]),
        (["report", "a", "b"], ["--out"]),
        (["run", "demo", "--set", "seed"], ["write key=value"]),
        (["run", "demo", "--set", "data_dir=/nowhere/at/all"], ["/nowhere/at/all"]),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(command, arguments, words):
    refused(command(*arguments), *words)


def test_another_config_in_the_folder_is_refused_and_nothing_is_lost(command, config, tmp_path):
    path, out = write(config, tmp_path), tmp_path / "run"
    assert command("run", path, "--out", out)[0] == 0
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    refused(command("run", path, "--out", out, "--set", "train.steps=13"), "train.steps is 12 there, 13 here")
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    code, said, _ = command("run", path, "--out", out)  # the same config: shown again
    assert code == 0
    assert "finished" in said


def test_a_folder_that_is_no_run_is_refused(command, config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.tex").write_text("years of work")
    refused(command("run", write(config, tmp_path), "--out", tmp_path / "run"), "no run folder")
    assert (tmp_path / "run/thesis.tex").read_text() == "years of work"


def test_a_loss_that_is_not_finite_keeps_the_finished_tasks(command, config, tmp_path, monkeypatch):
    from codyra.families.dual_encoder import TaskObjective

    path, out = write(config, tmp_path), tmp_path / "run"
    real = TaskObjective.loss
    tasks_started = []

    def loss(self, batch, outputs=None):
        if self not in tasks_started:
            tasks_started.append(self)
        parts = real(self, batch, outputs)
        # The first objective is the estimate's; the third belongs to task 2.
        return (
            {name: part * float("nan") for name, part in parts.items()} if len(tasks_started) == 3 else parts
        )

    with monkeypatch.context() as patch:
        patch.setattr(TaskObjective, "loss", loss)
        refused(command("run", path, "--out", out), "the loss became nan at step 0")
    assert (out / "tasks/01-warm/scores.json").is_file()
    assert command("run", path, "--out", out)[0] == 0


@pytest.mark.parametrize("fails_at", [0, 11, 40])
def test_a_full_disk_loses_nothing(command, config, tmp_path, monkeypatch, fails_at):
    path, out = write(config, tmp_path), tmp_path / "run"
    writes = []

    def fsync(descriptor):
        writes.append(descriptor)
        if len(writes) > fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("codyra.files.os.fsync", fsync)
        refused(command("run", path, "--out", out), "No space left on device")
    assert not list(out.rglob("*.tmp"))
    assert command("run", path, "--out", out)[0] == 0
    whole = tmp_path / "whole"
    assert command("run", path, "--out", whole)[0] == 0
    written = [file.relative_to(whole) for file in sorted(whole.rglob("*")) if file.is_file()]
    assert written == [file.relative_to(out) for file in sorted(out.rglob("*")) if file.is_file()]
    for file in written:
        if file.name not in ("manifest.json", "report.html"):  # these hold times
            assert (out / file).read_bytes() == (whole / file).read_bytes(), file
    assert json.loads((out / "manifest.json").read_text())["timing"]["zero_shot_seconds"] > 0


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("manifest.json", "{}"),
        ("manifest.json", "[]"),
        ("config.yaml", ""),
        ("config.yaml", "- a list"),
        ("zero_shot.json", '{"tasks": [{"name": 3}]}'),
        ("tasks/01-warm/scores.json", "{}"),
        ("tasks/02-cool/scores.json", "[]"),
        ("tasks/02-cool/shots.json", "[1]"),
        ("tasks/01-warm/ranks.json", "{"),
        ("tasks/01-warm/adapter_model.safetensors", "nothing"),
    ],
)
def test_a_damaged_run_folder_is_named(command, config, tmp_path, file, content):
    path, out = write(config, tmp_path), tmp_path / "run"
    assert command("run", path, "--out", out)[0] == 0
    (out / "report.html").unlink()  # so that the run has something left to do
    (out / file).write_text(content)
    refused(command("run", path, "--out", out), "run")


def test_too_little_disk_is_known_before_the_first_step(command, config, tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 1000, "total": 1000})
    monkeypatch.setattr("codyra.engine.plan.shutil.disk_usage", lambda path: usage)
    refused(command("run", write(config, tmp_path), "--out", tmp_path / "run"), "MB of disk")
    assert not (tmp_path / "run").exists()


def test_a_picture_that_no_class_needs_is_ignored(command, config, pictures, tmp_path):
    copy = own_pictures(config, pictures, tmp_path)
    (copy / "warm/train/red/Thumbs.db").write_bytes(b"not ours")
    Image.new("L", (30, 30)).save(copy / "warm/test/red/grey-scale.png")
    code, out, _ = command("run", write(config, tmp_path), "--dry-run")
    assert code == 0
    assert re.search(r"3 tasks x 12 steps.* of memory, .* of disk", out)
    assert "nothing was written" in out
