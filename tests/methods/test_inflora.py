"""InfLoRA: a fixed A off the past, made of the task's own directions, and a memory that holds what it says."""

import json

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

from codyra.engine import trainer
from codyra.engine.progress import Narrator
from codyra.engine.run import run
from codyra.methods import Memory, build_method, parse_options
from codyra.methods.pieces.lora import lora_factors
from codyra.methods.pieces.subspace import past_subspaces
from codyra.update import TaskUpdate
from engine.faults import Killed, contents
from families.tiny_lms import save_gpt2, save_llama
from methods.toy_task import begin, learn_from, step, task_of
from tiny_nets import TwoLayers

QUIET = Narrator(quiet=True)


def method_of(**options):
    return build_method(parse_options({"name": "inflora", "r": 2, **options}))


def inputs_of(data, ctx):
    """{linear: its inputs (N, D)}, read with nothing but hooks of this test."""
    seen = {}
    hooks = [
        data.net.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: seen.update({name: args[0].detach()})
        )
        for name in ctx.target_modules
    ]
    data.net(data.inputs)
    for hook in hooks:
        hook.remove()
    return seen


def projectors(ctx):
    """M M^T of what the memory of this context holds."""
    return {
        name: torch.eye(len(subspace.basis)) - subspace.without(torch.eye(len(subspace.basis)))
        for name, subspace in past_subspaces(ctx).items()
    }


@pytest.mark.parametrize("layer", [torch.nn.Linear, Conv1D])
def test_a_stream_of_three_tasks(layer):
    net, memory = TwoLayers(layer), Memory()
    for number in range(3):
        data, method = task_of(net, number, used=3), method_of(subspace_energy=0.6)
        ctx = begin(method, data, memory, number)
        before, factors = projectors(ctx), lora_factors(ctx)
        assert bool(before) == (number > 0)
        start = {name: A.detach().clone() for name, (A, _) in factors.items()}
        for A, B in factors.values():
            torch.testing.assert_close(3 * A @ A.T, torch.eye(2), rtol=0, atol=1e-5)
            assert not A.requires_grad
            assert not B.any()
        for _ in range(5):
            step(method, ctx)
        inputs = inputs_of(data, ctx)
        for name, (A, B) in factors.items():
            assert torch.equal(A, start[name])
            assert B.any()
            if number:
                assert (A @ before[name]).abs().max() < 1e-6
        update = method.after_task(ctx)
        for name, (A, B) in update.factors.items():
            if number:  # what the linear makes of x in span(M) stays
                x = before[name] @ torch.randn(before[name].shape[0])
                assert (B @ (A @ x)).abs().max() < 1e-5
        share = 0.6 + 0.4 * (number + 1) / 3
        for name, M in projectors(ctx).items():
            energy = inputs[name].square().sum()
            assert (inputs[name] - inputs[name] @ M).square().sum() <= (1 - share) * energy + 2e-6 * energy


def test_the_rows_are_the_leading_directions_of_what_the_past_left():
    net = TwoLayers()
    _, memory = learn_from({"name": "inflora", "r": 2}, task_of(net, 0, used=2))
    data = task_of(net, 1, used=5)
    ctx = begin(method_of(), data, memory, number=1)
    x = inputs_of(data, ctx)["first"]
    x = x - x @ projectors(ctx)["first"]
    leading = torch.linalg.svd(x).Vh[:2]
    A = lora_factors(ctx)["first"][0] * 3**0.5
    torch.testing.assert_close(A.T @ A, leading.T @ leading, rtol=0, atol=1e-4)


def test_the_memory_after_a_task_is_of_the_network_that_learnt_it():
    net = TwoLayers()
    data, method = task_of(net, 0, used=6), method_of(subspace_energy=0.5)
    ctx = begin(method, data)
    for _ in range(50):
        step(method, ctx)
    inputs = inputs_of(data, ctx)["second"]
    method.after_task(ctx)
    outside = inputs - inputs @ projectors(ctx)["second"]
    assert outside.square().sum() <= (1 - 0.5 - 0.5 / 3) * inputs.square().sum() * (1 + 1e-5)
    assert not any(isinstance(module, LoraLayer) for module in net.modules())


def test_without_enough_free_directions_there_are_fewer_ranks():
    net = TwoLayers()
    _, memory = learn_from({"name": "inflora", "r": 2}, task_of(net, 0, used=5), tasks=1)
    update, memory = learn_from(
        {"name": "inflora", "r": 4}, task_of(net, 1, used=6), memory, number=1, tasks=2
    )
    assert update.full_ranks == {"first": 4, "second": 4}
    assert update.ranks["first"] == 1
    update, memory = learn_from(
        {"name": "inflora", "r": 4}, task_of(net, 2, used=6), memory, number=2, tasks=3
    )
    assert update.ranks["first"] == 0
    assert "first" not in update.factors
    assert memory.stores["statistics", "complement"]["first"].shape == (6, 0)


