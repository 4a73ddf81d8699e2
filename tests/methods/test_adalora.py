"""AdaLoRA: the rank really falls, by an allocation after every step, and the update is what the adapter computed."""

import copy

import pytest
import torch
from peft.tuners.adalora import AdaLoraModel, SVDLinear
from transformers.pytorch_utils import Conv1D

from codyra.methods import TaskContext, build_method, parse_options
from codyra.update import compose, write_weights
from methods.toy_task import learn, step, toy_context, toy_net, train


def adalora(**options):
    return build_method(parse_options({"name": "adalora", **options}))


@pytest.fixture
def calls(monkeypatch):
    """Steps that peft's allocation was called with."""
    seen, real = [], AdaLoraModel.update_and_allocate

    def noted(self, global_step):
        seen.append(global_step)
        return real(self, global_step)

    monkeypatch.setattr(AdaLoraModel, "update_and_allocate", noted)
    return seen


@pytest.mark.parametrize("steps", [2, 3, 5, 40])
@pytest.mark.parametrize(("start", "end"), [(0.1, 0.5), (0.0, 1.0), (0.9, 0.95)])
def test_the_rank_is_allocated_after_every_step_and_falls_to_the_target(calls, steps, start, end):
    method = adalora(init_r=6, target_r=2, budget_start=start, budget_end=end)
    update, _ = learn(method, toy_net(), total_steps=steps)
    assert calls == [*range(1, steps + 1)]
    assert sum(update.ranks.values()) == 2 * 2
    assert set(update.full_ranks.values()) == {6}


def test_the_rank_falls_step_by_step_and_what_is_dropped_stays_dropped():
    method, net = adalora(init_r=12, target_r=3, budget_start=0.2, budget_end=0.7), toy_net()
    ctx = toy_context(net, total_steps=20)
    method.before_task(ctx)
    train(method, ctx, steps=0)
    kept = []
    for _ in range(20):
        step(method, ctx)
        kept.append(method.train_log(ctx)["kept"] * 2)
    assert kept[:4] == [24] * 4
    assert kept == sorted(kept, reverse=True)
    assert 6 < kept[7] < 24
    assert kept[13:] == [6] * 7
    method.after_task(ctx)


def test_the_merged_network_gives_what_the_adapter_gave():
    net, method = toy_net(), adalora(init_r=5, target_r=3, alpha=7.0)
    ctx = toy_context(net, total_steps=12)
    method.before_task(ctx)
    train(method, ctx)
    with torch.no_grad():
        wanted = net(ctx.data.inputs)
    update = method.after_task(ctx)
    assert update.kind == "low_rank"
    base = {name: net.get_parameter(name).detach().clone() for name in ("first.weight", "second.weight")}
    plain = net(ctx.data.inputs)
    write_weights(net, compose(net, base, [update]))
    torch.testing.assert_close(net(ctx.data.inputs), wanted)
    assert not torch.allclose(plain, wanted)


def test_the_fold_is_exact():
    """Forward of peft: x Q' diag(lambda) P' alpha / (init_r + 1e-5)."""
    net, method = toy_net(), adalora(init_r=4, target_r=3, alpha=9.0)
    ctx = toy_context(net, total_steps=6)
    method.before_task(ctx)
    train(method, ctx)
    deltas = {
        name: layer.get_delta_weight("default").detach()
        for name, layer in net.named_modules()
        if isinstance(layer, SVDLinear)
    }
    update = method.after_task(ctx)
    for name, (A_KD, B_OK) in update.factors.items():
        torch.testing.assert_close(B_OK @ A_KD, deltas[name], rtol=1e-6, atol=1e-9)


def test_conv1d_lies_the_other_way():
    torch.manual_seed(0)
    net = torch.nn.Sequential()
    net.add_module("first", Conv1D(5, 6))
    net.requires_grad_(False)
    method = adalora(init_r=4, target_r=2)
    ctx = TaskContext(net, ["first"], [], task_index=0, total_steps=8, previous=None)
    method.before_task(ctx)
    ctx.optimizer = torch.optim.AdamW(method.param_groups(ctx, 0.05))
    inputs = torch.randn(7, 6)
    for _ in range(8):
        ctx.optimizer.zero_grad()
        (net(inputs) - 1).square().mean().backward()
        method.after_backward(ctx)
        ctx.optimizer.step()
        method.after_step(ctx)
    wanted = net(inputs).detach()
    update = method.after_task(ctx)
    base = {"first.weight": net.first.weight.detach().clone()}
    write_weights(net, compose(net, base, [update]))
    torch.testing.assert_close(net(inputs), wanted)


