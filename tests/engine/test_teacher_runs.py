"""Whole runs of methods with a teacher, an anchor, an average or an interpolation; and the data that ZSCL is given."""

import json
import shutil

import pytest
import yaml
from PIL import Image

from codyra.engine import loop, trainer
from codyra.engine.progress import Narrator
from codyra.engine.run import run
from codyra.errors import UserError
from distributed.answer_runs import write_stream
from engine.faults import Killed, contents
from families.tiny_lms import save_llama

QUIET = Narrator(quiet=True)
METHODS = {
    "lwf": {"name": "lwf", "r": 2, "dropout": 0.2},
    "lwf full": {"name": "lwf", "adapter": "full"},
    "lwf_vr": {"name": "lwf_vr", "r": 2, "random_texts": 12, "random_texts_per_step": 5},
    "zscl": {"name": "zscl", "reference_texts_per_step": 3},
    "wise_ft": {"name": "wise_ft", "r": 2, "merge_reference": "pretrained"},
    "wise_ft full": {"name": "wise_ft", "adapter": "full", "merge_reference": "pretrained"},
}


@pytest.fixture
def reference(tmp_path, pictures):
    """(folder of images, file of captions) beside nothing else."""
    shutil.copytree(pictures / "plain/train", tmp_path / "images")
    (tmp_path / "captions.txt").write_text("a red bird\n\n  a very big dog \na dark cat\nthe circle\nwarm\n")
    return tmp_path / "images", tmp_path / "captions.txt"


@pytest.fixture
def small(config, tiny_clip, reference):
    """Gives the config of three tasks of six steps with a checkpoint after every second one."""

    def make(method):
        given = dict(zip(("reference_images", "reference_texts"), map(str, reference), strict=True))
        return config | {
            "model": {"name": str(tiny_clip)},
            "method": METHODS[method] | (given if method == "zscl" else {}),
            "train": {"steps": 6, "checkpoint_steps": 2, "batch_size": 6, "lr": 1e-3},
        }

    return make


@pytest.mark.parametrize(
    "method",
    [
        "lwf",
        "zscl",
        *(pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name not in ("lwf", "zscl")),
    ],
)
def test_a_stream_is_learnt_and_a_task_that_was_stopped_goes_on_as_if_it_had_not(
    small, tmp_path, monkeypatch, method
):
    config = small(method)
    whole = run(config, tmp_path / "whole", narrator=QUIET)
    assert len(whole.updates) == 3
    assert all(not update.no_change for update in whole.updates)
    assert not list(whole.folder.rglob("memory.safetensors"))
    steps, real = [], trainer.lr_factor

    def stop_in_task_two(step, *rest):
        steps.append(step)
        if len(steps) == stop_at:
            raise Killed
        return real(step, *rest)

    monkeypatch.setattr(trainer, "lr_factor", stop_in_task_two)
    stop_at = 6 + 5  # the fifth step of task 2
    with pytest.raises(Killed):
        run(config, tmp_path / "run", narrator=QUIET)
    steps.clear()
    stop_at = None
    continued = run(config, tmp_path / "run", narrator=QUIET)
    assert steps == [4, 5, *range(6)], "the steps before the checkpoint are not taken again"
    assert contents(continued.folder) == contents(whole.folder)


def test_the_loss_says_what_the_method_adds(small, tmp_path):
    config = small("zscl")
    config["stream"]["tasks"] = config["stream"]["tasks"][:1]
    folder = run(config, tmp_path / "run", narrator=QUIET).folder
    lines = [json.loads(line) for line in (folder / "tasks/01-warm/train.jsonl").read_text().splitlines()]
    assert all(line["method_loss"] > 0 for line in lines)
    assert lines[0]["penalty"] == 0 < lines[1]["penalty"]


@pytest.mark.parametrize(
    "method", [{"name": "lwf", "r": 2}, {"name": "wise_ft", "r": 2}, {"name": "lwf", "adapter": "full"}]
)
def test_a_language_model_learns_with_it(tmp_path, method):
    config = {
        "model": {"name": str(save_llama(tmp_path / "model"))},
        "method": method,
        "train": {"steps": 4, "batch_size": 4, "micro_batch_size": 2, "lr": 1e-3},
        "stream": {"max_answer_tokens": 6, "tasks": write_stream(tmp_path / "data")},
    }
    finished = run(config, tmp_path / "run", narrator=QUIET)
    assert len(finished.updates) == 2
    lines = [
        json.loads(x) for x in (finished.folder / "tasks/02-second/train.jsonl").read_text().splitlines()
    ]
    assert ("method_loss" in lines[0]) == (method["name"] == "lwf")


