"""EWC holds the adapter where earlier tasks depend on it, by the Fisher information it says."""

import pytest
import torch

from codyra.methods import Memory, build_method, parse_options
from methods.toy_task import ToyData, learn, step, toy_context, toy_net, train


def ewc(**options):
    return build_method(parse_options({"name": "ewc", "r": 2, **options}))


def second_task(method, net):
    """(context of task 2 with its adapter on, update and memory of task 1)."""
    update, first = learn(method, net)
    ctx = toy_context(net, task_index=1, previous=update, memory=first.memory)
    method.before_task(ctx)
    return ctx, update, first.memory


@pytest.mark.parametrize("fisher_examples", [None, 3, 100])
def test_fisher_is_the_mean_of_squared_gradients_of_single_examples(fisher_examples):
    net, method = toy_net(), ewc(fisher_examples=fisher_examples, dropout=0.4)
    ctx = toy_context(net)
    method.before_task(ctx)
    train(method, ctx)
    data = ctx.data
    count = min(fisher_examples or len(data), len(data))
    positions = ctx.rng("fisher").sample(range(len(data)), count)
    assert fisher_examples != 3 or len(set(positions)) == 3
    expected = {name: torch.zeros_like(weight) for name, weight in ctx.trained().items()}
    dropping = [module for module in net.modules() if isinstance(module, torch.nn.Dropout)]
    assert dropping
    for module in dropping:
        module.eval()
    for position in positions:
        net.zero_grad()
        error = net(data.inputs[position]) - data.targets[position]
        (error.square().sum() / 2).backward()
        for name, weight in ctx.trained().items():
            expected[name] += weight.grad.square() / count
    for module in dropping:
        module.train()
    net.zero_grad()
    method.after_task(ctx)
    kept = ctx.memory.store("statistics", "fisher")
    assert kept.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(kept[name], value)


def test_the_memory_is_four_bytes_per_trained_parameter():
    net, method = toy_net(), ewc()
    ctx = toy_context(net)
    method.before_task(ctx)
    num_trained = sum(weight.numel() for weight in ctx.trained().values())
    train(method, ctx)
    method.after_task(ctx)
    assert ctx.memory.num_bytes() == {"statistics": 4 * num_trained}


def test_the_penalty_is_the_quadratic_form_and_zero_at_the_start():
    net, method = toy_net(), ewc(ewc_lambda=30.0)
    assert method.penalty(_started(method, toy_net())) is None, "nothing to hold in the first task"
    ctx, _, memory = second_task(method, net)
    assert method.penalty(ctx).item() == 0
    start = {name: weight.detach().clone() for name, weight in ctx.trained().items()}
    with torch.no_grad():
        for weight in ctx.trained().values():
            weight.add_(torch.randn_like(weight))
    penalty = method.penalty(ctx)
    penalty.backward()
    total = 0.0
    for name, weight in ctx.trained().items():
        fisher, moved = memory.store("statistics", "fisher")[name], weight.detach() - start[name]
        total += 15.0 * float((fisher * moved**2).sum())
        torch.testing.assert_close(weight.grad, 30.0 * fisher * moved)
    assert penalty.item() == pytest.approx(total, rel=1e-5)


def _started(method, net):
    ctx = toy_context(net)
    method.before_task(ctx)
    return ctx


def test_theta_star_is_where_the_task_before_ended():
    net, method = toy_net(), ewc(alpha=6.0)
    ctx, update, _ = second_task(method, net)
    resumed = method.adapter.extract(ctx, "cumulative")
    for module, factors in update.factors.items():
        for one, other in zip(factors, resumed.factors[module], strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_fisher_of_two_tasks_is_summed_with_gamma(gamma):
    net, method = toy_net(), ewc(ewc_gamma=gamma, ewc_lambda=0.0)
    ctx, _, memory = second_task(method, net)
    old = {name: value.clone() for name, value in memory.store("statistics", "fisher").items()}
    train(method, ctx)
    new = method.pieces[1]._fisher(ctx)
    method.after_task(ctx)
    for name, value in ctx.memory.store("statistics", "fisher").items():
        torch.testing.assert_close(value, gamma * old[name] + new[name])


def test_lambda_zero_is_lora_that_continues():
    updates = []
    for method in (
        ewc(ewc_lambda=0.0),
        build_method(parse_options({"name": "lora", "r": 2, "carry": "continue"})),
    ):
        net, update, memory = toy_net(), None, Memory()
        for task in range(3):
            update, ctx = learn(method, net, task_index=task, previous=update, memory=memory)
            memory = ctx.memory
        updates.append(update)
    one, other = updates
    assert one.factors.keys() == other.factors.keys()
    for module, factors in one.factors.items():
        assert all(map(torch.equal, factors, other.factors[module]))


def test_a_large_lambda_freezes():
    """Under plain gradient descent with a step that the curvature allows nothing moves; Adam rescales gradients."""
    distances = []
    for weight in (0.0, 1e12):
        net, method = toy_net(), ewc(ewc_lambda=weight)
        ctx, _, _ = second_task(method, net)
        start = {name: value.detach().clone() for name, value in ctx.trained().items()}
        fisher = torch.cat([part.flatten() for part in ctx.memory.store("statistics", "fisher").values()])
        ctx.optimizer = torch.optim.SGD(
            ctx.trained().values(), lr=min(0.05, 1 / max(weight * fisher.max(), 1e-9))
        )
        method.optimizer_ready(ctx)
        for _ in range(20):
            step(method, ctx)
        distances.append(
            max(float((value.detach() - start[name]).abs().max()) for name, value in ctx.trained().items())
        )
    assert distances[0] > 1e-2
    assert distances[1] < 1e-8


def test_dropout_is_on_again_after_fisher_was_measured():
    net, method = toy_net(), ewc(dropout=0.4)
    ctx = _started(method, net)
    method.pieces[1]._fisher(ctx)
    assert all(module.training for module in net.modules() if isinstance(module, torch.nn.Dropout))


def test_carry_is_not_open():
    with pytest.raises(ValueError, match="carry"):
        parse_options({"name": "ewc", "carry": "merge"})


def test_toy_data_is_what_it_says():
    net = toy_net()
    data = ToyData(net)
    (batch,) = data.plain_batches([1, 4], 2)
    assert torch.equal(batch["inputs"], data.inputs[[1, 4]])
