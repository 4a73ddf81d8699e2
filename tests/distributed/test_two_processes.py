"""Two gloo processes learn what one process learns at the same global batch, and survive a kill as one does."""

import json

import pytest
import yaml

from engine.faults import contents


@pytest.mark.slow
def test_two_processes_are_one_process(config, command, launch, tmp_path):
    path = tmp_path / "stream.yaml"
    path.write_text(yaml.safe_dump(config))
    assert command("run", path, "--out", tmp_path / "one")[0] == 0
    assert launch("run", path, "--out", tmp_path / "two").count("report: ") == 1
    single, double = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert json.loads((tmp_path / "two/manifest.json").read_text())["processes"] == 2
    assert double["update_norm"] == pytest.approx(single["update_norm"], rel=1e-4)
    assert double["mean_rank"] == single["mean_rank"]
    assert (tmp_path / "one/accuracy.csv").read_text() == (tmp_path / "two/accuracy.csv").read_text()


@pytest.mark.slow
def test_two_killed_processes_continue_as_two(config, launch, tmp_path):
    """Dropout: each process has a generator of its own, and the checkpoint holds both."""
    config["method"] = {"name": "lora", "r": 4, "dropout": 0.3}
    config["train"] |= {"steps": 40, "checkpoint_steps": 5}
    path = tmp_path / "stream.yaml"
    path.write_text(yaml.safe_dump(config))
    launch("run", path, "--out", tmp_path / "whole")
    task = tmp_path / "killed/tasks/02-cool"
    launch.kill_when(task / "checkpoint/state.safetensors", "run", path, "--out", tmp_path / "killed")
    assert not (task / "ranks.json").exists()
    out = launch("run", path, "--out", tmp_path / "killed")
    assert "task 2/3 cool: continuing after" in out
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lwf", "lwf_vr", "zscl"])
def test_two_processes_distil_what_one_process_does(config, command, launch, tmp_path, pictures, method):
    """Every process compares the whole batch with what the teacher says of it."""
    (tmp_path / "captions.txt").write_text("a red bird\na very big dog\na dark cat\n")
    own = {
        "lwf": {"r": 4, "distill_weight": 5.0},
        "lwf_vr": {"r": 4, "random_texts": 20, "random_texts_per_step": 7},
        "zscl": {"reference_images": str(pictures / "plain/train"), "reference_texts": "captions.txt"},
    }
    config["method"] = {"name": method, **own[method]}
    config["train"] |= {"lr": 1e-4} if method == "zscl" else {}
    path = tmp_path / "stream.yaml"
    path.write_text(yaml.safe_dump(config))
    assert command("run", path, "--out", tmp_path / "one")[0] == 0
    launch("run", path, "--out", tmp_path / "two")
    single, double = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert double["update_norm"] == pytest.approx(single["update_norm"], rel=1e-3)
    of_one, of_two = (
        [
            json.loads(line)
            for line in (tmp_path / name / "tasks/02-cool/train.jsonl").read_text().splitlines()
        ]
        for name in ("one", "two")
    )
    for one, two in zip(of_one, of_two, strict=True):
        assert two["method_loss"] == pytest.approx(one["method_loss"], rel=1e-3)
