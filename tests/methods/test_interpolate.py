"""Interpolation of full weights, whatever was trained: its ends, its middle, and its two references."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from codyra.methods import TaskContext, build_method, parse_options
from codyra.update import compose
from tiny_nets import TwoLayers


def learn(plain, base, options, task_index, previous):
    """(update, weights before, weights as tuned) of a task on a net that has the weights of the tasks before."""
    method = build_method(parse_options(options))
    names = [name for name, _ in plain.named_parameters()]
    ctx = TaskContext(plain, ["first", "second"], names, task_index, 4, previous, base=base)
    before = {name: weight.detach().clone() for name, weight in plain.named_parameters()}
    torch.manual_seed(task_index)
    method.before_task(ctx)
    with torch.no_grad():
        for weight in ctx.trained().values():
            weight.add_(0.3 * torch.randn_like(weight))
    tuned = method.adapter.extract(ctx, "low_rank")
    update = method.after_task(ctx)
    assert all(torch.equal(plain.get_parameter(name), weight) for name, weight in before.items())
    return update, before, compose(plain, before, [tuned])


def stream(options, layer=nn.Linear, tasks=3, dtype=torch.float32):
    """(base, [(update, weights before, as tuned, as kept) of every task])."""
    torch.manual_seed(9)
    plain = TwoLayers(layer).to(dtype).requires_grad_(False)
    full = options.get("adapter") == "full"
    base = {
        name: weight.detach().clone()
        for name, weight in plain.named_parameters()
        if full or name.endswith("weight")
    }
    updates, told = [], []
    for task_index in range(tasks):
        previous = updates[-1] if updates else None
        update, before, tuned = learn(plain, base, options, task_index, previous)
        updates.append(update)
        kept = compose(plain, base, updates)
        told.append((update, before, tuned, kept))
        with torch.no_grad():
            for name, weight in kept.items():
                plain.get_parameter(name).copy_(weight)
    return base, told


CASES = [("lora", nn.Linear), ("lora", Conv1D), ("full", nn.Linear)]


@pytest.mark.parametrize("reference", ["previous", "pretrained"])
@pytest.mark.parametrize(("adapter", "layer"), CASES)
@pytest.mark.parametrize("alpha", [0.8, 0.25])
def test_it_is_the_interpolation_of_the_full_weights(adapter, layer, reference, alpha):
    options = {"name": "wise_ft", "adapter": adapter, "merge_alpha": alpha, "merge_reference": reference}
    base, told = stream(options, layer)
    for _, before, tuned, kept in told:
        others = before if reference == "previous" else base
        for name, weight in kept.items():
            expected = alpha * tuned[name] + (1 - alpha) * others[name]
            torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("reference", ["previous", "pretrained"])
@pytest.mark.parametrize(("adapter", "layer"), CASES)
def test_one_is_the_plain_merge(adapter, layer, reference):
    options = {"adapter": adapter, "merge_alpha": 1, "merge_reference": reference}
    _, told = stream({"name": "wise_ft", **options}, layer)
    _, plain = stream({"name": "lwf", "adapter": adapter}, layer)
    for (*_, kept), (*_, expected) in zip(told, plain, strict=True):
        assert all(torch.equal(kept[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize(("adapter", "layer"), CASES)
def test_zero_leaves_every_bit_as_it_was(adapter, layer):
    base, told = stream({"name": "wise_ft", "adapter": adapter, "merge_alpha": 0}, layer)
    for update, _, _, kept in told:
        assert update.no_change
        assert all(torch.equal(kept[name], weight) for name, weight in base.items())


def test_with_the_base_model_what_was_learnt_before_fades_as_well():
    alpha = 0.5
    base, told = stream({"name": "wise_ft", "merge_alpha": alpha, "merge_reference": "pretrained"})
    assert [update.kind for update, *_ in told] == ["low_rank", "dense", "dense"]
    learnt = [{name: tuned[name] - before[name] for name in base} for _, before, tuned, _ in told]
    for name, weight in told[-1][-1].items():
        expected = base[name] + sum(alpha ** (3 - index) * dW[name] for index, dW in enumerate(learnt))
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6)


def test_on_a_bfloat16_base_it_is_right_to_the_rounding_of_the_weights():
    options = {"name": "wise_ft", "merge_alpha": 0.5, "merge_reference": "pretrained"}
    base, told = stream(options, dtype=torch.bfloat16)
    for _, _, tuned, kept in told:
        for name, weight in kept.items():
            expected = 0.5 * tuned[name].float() + 0.5 * base[name].float()
            torch.testing.assert_close(weight.float(), expected, rtol=2**-6, atol=2**-8)
