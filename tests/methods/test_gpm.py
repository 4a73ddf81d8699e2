"""GPM on LoRA: AdamW steps leave what past tasks used alone."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import Linear
from transformers.pytorch_utils import Conv1D

from codyra.engine.progress import Narrator
from codyra.engine.run import run
from codyra.methods import Memory, build_method, parse_options
from codyra.methods.pieces.lora import lora_factors
from codyra.methods.pieces.subspace import past_subspaces
from codyra.update import TaskUpdate
from methods.toy_task import begin, learn_from, step, task_of
from tiny_nets import TwoLayers

MODULES = ("first", "second")
OPTIONS = {"name": "gpm", "r": 3, "subspace_energy": 0.8}


def after_one_task(layer=Linear):
    net = TwoLayers(layer)
    _, memory = learn_from(OPTIONS, task_of(net, 0, used=3))
    return net, memory


@pytest.mark.parametrize("layer", [Linear, Conv1D])
def test_steps_of_adamw_leave_the_past_alone(layer):
    net, memory = after_one_task(layer)
    method = build_method(parse_options(OPTIONS))
    ctx = begin(method, task_of(net, 1, used=6), memory, number=1)
    past, factors = past_subspaces(ctx), lora_factors(ctx)
    assert set(past) == set(MODULES)
    start = {name: A.detach().clone() for name, (A, _) in factors.items()}
    for _ in range(20):
        step(method, ctx)
        for name, (A, B) in factors.items():
            identity = torch.eye(len(past[name].basis))
            M = identity - past[name].without(identity)
            assert M.trace() > 0.9
            assert (A @ M).abs().max() < 1e-6
            assert (B @ A @ M).abs().max() < 1e-6
    assert all((A - start[name]).abs().max() > 0.01 for name, (A, _) in factors.items())
    assert all(B.any() for _, B in factors.values())


def test_without_the_projection_of_the_step_adamw_would_leave_the_free_directions():
    net, memory = after_one_task()
    method = build_method(parse_options(OPTIONS))
    ctx = begin(method, task_of(net, 1, used=6), memory, number=1)
    A, past = lora_factors(ctx)["first"][0], past_subspaces(ctx)["first"]
    (batch,) = ctx.data.plain_batches(range(40), 40)
    for _ in range(3):  # B is zero before the first step, and with it the gradient of A
        ctx.optimizer.zero_grad()
        ctx.data.loss(batch)["loss"].backward()
        method.after_backward(ctx)
        torch.testing.assert_close(past.without(A.grad), A.grad, rtol=0, atol=1e-6)
        ctx.optimizer.step()
    assert (A - past.without(A)).abs().max() > 1e-3
    method.after_step(ctx)
    assert (A - past.without(A)).abs().max() < 1e-6


def test_the_first_task_is_plain_lora():
    net = TwoLayers()
    data = task_of(net, 0, used=3)
    plain, _ = learn_from({"name": "lora", "r": 3}, data)
    own, memory = learn_from(OPTIONS, data)
    assert all(map(torch.equal, plain.factors["first"], own.factors["first"]))
    assert memory.num_bytes()["statistics"] > 0


def test_the_memory_holds_its_share_of_every_task():
    net, memory, tasks = TwoLayers(), Memory(), []
    for number in range(3):
        data = task_of(net, number, used=3)
        _, memory = learn_from(OPTIONS, data, memory, number=number)
        tasks.append(data.inputs)
        ctx = begin(build_method(parse_options(OPTIONS)), data, memory, number=number + 1)
        outside = past_subspaces(ctx)["first"].without
        # Of the first linear's inputs, which no training changes.
        assert all(outside(x).square().sum() <= 0.2 * x.square().sum() + 1e-5 for x in tasks)
        build_method(parse_options(OPTIONS)).adapter.discard(ctx)


def test_where_nothing_is_free_nothing_is_learnt():
    net = TwoLayers()
    options = OPTIONS | {"subspace_energy": 1.0}
    _, memory = learn_from(options, task_of(net, 0, used=6))
    update, _ = learn_from(options, task_of(net, 1, used=6), memory, number=1)
    assert update.ranks["first"] == 0
    assert "first" not in update.factors


def test_a_run_of_a_dual_encoder_stays_off_the_past(config, tmp_path):
    config["method"] = {"name": "gpm", "r": 2, "subspace_energy": 0.8, "targets": "attention"}
    config["train"]["steps"] = 4
    folder = run(config, tmp_path / "run", narrator=Narrator(quiet=True)).folder
    memory = Memory.from_tensors(load_file(folder / "tasks/01-warm/memory.safetensors"))
    update = TaskUpdate.load(folder / "tasks/02-cool")
    spans = memory.store("statistics", "subspace")
    assert spans
    for name, basis in spans.items():
        A, _ = update.factors[name]
        assert (A @ basis).abs().max() < 1e-5
    kept = json.loads((folder / "metrics.json").read_text())["memory_bytes"]
    assert kept[0] == memory.num_bytes()["statistics"]
    assert len(kept) == 3