def test_directions_without_any_input_are_not_trained():
    net = TwoLayers()
    data, method = task_of(net, 0, used=1), method_of()
    ctx = begin(method, data)
    A, B = lora_factors(ctx)["first"]
    assert A[0].any()
    assert not A[1].any()
    for _ in range(5):
        step(method, ctx)
    assert B[:, 0].any()
    assert not B[:, 1].any()
    assert method.after_task(ctx).ranks["first"] == 1


def test_a_checkpoint_holds_the_fixed_factor():
    net, method = TwoLayers(), method_of()
    ctx = begin(method, task_of(net, 0, used=3))
    state = {name: kept.clone() for name, kept in method.adapter.save_state(ctx).items()}
    with torch.no_grad():
        for A, _ in lora_factors(ctx).values():
            A.add_(1)
    method.adapter.load_state(ctx, state)
    for name, (A, _) in lora_factors(ctx).items():
        assert torch.equal(A, state[name])


def test_the_memory_counts_the_smaller_basis():
    net = TwoLayers()
    _, memory = learn_from({"name": "inflora"}, task_of(net, 0, used=2), tasks=1)
    assert memory.stores["statistics", "subspace"]["first"].shape == (6, 2)
    sizes = {name: basis.shape for store in memory.stores.values() for name, basis in store.items()}
    assert all(held <= features / 2 for features, held in sizes.values())
    assert memory.num_bytes() == {"statistics": 4 * sum(features * held for features, held in sizes.values())}


# --- whole runs ----------------------------------------------------------------------------------------------


def test_a_run_of_a_dual_encoder(config, tmp_path):
    config["method"] = {"name": "inflora", "r": 4, "targets": "attention"}
    config["train"]["steps"] = 4
    folder = run(config, tmp_path / "run", narrator=QUIET).folder
    updates = [TaskUpdate.load(task) for task in sorted((folder / "tasks").iterdir())]
    assert not any(update.no_change for update in updates)
    first = Memory.from_tensors(load_file(folder / "tasks/01-warm/memory.safetensors"))
    groups = {name for store in first.stores.values() for name in store}
    # q, k and v read one tensor; both towers are there.
    assert len(groups) < len(updates[0].ranks)
    assert not any(name.endswith(("k_proj", "v_proj")) for name in groups)
    assert {name.partition(".")[0] for name in groups} == {"vision_model", "text_model"}
    kept = json.loads((folder / "metrics.json").read_text())["memory_bytes"]
    assert kept[0] == first.num_bytes()["statistics"]
    spans = first.stores["statistics", "subspace"]
    held = {name: A @ spans[name] for name, (A, _) in updates[1].factors.items() if name in spans}
    assert held
    assert all(product.abs().max() < 1e-5 for product in held.values())


@pytest.mark.parametrize("save", [save_llama, pytest.param(save_gpt2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["inflora", "gpm", "o_lora"])
def test_a_run_of_a_causal_language_model(name, save, tmp_path):
    config = answers(save(tmp_path / "lm"), tmp_path, {"name": name, "r": 2})
    folder = run(config, tmp_path / "run", narrator=QUIET).folder
    figures = json.loads((folder / "metrics.json").read_text())
    assert all(figures["memory_bytes"])
    updates = [TaskUpdate.load(task) for task in sorted((folder / "tasks").iterdir())]
    assert not any(update.no_change for update in updates)


def answers(model, folder, method):
    """Three tasks of prompts that are always answered alike."""
    words = ("dog", "blue", "7")
    for word in words:
        (folder / word).mkdir()
        for split, count in (("train", 6), ("test", 2)):
            records = [{"prompt": f"{word}, {split} {number}:", "answer": word} for number in range(count)]
            (folder / word / f"{split}.jsonl").write_text("\n".join(map(json.dumps, records)))
    tasks = [{"name": word, "data": f"json:{folder / word}"} for word in words]
    return {
        "model": {"name": str(model)},
        "method": method,
        "train": {"steps": 4, "batch_size": 4, "lr": 1e-2},
        "stream": {"max_answer_tokens": 4, "tasks": tasks},
    }


@pytest.mark.parametrize("name", ["inflora", "gpm"])
def test_stopped_inside_a_task_and_continued_is_the_same_run(config, tmp_path, monkeypatch, name):
    config["method"] = {"name": name, "r": 2, "dropout": 0.2, "targets": ["q_proj", "v_proj"]}
    config["train"] |= {"steps": 6, "checkpoint_steps": 2}
    config["stream"]["tasks"] = config["stream"]["tasks"][:2]
    whole = run(config, tmp_path / "whole", narrator=QUIET).folder
    steps, real = [], trainer.lr_factor

    def stop_in_task_two(step, *rest):
        steps.append(step)
        if len(steps) == 6 + 5:
            raise Killed
        return real(step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "lr_factor", stop_in_task_two)
        with pytest.raises(Killed):
            run(config, tmp_path / "run", narrator=QUIET)
    assert (tmp_path / "run/tasks/02-cool/checkpoint/state.safetensors").is_file()
    continued = run(config, tmp_path / "run", narrator=QUIET).folder
    assert contents(continued) == contents(whole)