@pytest.mark.slow
def test_a_quantised_base_is_its_own_teacher(tmp_path):
    pytest.importorskip("bitsandbytes")
    config = {
        "model": {"name": str(save_llama(tmp_path / "model")), "quantize": "4bit"},
        "method": {"name": "lwf", "r": 2},
        "train": {"steps": 4, "batch_size": 4, "lr": 1e-2},
        "stream": {"max_answer_tokens": 6, "tasks": write_stream(tmp_path / "data")[:1]},
    }
    assert not run(config, tmp_path / "run", narrator=QUIET).updates[0].no_change
    with pytest.raises(UserError, match="method lwf cannot train beside weights"):
        run(config, tmp_path / "full", overrides=["method={name: lwf, adapter: full}"], narrator=QUIET)


@pytest.mark.parametrize("method", ["lwf_vr", "zscl"])
def test_what_needs_images_says_so(command, tmp_path, method):
    config = {
        "model": {"name": str(save_llama(tmp_path / "model"))},
        "method": {"name": method},
        "stream": {"tasks": write_stream(tmp_path / "data")},
    }
    (tmp_path / "stream.yaml").write_text(yaml.safe_dump(config))
    code, _, err = command("run", tmp_path / "stream.yaml", "--out", tmp_path / "run")
    assert code == 2
    assert f"method {method} is for models of images; a llama model reads prompts to be answered" in err


# What the user supplies


def broken_image(images, captions):
    (images / "black/0.png").write_bytes(b"no picture")


FAULTS = {
    "not given": ({"reference_texts": None}, None, "set method.reference_images to a folder of images and"),
    "missing": ({"reference_images": "nowhere"}, None, "method.reference_images: no folder "),
    "broken image": ({}, broken_image, "cannot read image"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_what_is_supplied_is_one_line_before_anything_is_written(
    small, reference, command, tmp_path, fault
):
    options, spoil, message = FAULTS[fault]
    config = small("zscl")
    config["method"] |= {"reference_images": "images", "reference_texts": "captions.txt"} | options
    if spoil is not None:
        spoil(*reference)
    (tmp_path / "stream.yaml").write_text(yaml.safe_dump(config))
    code, _, err = command("run", tmp_path / "stream.yaml", "--out", tmp_path / "run")
    assert code == 2
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("codyra: ")]) == 1
    assert not (tmp_path / "run/manifest.json").exists()


def test_what_is_supplied_lies_beside_the_config_and_is_in_the_manifest(small, command, tmp_path):
    config = small("zscl")
    config["method"] |= {"reference_images": "images", "reference_texts": "${data_dir}/captions.txt"}
    config["data_dir"] = str(tmp_path)
    config["stream"]["tasks"] = config["stream"]["tasks"][:1]
    (tmp_path / "stream.yaml").write_text(yaml.safe_dump(config))
    assert command("run", tmp_path / "stream.yaml", "--out", tmp_path / "run")[0] == 0
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["reference"]["images"]["count"] == 16
    assert manifest["reference"]["texts"]["count"] == 5
    assert manifest["reference"]["texts"]["source"] == "${data_dir}/captions.txt"


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_a_run_does_not_go_on_with_other_reference_data(
    small, reference, tmp_path, monkeypatch, kind, command
):
    images, captions = reference
    (tmp_path / "stream.yaml").write_text(yaml.safe_dump(small("zscl")))

    def stop(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop, "learn_task", stop)
        with pytest.raises(Killed):
            run(tmp_path / "stream.yaml", tmp_path / "run", narrator=QUIET)
    if kind == "images":
        Image.new("RGB", (20, 20)).save(images / "black/0.png")
    else:
        captions.write_text(captions.read_text() + "one more\n")
    code, _, err = command("run", tmp_path / "stream.yaml", "--out", tmp_path / "run")
    assert code == 2
    assert f"the reference {kind}" in err
    assert "changed since this run began; restore them or start anew" in err


def test_an_average_that_would_never_be_taken_is_refused_at_once(small, command, tmp_path):
    config = small("zscl")
    config["method"]["average_every"] = 7
    (tmp_path / "stream.yaml").write_text(yaml.safe_dump(config))
    code, _, err = command("run", tmp_path / "stream.yaml", "--out", tmp_path / "run")
    assert code == 2
    assert "average_every: 7 steps are never taken, the task has 6" in err
