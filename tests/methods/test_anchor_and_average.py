"""The anchor's gradient, the average of a task's way, and both switched off."""

import pytest
import torch
from torch import nn

from codyra.methods import TaskContext, build_method, parse_options

STEPS = 7


def net():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    return plain.requires_grad_(False)


def begin(plain, options, steps=STEPS):
    method = build_method(parse_options(options))
    ctx = TaskContext(plain, ["0", "2"], [name for name, _ in plain.named_parameters()], 0, steps, None)
    torch.manual_seed(2)
    method.before_task(ctx)
    ctx.optimizer = torch.optim.AdamW(method.param_groups(ctx, 0.05), weight_decay=0.0)
    method.optimizer_ready(ctx)
    return method, ctx


def take_steps(method, ctx, first=0, last=STEPS):
    """Yields the trained weights after every step."""
    torch.manual_seed(1)
    inputs, targets = torch.randn(8, 6).double(), torch.randn(8, 4).double()
    for step in range(first, last):
        ctx.step = step
        ctx.optimizer.zero_grad()
        loss = (ctx.net(inputs) - targets).square().mean()
        penalty = method.penalty(ctx)
        (loss if penalty is None else loss + penalty).backward()
        ctx.optimizer.step()
        method.after_step(ctx)
        yield {name: weight.detach().clone() for name, weight in ctx.trained().items()}


OFF = {"distill_weight": 0, "anchor_weight": 0, "average_every": 0}


def test_the_gradient_of_the_anchor_is_two_lambda_times_the_way_gone():
    method, ctx = begin(net(), {"name": "zscl", "anchor_weight": 0.3})
    before = {name: weight.detach().clone() for name, weight in ctx.trained().items()}
    assert method.penalty(ctx).item() == 0
    with torch.no_grad():
        for weight in ctx.trained().values():
            weight.add_(torch.randn_like(weight))
    penalty = method.penalty(ctx)
    squares = sum((weight - before[name]).square().sum().item() for name, weight in ctx.trained().items())
    assert penalty.item() == pytest.approx(0.3 * squares)
    penalty.backward()
    for name, weight in ctx.trained().items():
        torch.testing.assert_close(weight.grad, 2 * 0.3 * (weight.detach() - before[name]))


@pytest.mark.parametrize("every", [1, 2, 3, None])
def test_what_is_kept_is_the_mean_of_the_start_and_of_the_snapshots(every):
    method, ctx = begin(net(), {"name": "zscl", **OFF, "average_every": every})
    ways = [{name: weight.detach().clone() for name, weight in ctx.trained().items()}]
    step_of = every or 1
    ways += [weights for step, weights in enumerate(take_steps(method, ctx), start=1) if step % step_of == 0]
    start = ways[0]
    update = method.after_task(ctx)
    assert len(ways) == 1 + STEPS // step_of
    for name, first in start.items():
        mean = torch.stack([weights[name] for weights in ways]).mean(dim=0)
        torch.testing.assert_close(update.tensors[name] + first, mean, rtol=0, atol=1e-12)


def test_the_default_interval_is_a_tenth_of_the_steps_and_never_leaves_a_task_untrained():
    for steps, snapshots in ((1, 1), (9, 9), (10, 10), (25, 12), (1000, 10)):
        method, ctx = begin(net(), {"name": "zscl", **OFF, "average_every": None}, steps)
        for ctx.step in range(steps):
            method.after_step(ctx)
        assert ctx.state["averaged"] == 1 + snapshots


def test_an_interval_longer_than_the_task_is_refused():
    with pytest.raises(ValueError, match=r"average_every: 8 steps are never taken, the task has 7"):
        begin(net(), {"name": "zscl", "average_every": 8})


def test_an_average_that_was_saved_goes_on():
    options = {"name": "zscl", **OFF, "average_every": 2}
    whole, ctx = begin(net(), options)
    for _ in take_steps(whole, ctx):
        pass
    expected = whole.after_task(ctx)
    first, ctx = begin(net(), options)
    for weights in take_steps(first, ctx, last=5):
        kept = weights
    state = {
        key: value.clone() if hasattr(value, "clone") else value
        for key, value in first.save_state(ctx).items()
    }
    optimizer = ctx.optimizer.state_dict()
    second, later = begin(net(), options)
    with torch.no_grad():
        for name, weight in later.trained().items():
            weight.copy_(kept[name])
    later.optimizer.load_state_dict(optimizer)
    second.load_state(later, state)
    for _ in take_steps(second, later, first=5):
        pass
    found = second.after_task(later)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.tensors.items())


def test_weight_zero_on_all_terms_is_full_fine_tuning():
    updates = []
    for options in ({"name": "zscl", **OFF}, {"name": "full"}, {"name": "lwf", "adapter": "full"}):
        method, ctx = begin(net(), options)
        for _ in take_steps(method, ctx):
            pass
        updates.append(method.after_task(ctx))
    for other in updates[1:]:
        assert all(torch.equal(other.tensors[name], tensor) for name, tensor in updates[0].tensors.items())


def test_weights_that_round_steps_away_are_not_trained():
    with pytest.raises(ValueError, match=r"bfloat16 rounds most steps away; set model\.dtype to float32"):
        begin(net().bfloat16(), {"name": "full"})
