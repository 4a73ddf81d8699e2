"""The loop through its public door, `codyra.run`: what it writes, and what must hold whatever the method."""

import csv
import json
import shutil

import pytest
import torch

import codyra
from codyra import metrics
from codyra.engine import run as engine
from codyra.engine import trainer
from codyra.engine.config import load_config, model_path
from codyra.engine.progress import Narrator
from codyra.errors import UserError
from codyra.families import load_family

METHODS = ["codyra", "lora", "full", "zero_shot"]


def run(config, out, *overrides):
    return engine.run(config, out, overrides=overrides, narrator=Narrator(quiet=True))


def contents(folder):
    """Every file but the manifest, which alone holds wall-clock figures."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "report.html")
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pictures):
    """One finished run per method, made once."""
    from conftest import TASKS

    config = {
        "model": {"name": "builtin:tiny-clip"},
        "method": {"name": "codyra", "r": 4},
        "train": {"steps": 12, "batch_size": 6, "lr": 1e-3},
        "stream": {
            "tasks": [{"name": name, "data": f"imagefolder:{pictures / name}", "shots": 4} for name in TASKS]
        },
    }
    folder = tmp_path_factory.mktemp("runs")
    return {name: run(config, folder / name, f"method.name={name}") for name in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_figures_are_those_of_the_matrix(finished, method):
    done = finished[method]
    with (done.folder / "accuracy.csv").open() as file:
        header, *rows = list(csv.reader(file))
    assert header == ["after", *done.task_names]
    assert [row[0] for row in rows] == ["zero-shot", *done.task_names]
    R = [[float(cell) for cell in row[1:]] for row in rows[1:]]
    assert done.accuracy == R
    for name, value in metrics.all_metrics(R).items():
        assert done.metrics[name] == value, name
    assert done.metrics["zero_shot"] == pytest.approx(sum(done.zero_shot) / 3)
    for index, name in enumerate(done.task_names):
        stored = json.loads((done.folder / f"tasks/{index + 1:02d}-{name}/scores.json").read_text())
        assert [100 * cell["correct"] / cell["examples"] for cell in stored["tasks"]] == R[index]
        assert done.metrics["per_task"][name]["last"]["score"] == R[-1][index]


def test_all_methods_start_from_the_same_row(finished):
    rows = {method: done.zero_shot for method, done in finished.items()}
    assert len({tuple(row) for row in rows.values()}) == 1


def test_zero_shot_changes_nothing(finished):
    done = finished["zero_shot"]
    assert all(row == done.zero_shot for row in done.accuracy)
    assert [update.kind for update in done.updates] == ["none"] * 3
    assert done.metrics["trainable_parameters"] == 0
    assert done.metrics["drift"] == [0.0] * 3


@pytest.mark.parametrize("method", ["codyra", "lora", "full"])
def test_the_model_is_base_plus_updates_and_plain(finished, method):
    done = finished[method]
    base = load_family(model_path(load_config(done.folder / "config.yaml"))).net
    start = dict(base.named_parameters())
    for after in range(4):
        merged = done.model(after=after)
        assert [type(module) for module in merged.modules()] == [type(module) for module in base.modules()]
        weights = dict(merged.named_parameters())
        assert weights.keys() == start.keys()
        drift = (
            torch.stack([(weights[name] - start[name]).double().square().sum() for name in start])
            .sum()
            .sqrt()
        )
        assert float(drift) == pytest.approx(done.metrics["drift"][after - 1] if after else 0.0, rel=1e-6)
    assert torch.equal(dict(done.model().named_parameters())["logit_scale"], start["logit_scale"])


def test_an_adapter_in_stock_peft_gives_the_model_that_was_scored(finished):
    from peft import PeftModel

    done = finished["codyra"]
    net = load_family(model_path(load_config(done.folder / "config.yaml"))).net
    pixels = torch.randn(4, 3, net.config.vision_config.image_size, net.config.vision_config.image_size)
    stock = PeftModel.from_pretrained(net, done.folder / "tasks/01-warm").eval()
    with torch.no_grad():
        expected = done.model(after=1).vision_model(pixels).pooler_output
        found = stock.base_model.model.vision_model(pixels).pooler_output
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_same_run_twice_is_the_same_run(finished, config, tmp_path):
    for task in config["stream"]["tasks"]:
        del task["prompt"]
    again = run(config, tmp_path / "again")
    assert contents(again.folder) == contents(finished["codyra"].folder)


def test_another_seed_is_another_run(config, tmp_path):
    one, two = (run(config, tmp_path / str(seed), f"seed={seed}", "train.steps=3") for seed in (1, 2))
    shots = [
        json.loads((done.folder / "tasks/01-warm/shots.json").read_text())["positions"] for done in (one, two)
    ]
    assert shots[0] != shots[1]


@pytest.mark.parametrize("method", ["codyra", "full", "lora.continue"])
@pytest.mark.parametrize("stop_before", [1, 2])
def test_stopped_between_tasks_and_continued_is_the_same_run(
    config, tmp_path, monkeypatch, method, stop_before
):
    name, _, carry = method.partition(".")
    overrides = [f"method.name={name}"] + ([f"method.carry={carry}"] if carry else [])
    whole = run(config, tmp_path / "whole", *overrides)

    real = trainer.train_task

    def stop(method, ctx, *rest):
        if ctx.task_index == stop_before:
            raise KeyboardInterrupt
        return real(method, ctx, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_task", stop)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "stopped", *overrides)
    assert not (tmp_path / "stopped/metrics.json").exists()
    stopped = run(config, tmp_path / "stopped", *overrides)
    assert contents(stopped.folder) == contents(whole.folder)
    timed = json.loads((stopped.folder / "manifest.json").read_text())["timing"]["tasks"]
    assert [task["name"] for task in timed] == whole.task_names


def test_a_run_is_independent_of_the_global_random_state(config, tmp_path):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = run(config, tmp_path / "one", "train.steps=4")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    two = run(config, tmp_path / "two", "train.steps=4")
    assert contents(one.folder) == contents(two.folder)


def test_one_task_of_full_fine_tuning_equals_a_plain_loop(config, tmp_path):
    """Nothing of the harness leaks into the arithmetic."""
    from codyra.engine.rng import private_random
    from codyra.engine.trainer import batches, lr_factor
    from codyra.families.dual_encoder import TaskObjective
    from codyra.streams import build_stream

    overrides = ["method.name=full", "stream.only=[warm]", "train.steps=5"]
    done = run(config, tmp_path / "run", *overrides)
    resolved = load_config(config, overrides)
    family = load_family(model_path(resolved))
    (task,) = build_stream(resolved.stream, seed=resolved.seed, default_prompt=family.default_prompt)
    trained = [family.net.get_parameter(name).requires_grad_() for name in family.full_parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.9999), eps=1e-8, weight_decay=0.0)
    objective = TaskObjective(family, task, 0)
    plan = batches(len(task.train), 6, private_random(8, "batches", 0))
    crops = private_random(8, "crops", 0)
    for step in range(5):
        optimizer.param_groups[0]["lr"] = 1e-3 * lr_factor(step, 5, "cosine", 0)
        loss = objective.loss(objective.batch(next(plan), crops))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    merged = dict(done.model().named_parameters())
    for name, weight in family.net.named_parameters():
        # base + (trained - base) rounds once more than the trained weight itself
        torch.testing.assert_close(merged[name], weight, atol=1e-7, rtol=1e-6)


def test_merge_and_continue_are_one_method_on_one_task_and_two_on_more(config, tmp_path):
    done = {
        carry: run(
            config, tmp_path / carry, "method.name=lora", f"method.carry={carry}", "stream.only=[warm, cool]"
        )
        for carry in ("merge", "continue")
    }
    first = [done[carry].model(after=1).state_dict() for carry in done]
    second = [done[carry].model(after=2).state_dict() for carry in done]
    assert all(torch.equal(first[0][name], first[1][name]) for name in first[0])
    assert any(not torch.equal(second[0][name], second[1][name]) for name in second[0])
    # One adapter carried through never exceeds rank 4; two merged ones reach 8.
    base = done["merge"].model(after=0).state_dict()
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    ranks = [int(torch.linalg.matrix_rank(model[name] - base[name], rtol=1e-3)) for model in second]
    assert ranks == [8, 4]


def test_merge_scale_scales_what_is_merged(config, tmp_path):
    whole, half = (
        run(
            config,
            tmp_path / str(scale),
            "method.name=lora",
            f"method.merge_scale={scale}",
            "stream.only=[warm]",
        )
        for scale in (1.0, 0.5)
    )
    assert half.metrics["update_norm"][0] == pytest.approx(whole.metrics["update_norm"][0] / 2)


def test_epochs_and_bf16(config, tmp_path):
    done = run(
        config,
        tmp_path / "run",
        "train.steps=null",
        "train.epochs=3",
        "train.precision=bf16",
        "train.clip=1.0",
    )
    steps = (done.folder / "tasks/01-warm/train.jsonl").read_text().splitlines()
    assert len(steps) == 4  # 8 examples in batches of 6, three epochs: ceil(24 / 6)
    assert all(torch.isfinite(weight).all() for weight in done.model().parameters())


def test_dry_run_writes_nothing(config, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    engine.dry_run(load_config(config), tmp_path / "run", Narrator(quiet=True))
    assert sorted(tmp_path.rglob("*")) == before


def test_changed_data_stop_a_continued_run(config, pictures, tmp_path, monkeypatch):
    own = tmp_path / "pictures"
    shutil.copytree(pictures, own)
    for task in config["stream"]["tasks"]:
        task["data"] = task["data"].replace(str(pictures), str(own))
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_task", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "run")
    (own / "cool/test/blue/0.png").unlink()
    with pytest.raises(UserError, match="the data of task cool"):
        run(config, tmp_path / "run")


def test_codyra_run_is_the_loop():
    assert codyra.run is engine.run
