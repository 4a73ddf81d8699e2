"""Causal language models: two gloo processes are one process with twice as many parts of every batch."""

import json

import pytest

from distributed.answer_runs import TEST, WORDS, assert_same_run
from engine.faults import contents
from families.tiny_lms import save_gpt2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"train": {"clip": 0.5, "gradient_checkpointing": True}}, 1e-6),
        ({"dtype": "float32", "train": {"micro_batch_size": 2}}, 1e-3),
        ({"method": {"name": "lora", "r": 4}, "train": {"micro_batch_size": None, "batch_size": 1}}, 1e-6),
        ({"dtype": "float32", "quantize": "8bit", "train": {"gradient_checkpointing": True}}, 1e-3),
        ({"dtype": "float32", "quantize": "4bit"}, 1e-3),
        ({"save": save_gpt2, "choices": WORDS[:3], "train": {"steps": None, "epochs": 1.7}}, 1e-6),
    ],
    ids=["checkpointed-and-clipped", "float32", "batches-of-one", "8bit", "4bit", "choices"],
)
def test_two_processes_are_one_process(stream, command, launch, tmp_path, options, tolerance):
    path = stream(**options)
    assert command("run", path, "--out", tmp_path / "one")[0] == 0
    assert launch("run", path, "--out", tmp_path / "two").count("report: ") == 1
    assert json.loads((tmp_path / "two/manifest.json").read_text())["processes"] == 2
    assert_same_run(tmp_path / "one", tmp_path / "two", tolerance)


@pytest.mark.slow
def test_more_processes_than_there_are_batches_to_score(stream, command, launch, tmp_path):
    path = stream(train={"steps": 4, "eval_batch_size": 4})
    assert command("run", path, "--out", tmp_path / "one")[0] == 0
    # A number of accumulation steps in accelerate's own config says nothing here.
    options = {"processes": 3, "config": "ddp.yaml", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}
    launch("run", path, "--out", tmp_path / "three", **options)
    assert_same_run(tmp_path / "one", tmp_path / "three", 1e-5)
    lines = (tmp_path / "three/tasks/02-second/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["position"] for line in lines] == [*range(TEST)] * 2


@pytest.mark.slow
def test_two_killed_processes_continue_as_two(stream, launch, tmp_path):
    path = stream(
        dtype="float32",
        method={"name": "lora", "r": 4, "dropout": 0.3},
        train={"steps": 30, "checkpoint_steps": 3, "gradient_checkpointing": True},
    )
    launch("run", path, "--out", tmp_path / "whole")
    task = tmp_path / "killed/tasks/02-second"
    launch.kill_when(task / "checkpoint/state.safetensors", "run", path, "--out", tmp_path / "killed")
    assert not (task / "ranks.json").exists()
    assert "task 2/2 second: continuing after" in launch("run", path, "--out", tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
