"""Dual encoders: two gloo processes learn what one learns at the same global batch, and survive a kill as one does."""

import json
import random

import pytest
import yaml

from distributed.answer_runs import assert_same_run
from engine.faults import contents
from families.tiny_encoders import WORDS, save_bert, save_siglip


@pytest.fixture
def write(config, tmp_path):
    """Write the config, changed by these options, and give its path."""

    def written(save=None, dtype="float64", method=None, **train):
        if save is not None:  # a tokenizer that does not know the words of the third task
            config["model"]["name"] = str(save(tmp_path / "model"))
            config["stream"]["tasks"] = config["stream"]["tasks"][:2]
        config["model"]["dtype"] = dtype
        config["method"] = method or config["method"]
        config["train"] |= train
        path = tmp_path / "stream.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return written


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"clip": 0.5, "eval_batch_size": 5},
        {"save": save_siglip, "method": {"name": "lora", "r": 4}, "batch_size": 1},
        {"method": {"name": "lora", "r": 4, "targets": "vision"}, "batch_size": 5, "eval_batch_size": 1},
    ],
    ids=["clipped", "siglip-batches-of-one", "vision"],
)
def test_two_processes_are_one_process(write, command, launch, tmp_path, options):
    path = write(**options)
    assert command("run", path, "--out", tmp_path / "one")[0] == 0
    assert launch("run", path, "--out", tmp_path / "two").count("report: ") == 1
    assert json.loads((tmp_path / "two/manifest.json").read_text())["processes"] == 2
    assert_same_run(tmp_path / "one", tmp_path / "two", 1e-6)


@pytest.mark.slow
def test_in_float32_they_are_to_rounding(write, command, launch, tmp_path):
    path = write(dtype="float32", method={"name": "full"})
    assert command("run", path, "--out", tmp_path / "one")[0] == 0
    launch("run", path, "--out", tmp_path / "two")
    single, double = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert double["update_norm"] == pytest.approx(single["update_norm"], rel=1e-3)
    assert (tmp_path / "one/accuracy.csv").read_text() == (tmp_path / "two/accuracy.csv").read_text()


@pytest.mark.slow
def test_two_processes_with_texts_are_one_process(write, config, command, launch, tmp_path):
    rng = random.Random(0)
    for task, (one, other) in {"animals": ("cat", "dog"), "shapes": ("circle", "square")}.items():
        (tmp_path / task).mkdir()
        for split in ("train", "test"):
            rows = [
                f"{' '.join(rng.choices(WORDS, k=rng.randint(1, 8)))},{rng.choice((one, other))}"
                for _ in range(9)
            ]
            (tmp_path / task / f"{split}.csv").write_text(
                "\n".join(["text,label", f"a,{one}", f"the,{other}", *rows])
            )
    config["stream"]["tasks"] = [
        {"name": task, "data": f"csv:{tmp_path / task}"} for task in ("animals", "shapes")
    ]
    path = write(save_bert, eval_batch_size=2)
    assert command("run", path, "--out", tmp_path / "one")[0] == 0
    launch("run", path, "--out", tmp_path / "two")
    assert_same_run(tmp_path / "one", tmp_path / "two", 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "processes"), [("zero_shot", 2), ("rail_primal", 3), ("rail_dual", 2)])
def test_scores_are_those_of_one_process_to_the_last_digit(write, command, launch, tmp_path, name, processes):
    """Without training nothing is summed in another order. Three batches a test set: some score more than others."""
    path = write(dtype="float32", method={"name": name}, eval_batch_size=5)
    assert command("run", path, "--out", tmp_path / "one")[0] == 0
    launch("run", path, "--out", tmp_path / "several", processes=processes)
    one, several = contents(tmp_path / "one"), contents(tmp_path / "several")
    assert b"processes" in one.pop("report.html") + several.pop("report.html")  # it says how many there were
    assert several == one


@pytest.mark.slow
def test_processes_agree_on_a_folder_and_a_finished_run_is_shown_once(write, launch, tmp_path):
    path = write(method={"name": "zero_shot"})
    assert "report: runs/stream-1/report.html" in launch("run", path)
    again = launch("run", path, "--out", "runs/stream-1")
    assert again.count("this run is finished") == again.count("report: ") == 1


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
