"""SoRA equals a dense reference twin; without threshold and l1 it is gated LoRA, with CoDyRA's schedule CoDyRA."""

import pytest
import torch
from torch import nn

from codyra.methods import TaskContext, build_method, parse_options
from reference import effective, shrink

STEPS, R, IN, OUT, LR = 113, 6, 8, 7, 0.02


def net():
    torch.manual_seed(1)
    plain = nn.ModuleDict({"linear": nn.Linear(IN, OUT, bias=False)}).double()
    plain.requires_grad_(False)
    return plain


def train(options, steps=STEPS):
    """Gates after `steps` of a regression, and the first factors and gates."""
    plain, method = net(), build_method(parse_options({"r": R, **options}))
    torch.manual_seed(2)
    inputs, targets = torch.randn(12, IN).double(), torch.randn(12, OUT).double()
    ctx = TaskContext(plain, ["linear"], [], 0, steps, None)
    torch.manual_seed(3)
    method.before_task(ctx)
    layer = plain.get_submodule("linear")
    A = layer.lora_A["default"].weight.detach().clone()
    gate = layer.lora_gate["default"].weight
    start = gate.detach().clone()
    ctx.optimizer = torch.optim.AdamW(method.param_groups(ctx, LR))
    method.optimizer_ready(ctx)
    for _ in range(steps):
        ctx.optimizer.zero_grad()
        loss = (layer(inputs) - targets).square().mean()
        penalty = method.penalty(ctx)
        (loss if penalty is None else loss + penalty).backward()
        ctx.optimizer.step()
    result = gate.detach().clone()
    return result, A, start, (inputs, targets)


def test_it_equals_a_dense_twin_for_more_than_a_hundred_steps():
    """A quarter of the steps and one more without threshold, then seven stages of twelve."""
    kappas = [0.0] * 29 + [0.05 * stage / 6 for stage in range(7) for _ in range(12)]
    assert len(kappas) == STEPS
    options = {"name": "sora", "kappa_max": 0.05, "gate_l1": 0.3}
    gates, A, start, (inputs, targets) = train(options)
    W = net().linear.weight.detach()
    weights = [A, torch.zeros(OUT, R).double(), start]
    parameters = [weight.clone().requires_grad_() for weight in weights]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.0)
    for kappa in kappas:
        optimizer.zero_grad()
        dense = effective(W, parameters[0], parameters[1], parameters[2])
        loss = (inputs @ dense.T - targets).square().mean() + 0.3 * parameters[2].abs().mean()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            parameters[2].copy_(
                torch.stack(
                    [torch.tensor(shrink(float(w), kappa, "official"), dtype=w.dtype) for w in parameters[2]]
                )
            )
    torch.testing.assert_close(gates, parameters[2].detach(), rtol=0, atol=1e-9)
    assert 0 < int((gates == 0).sum()) < R


def test_without_threshold_and_l1_it_is_gated_lora():
    sora, *_ = train({"name": "sora", "kappa_max": 1e-300, "gate_l1": 0})
    gated, *_ = train({"name": "random_ranks"})
    torch.testing.assert_close(sora, gated, rtol=0, atol=1e-12)


def test_with_the_schedule_of_codyra_its_gates_are_those_of_codyra():
    schedule = {"schedule": "linear", "operator": "soft", "dense_fraction": 0.5, "kappa_total": 0.65}
    sora, *_ = train({"name": "sora", "gate_l1": 0, "kappa_max": None, "levels": None, **schedule})
    codyra, *_ = train({"name": "codyra", **schedule})
    assert torch.equal(sora, codyra)


@pytest.mark.parametrize("gate_lr", [0.0, 0.5])
def test_a_learning_rate_of_the_gates_own(gate_lr):
    gates, _, start, _ = train({"name": "random_ranks", "gate_lr": gate_lr})
    assert torch.equal(gates, start) == (gate_lr == 0)
