"""EWC, A-GEM, AdaLoRA and OSF through the loop: three tasks of classes and of answers, stopped and continued."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from codyra.engine import trainer
from codyra.engine.progress import Narrator
from codyra.engine.run import run
from codyra.errors import UserError
from codyra.methods.pieces import fisher_anchor
from engine.answer_tasks import TASKS
from engine.faults import Killed, contents
from families.tiny_lms import save_gpt2

METHODS = {
    "ewc": {"name": "ewc", "r": 2, "fisher_examples": 3, "dropout": 0.2},
    "a_gem": {"name": "a_gem", "r": 2, "memory_examples": 3, "reference_examples": 4, "dropout": 0.2},
    "last_grad": {"name": "a_gem", "r": 2, "grad_memory": "last_grad", "carry": "continue"},
    "adalora": {"name": "adalora", "init_r": 4, "target_r": 2},
    "osf": {"name": "osf"},
}


@pytest.fixture
def classes(config):
    """Three tasks for a dual encoder, without a method."""
    config["train"] |= {"steps": 6, "checkpoint_steps": 2}
    return config


@pytest.fixture
def answers(place):
    """Three tasks for a causal language model, without a method."""
    return {
        "model": {"name": str(place / "llama")},
        "train": {"steps": 6, "batch_size": 6, "lr": 1e-2, "checkpoint_steps": 2, "micro_batch_size": 4},
        "stream": {
            "max_answer_tokens": 4,
            "tasks": [{"name": name, "data": f"json:{place / name}"} for name in TASKS],
        },
    }


def learn(config: dict, out: Path) -> Path:
    return run(config, out, narrator=Narrator(quiet=True)).folder


def log_of(folder: Path, number: int) -> list[dict]:
    (file,) = folder.glob(f"tasks/{number:02}-*/train.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


FAST = {("classes", "ewc"), ("answers", "a_gem"), ("classes", "adalora"), ("answers", "osf")}


@pytest.mark.parametrize(
    ("stream", "name"),
    [
        pytest.param(kind, name, marks=[] if (kind, name) in FAST else [pytest.mark.slow])
        for kind in ("classes", "answers")
        for name in METHODS
    ],
)
def test_three_tasks_stopped_in_the_last_and_continued(stream, name, request, tmp_path, monkeypatch):
    config = {**request.getfixturevalue(stream), "method": METHODS[name]}
    whole = learn(config, tmp_path / "whole")
    backward, calls = trainer._backward, []

    def stop(*args):
        calls.append(None)
        if len(calls) == 2 * 6 + 4:  # in the fourth step of the third task
            raise Killed
        return backward(*args)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_backward", stop)
        with pytest.raises(Killed):
            learn(config, tmp_path / "run")
    assert list((tmp_path / "run").glob("tasks/03-*/checkpoint/state.safetensors"))
    learn(config, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(whole)
    check(name, whole)


def check(name: str, folder: Path) -> None:
    """What only a run shows of each method."""
    ranks = [json.loads(file.read_text()) for file in sorted(folder.glob("tasks/*/ranks.json"))]
    assert len(ranks) == 3
    assert not any(table["no_change"] for table in ranks)
    memory = [load_file(file) for file in sorted(folder.glob("tasks/*/memory.safetensors"))]
    measured = json.loads((folder / "metrics.json").read_text())["memory_bytes"]
    num_bytes = [sum(tensor.nbytes for tensor in kept.values()) for kept in memory]
    if name in ("ewc", "last_grad"):
        update = load_file(next(folder.glob("tasks/03-*/adapter_model.safetensors")))
        assert measured == num_bytes == [4 * sum(tensor.numel() for tensor in update.values())] * 3
    if name == "ewc":
        assert "penalty" not in log_of(folder, 1)[0]
        penalties = [record["penalty"] for record in log_of(folder, 2)]
        assert penalties[0] == 0 < penalties[-1]
    if name == "a_gem":
        assert [len(kept) for kept in memory] == [2, 4, 6]
        examples = [sum(int(kept[key].sum()) for key in kept if "example_bytes" in key) for kept in memory]
        assert 0 < examples[0] < examples[1] < examples[2]
        assert measured == [size + own for size, own in zip(num_bytes, examples, strict=True)]
    if name in ("a_gem", "last_grad"):
        assert not any(record["projected"] for record in log_of(folder, 1))
        assert {record["projected"] for record in log_of(folder, 3)} <= {0.0, 1.0}
    if name == "adalora":
        for number, table in enumerate(ranks):
            kept = [module["kept"] for module in table["modules"].values()]
            assert sum(kept) == 2 * len(kept)
            assert log_of(folder, number + 1)[-1]["kept"] == 2
    if name in ("adalora", "osf"):
        assert measured == [0, 0, 0]


def test_osf_refuses_linears_that_lie_the_other_way(place, tmp_path):
    save_gpt2(tmp_path / "gpt2")
    config = {
        "model": {"name": str(tmp_path / "gpt2")},
        "method": {"name": "osf"},
        "train": {"steps": 2},
        "stream": {"tasks": [{"name": "animals", "data": f"json:{place / 'animals'}"}]},
    }
    with pytest.raises(UserError, match=r"^method: task animals: osf decomposes nn\.Linear only"):
        learn(config, tmp_path / "run")


def test_the_pass_after_a_task_computes_activations_again_too(answers, tmp_path, monkeypatch):
    """A run whose steps fit into memory must not end in a pass that does not."""
    recomputing, real = [], fisher_anchor.gradients

    def watched(ctx, value):
        recomputing.append(
            any(getattr(layer, "gradient_checkpointing", False) for layer in ctx.net.modules())
        )
        return real(ctx, value)

    monkeypatch.setattr(fisher_anchor, "gradients", watched)
    kept = []
    for again in (False, True):
        answers["train"] |= {"gradient_checkpointing": again, "steps": 2}
        folder = learn({**answers, "method": {"name": "ewc", "r": 2}}, tmp_path / str(again))
        kept.append(load_file(folder / "tasks/01-animals/memory.safetensors"))
    assert set(recomputing[: len(recomputing) // 2]) == {False}
    assert set(recomputing[len(recomputing) // 2 :]) == {True}
    for name, fisher in kept[0].items():
        torch.testing.assert_close(kept[1][name], fisher, rtol=1e-4, atol=1e-9)