def test_the_penalty_pulls_p_and_q_to_orthonormal():
    net, method = toy_net(), adalora(init_r=3, target_r=2, orthogonality=0.5)
    ctx = toy_context(net)
    method.before_task(ctx)
    norms = []
    for layer in net.modules():
        if isinstance(layer, SVDLinear):
            P, Q = layer.lora_B["default"], layer.lora_A["default"]
            norms += [(P.T @ P - torch.eye(3)).norm().item(), (Q @ Q.T - torch.eye(3)).norm().item()]
    assert len(norms) == 4
    assert method.penalty(ctx).item() == pytest.approx(0.5 * sum(norms) / 4)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, SVDLinear):
                layer.lora_B["default"].copy_(torch.eye(layer.out_features, 3))
                layer.lora_A["default"].copy_(torch.eye(3, layer.in_features))
    assert method.penalty(ctx).item() == pytest.approx(0, abs=1e-6)
    assert adalora(orthogonality=0).penalty(ctx) is None


@pytest.mark.parametrize("missing", ["after_step", "after_backward", "every second"])
def test_training_without_allocation_is_no_success(missing):
    net, method = toy_net(), adalora(init_r=4, target_r=2)
    ctx = toy_context(net)
    method.before_task(ctx)
    ctx.optimizer = torch.optim.AdamW(method.param_groups(ctx, 0.05))
    (batch,) = ctx.data.plain_batches(range(8), 8)
    for number in range(10):
        ctx.optimizer.zero_grad()
        ctx.data.loss(batch)["loss"].backward()
        if missing != "after_backward":
            method.after_backward(ctx)
        ctx.optimizer.step()
        if missing == "after_backward" or (missing == "every second" and number % 2):
            method.after_step(ctx)
    with pytest.raises(RuntimeError, match=r"the rank was allocated \d+ times in 10 optimizer steps of 10"):
        method.after_task(ctx)


@pytest.mark.parametrize("stop", [2, 5, 9])
def test_saved_and_loaded_state_goes_on_bit_for_bit(stop):
    """In every phase: before the rank falls, while it does, and when the survivors are chosen."""
    method = adalora(init_r=6, target_r=2, budget_start=0.3, budget_end=0.7)

    def begin():
        net = toy_net()
        ctx = toy_context(net)
        torch.manual_seed(5)
        method.before_task(ctx)
        train(method, ctx, steps=0)
        return ctx

    ctx = begin()
    for _ in range(stop):
        step(method, ctx)
    state = copy.deepcopy(method.save_state(ctx))
    weights = {name: weight.detach().clone() for name, weight in ctx.trained().items()}
    optimizer = copy.deepcopy(ctx.optimizer.state_dict())
    resumed = begin()
    with torch.no_grad():
        for name, weight in resumed.trained().items():
            weight.copy_(weights[name])
    resumed.optimizer.load_state_dict(optimizer)
    method.load_state(resumed, state)
    for one in (ctx, resumed):
        for _ in range(10 - stop):
            step(method, one)
    one, other = method.after_task(ctx), method.after_task(resumed)
    assert one.ranks == other.ranks
    for module, factors in one.factors.items():
        assert all(map(torch.equal, factors, other.factors[module]))


def test_options_that_cannot_be():
    with pytest.raises(ValueError, match="adalora scores triplets in one step and drops them in another"):
        adalora().before_task(toy_context(toy_net(), total_steps=1))
    with pytest.raises(ValueError, match="target_r 12 must be below init_r 12: the rank is to fall"):
        adalora(target_r=12)
    with pytest.raises(ValueError, match=r"budget_end 0\.1 must be above budget_start 0\.2"):
        adalora(budget_start=0.2, budget_end=0.1)


def test_a_linear_that_took_no_part_is_no_obstacle():
    """As the pooler of a sentence encoder, or an expert that no token reached."""
    net, method = toy_net(), adalora(init_r=4, target_r=2)
    ctx = TaskContext(net, ["first", "second"], [], task_index=0, total_steps=8, previous=None)
    method.before_task(ctx)
    ctx.optimizer = torch.optim.AdamW(method.param_groups(ctx, 0.05))
    inputs = torch.randn(7, net.first.in_features)
    for _ in range(8):
        ctx.optimizer.zero_grad()
        (net.first(inputs) - 1).square().mean().backward()
        method.after_backward(ctx)
        ctx.optimizer.step()
        method.after_step(ctx)
    update = method.after_task(ctx)
    assert 0 < update.ranks["first"] + update.ranks["second"] <= 4
