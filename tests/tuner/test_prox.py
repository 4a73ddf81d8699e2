"""The proximal step: its schedules and operators, what it refuses, and that it can neither be forgotten nor doubled."""

import copy
import json
import warnings
from itertools import groupby

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn

import reference
from codyra.tuner import CodyraConfig, Gate, GatedLinear, ProximalStep, named_gates, param_groups
from codyra.tuner.prox import (
    linear_thresholds,
    official_threshold,
    official_thresholds,
    soft_threshold,
    stage_thresholds,
)
from tiny_nets import TwoLayers, train


@pytest.fixture
def model():
    torch.manual_seed(0)
    return get_peft_model(TwoLayers(), CodyraConfig(r=4, target_modules=["first", "second"]))


def adamw(model, **options) -> torch.optim.Optimizer:
    return torch.optim.AdamW(param_groups(model, lr=1e-3), betas=(0.9, 0.9999), **options)


def weights(model) -> list[torch.Tensor]:
    return [gate.weight.detach().clone() for _, gate in named_gates(model)]


def assert_same(left, right) -> None:
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


# --- schedules


def test_official_schedule_of_the_paper():
    thresholds = official_thresholds(500, 0.5, kappa_max=0.005, levels=50)
    assert len(thresholds) == 249
    assert sum(thresholds) == pytest.approx(6369 / 49 * 0.005)
    assert thresholds[490 - 251] == pytest.approx(0.005)
    assert thresholds[489 - 251] < 0.005


@settings(max_examples=60, deadline=None)
@given(steps=st.integers(1, 400), fraction=st.floats(0, 0.99), total=st.floats(0.01, 5))
def test_linear_schedule_sums_to_kappa_total(steps, fraction, total):
    thresholds = linear_thresholds(steps, fraction, total)
    assert len(thresholds) == sum(t > fraction * steps for t in range(steps))
    if thresholds:
        assert sum(thresholds) == pytest.approx(total)
        assert thresholds == sorted(thresholds)


def test_stages_are_equally_long():
    thresholds = stage_thresholds(141, 0.25, kappa_max=7e-4, levels=7)
    stages = [list(same) for _, same in groupby(thresholds)]
    assert len(thresholds) == 105
    assert [len(stage) for stage in stages] == [15] * 7
    assert [stage[0] for stage in stages] == pytest.approx(
        torch.linspace(0, 7e-4, 7, dtype=torch.float64).tolist()
    )
    uneven = [len(list(same)) for _, same in groupby(stage_thresholds(100, 0.0, 1.0, 7))]
    assert sum(uneven) == 99
    assert set(uneven) == {14, 15}


@settings(max_examples=60, deadline=None)
@given(steps=st.integers(1, 400), fraction=st.floats(0, 0.99), levels=st.integers(2, 60))
def test_official_schedule_is_the_released_loop(steps, fraction, levels):
    expected = reference.thresholds(steps, fraction, kappa_max=0.01, levels=levels)
    if int((steps - fraction * steps) // levels) == 0:
        with pytest.raises(ValueError, match="schedule='linear'"):
            official_thresholds(steps, fraction, 0.01, levels)
    else:
        thresholds = official_thresholds(steps, fraction, 0.01, levels)
        assert [0.0] * (steps - len(thresholds)) + thresholds == pytest.approx(expected)


# --- operators


@settings(max_examples=100, deadline=None)
@given(value=st.floats(-2, 2), kappa=st.floats(0, 1))
@pytest.mark.parametrize(("name", "operator"), [("soft", soft_threshold), ("official", official_threshold)])
def test_operators_equal_the_reference(name, operator, value, kappa):
    result = operator(torch.tensor([value], dtype=torch.float64), kappa).item()
    assert result == pytest.approx(reference.shrink(value, kappa, name), abs=1e-15)


@pytest.mark.parametrize(
    ("schedule", "operator", "low", "high"),
    [
        ({"kappa_total": 0.65}, "soft", 0.51, 0.52),
        ({"schedule": "official"}, "soft", 0.51, 0.52),
        pytest.param({"schedule": "official"}, "official", 0.51, 0.516, marks=pytest.mark.slow),
    ],
)
def test_share_of_a_million_gates_kept_without_gradient(schedule, operator, low, high):
    # P(|N(0, 1)| > 0.65) = 0.5157: what the draw alone keeps.
    gate = Gate(1_000_000, "normal", torch.device("cpu"), torch.float32)
    optimizer = torch.optim.AdamW([gate.weight], lr=5e-4, weight_decay=0.0)
    prox = ProximalStep(
        optimizer, nn.ModuleDict({"gate": gate}), total_steps=500, operator=operator, **schedule
    )
    for _ in range(500):
        optimizer.step()  # no gradient: the gates move by the operator alone
    assert prox.calls == 249
    assert prox.total_shrink == pytest.approx(0.65, abs=2e-4)
    assert low < gate.weight.count_nonzero().item() / 1_000_000 < high


# --- on an optimizer


def test_param_groups_select_by_type_not_by_name():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj = nn.Linear(6, 4)

    model = get_peft_model(Gated(), CodyraConfig(r=2, target_modules=["gate_proj"]))
    factors, gates = param_groups(model, lr=0.1)
    assert [tuple(weight.shape) for weight in factors["params"]] == [(2, 6), (4, 2)]
    assert [tuple(weight.shape) for weight in gates["params"]] == [(2,)]
    assert factors["weight_decay"] == gates["weight_decay"] == 0.0
    optimizer = torch.optim.AdamW([factors, gates], weight_decay=0.3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.0]


def test_every_trainable_parameter_is_in_one_group(model):
    grouped = [id(weight) for group in param_groups(model, lr=0.1) for weight in group["params"]]
    assert sorted(grouped) == sorted(id(weight) for weight in model.parameters() if weight.requires_grad)


def test_counts_and_kappa(model):
    optimizer = adamw(model)
    prox = ProximalStep(optimizer, model, total_steps=10, kappa_total=0.5)
    assert (prox.steps, prox.calls, prox.kappa) == (0, 0, 0.0)
    kappas = []
    for _ in range(10):
        train(model, optimizer, 1)
        kappas.append(prox.kappa)
    assert (prox.steps, prox.calls) == (10, 4)
    assert kappas[:6] == [0.0] * 6
    assert kappas[6:] == pytest.approx([0.05, 0.1, 0.15, 0.2])
    prox.check_fired()


def test_moments_and_factors_are_left_alone(model):
    twin = copy.deepcopy(model)
    with_prox, without = adamw(model), adamw(twin)
    ProximalStep(with_prox, model, total_steps=4, dense_fraction=0.5, kappa_total=0.3)
    train(model, with_prox, 4)
    train(twin, without, 4)
    # The only proximal step is the last one: everything but the gates is equal.
    for (name, ours), plain in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, plain) == ("lora_gate" not in name)
    assert_same(
        [state[key] for state in with_prox.state.values() for key in ("exp_avg", "exp_avg_sq")],
        [state[key] for state in without.state.values() for key in ("exp_avg", "exp_avg_sq")],
    )
    assert_same(weights(model), [soft_threshold(gate, 0.3) for gate in weights(twin)])


def test_a_group_of_gates_and_factors_together_is_fine_when_nothing_decays(model):
    twin = copy.deepcopy(model)
    mixed = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], 1e-3, (0.9, 0.9999), weight_decay=0
    )
    ProximalStep(mixed, model, total_steps=8)
    train(model, mixed, 8)
    apart = adamw(twin)
    ProximalStep(apart, twin, total_steps=8)
    train(twin, apart, 8)
    assert_same(model.parameters(), twin.parameters())


def test_groups_that_are_stepped_one_after_another_make_one_step(model):
    """As DeepSpeed steps them, each on a flat copy of the parameters."""
    optimizer = adamw(model)
    prox = ProximalStep(optimizer, model, total_steps=4, kappa_total=0.3, dense_fraction=0.0)
    groups = optimizer.param_groups
    for group in groups:
        group["params"] = [nn.Parameter(torch.ones(7))]
    for _ in range(4):
        for group in groups:
            group["params"][0].grad = torch.zeros(7)
            optimizer.param_groups = [group]
            optimizer.step()
            optimizer.param_groups = groups
    assert (prox.steps, prox.calls) == (4, 3)
    factors, gates = (group["params"][0] for group in groups)
    torch.testing.assert_close(factors.data, torch.ones(7))
    torch.testing.assert_close(gates.data, torch.full((7,), 0.7))


def test_accelerate_is_unwrapped(model):
    twin = copy.deepcopy(model)
    accelerator = Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, adamw(model))
    prox = ProximalStep(optimizer, prepared, total_steps=8)
    train(prepared, optimizer, 8)
    plain = adamw(twin)
    ProximalStep(plain, twin, total_steps=8)
    train(twin, plain, 8)
    assert prox.calls == 3
    assert_same(model.parameters(), twin.parameters())


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_does_not_count(model, fused):
    optimizer = adamw(model, fused=fused)
    prox = ProximalStep(optimizer, model, total_steps=6, dense_fraction=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(6):
        before = weights(model)
        optimizer.zero_grad()
        loss = model(torch.ones(2, 6)).square().mean() * (float("inf") if step in (2, 4) else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if step in (2, 4):
            assert_same(weights(model), before)
    assert (prox.steps, prox.calls) == (4, 3)


def test_resume_is_exact(model, tmp_path):
    whole = copy.deepcopy(model)
    optimizer = adamw(whole)
    prox = ProximalStep(optimizer, whole, total_steps=20)
    initial = weights(whole)
    train(whole, optimizer, 20)

    optimizer = adamw(model)
    prox = ProximalStep(optimizer, model, total_steps=20)
    train(model, optimizer, 13)
    saved = [copy.deepcopy(part.state_dict()) for part in (model, optimizer, prox)]
    torch.save(saved, tmp_path / "checkpoint")
    saved = torch.load(
        tmp_path / "checkpoint", weights_only=True
    )  # nothing in it but tensors, numbers and strings

    resumed = get_peft_model(TwoLayers(), CodyraConfig(r=4, target_modules=["first", "second"]))
    optimizer = adamw(resumed)
    prox = ProximalStep(optimizer, resumed, total_steps=20)
    for part, state in zip((resumed, optimizer, prox), saved, strict=True):
        part.load_state_dict(state)
    assert (prox.steps, prox.calls) == (13, 2)
    train(resumed, optimizer, 7)
    assert_same(whole.parameters(), resumed.parameters())
    assert_same(prox.initial_gates.values(), initial)
    assert prox.calls == 9


def test_state_of_another_plan_is_refused(model):
    prox = ProximalStep(adamw(model), model, total_steps=20)
    state = prox.state_dict()
    for options in (
        {"total_steps": 30},
        {"total_steps": 20, "operator": "official"},
        {"total_steps": 20, "kappa_total": 1},
    ):
        with pytest.raises(ValueError, match="continue with the options it began with"):
            ProximalStep(adamw(model), model, **options).load_state_dict(state)
    other = get_peft_model(TwoLayers(), CodyraConfig(r=4, target_modules=["first"]))
    with pytest.raises(ValueError, match="other gates"):
        ProximalStep(adamw(other), other, total_steps=20).load_state_dict(state)


def test_plan_survives_json(model):
    prox = ProximalStep(adamw(model), model, total_steps=20, kappa_total=0.7)
    state = prox.state_dict()
    prox.load_state_dict({**state, "plan": json.loads(json.dumps(state["plan"]))})


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "in parts"])
def test_gates_frozen_at_one_follow_plain_lora(fused, monkeypatch):
    monkeypatch.setattr(GatedLinear, "fused", fused)
    torch.manual_seed(0)
    ours = get_peft_model(
        TwoLayers(), CodyraConfig(r=4, target_modules=["first", "second"], gate_init="ones")
    )
    torch.manual_seed(0)
    stock = get_peft_model(TwoLayers(), LoraConfig(r=4, lora_alpha=4, target_modules=["first", "second"]))
    for _, gate in named_gates(ours):
        gate.weight.requires_grad_(False)
    losses = []
    for model in (ours, stock):
        trainable = [weight for weight in model.parameters() if weight.requires_grad]
        losses.append(train(model, torch.optim.AdamW(trainable, lr=1e-2), 40))
    # In parts every operation is PEFT's; fused, the same sums are rounded elsewhere.
    assert losses[0] == (pytest.approx(losses[1], rel=1e-5) if fused else losses[1])
    assert losses[0][-1] < losses[0][0]


# --- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kappa_total": 0.65, "kappa_max": 0.005}, "kappa_total and kappa_max"),
        ({"schedule": "official", "kappa_total": 0.65}, "use schedule='linear'"),
        ({"schedule": "linear", "kappa_max": 0.005}, "use schedule='official'"),
        ({"levels": 50}, "use schedule='official'"),
        ({"schedule": "official", "total_steps": 60}, "use schedule='linear'"),
        ({"schedule": "official", "levels": 1}, "levels=1"),
        ({"schedule": "stages", "kappa_total": 0.65}, "use schedule='linear'"),
        ({"schedule": "stages", "total_steps": 60}, "use schedule='linear'"),
        ({"schedule": "cosine"}, "linear, official, stages"),
        ({"operator": "hard"}, "'soft' or 'official'"),
        ({"kappa_total": 0.0}, "kappa_total=0.0"),
        ({"kappa_total": float("nan")}, "kappa_total=nan"),
        ({"schedule": "official", "kappa_max": -1.0}, "kappa_max=-1.0"),
        ({"total_steps": 0}, "total_steps=0"),
        ({"total_steps": 2.5}, "total_steps=2.5"),
        ({"total_steps": 1}, "nothing would be pruned"),
        ({"total_steps": 2}, "nothing would be pruned"),
        ({"dense_fraction": 1.0}, "dense_fraction=1.0"),
        ({"dense_fraction": -0.1}, "dense_fraction=-0.1"),
    ],
)
def test_schedules_that_cannot_be_meant_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        ProximalStep(adamw(model), model, **{"total_steps": 500, **options})
    assert "\n" not in str(refused.value)


def test_decaying_gates_are_refused(model):
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    with pytest.raises(ValueError, match=r"weight_decay=0.01.*param_groups"):
        ProximalStep(torch.optim.AdamW(trainable, weight_decay=0.01), model, total_steps=10)
    optimizer = adamw(model)
    ProximalStep(optimizer, model, total_steps=10)
    optimizer.param_groups[1]["weight_decay"] = 0.1
    with pytest.raises(ValueError, match=r"weight_decay=0.1"):
        train(model, optimizer, 1)


def test_gates_outside_the_optimizer_are_refused(model):
    factors, _ = param_groups(model, lr=1e-3)
    with pytest.raises(ValueError, match="2 of 2 gates are not in the optimizer"):
        ProximalStep(torch.optim.AdamW([factors]), model, total_steps=10)


def test_a_model_without_gates_is_refused():
    plain = TwoLayers()
    with pytest.raises(ValueError, match="get_peft_model"):
        param_groups(plain, lr=1e-3)
    with pytest.raises(ValueError, match="get_peft_model"):
        ProximalStep(torch.optim.AdamW(plain.parameters()), plain, total_steps=10)


def test_what_is_no_torch_optimizer_is_refused(model):
    with pytest.raises(ValueError, match="needs a torch optimizer, got object"):
        ProximalStep(object(), model, total_steps=10)


def test_a_second_step_on_one_optimizer_is_refused(model):
    optimizer = adamw(model)
    first = ProximalStep(optimizer, model, total_steps=10)
    with pytest.raises(ValueError, match="detach"):
        ProximalStep(optimizer, model, total_steps=10)
    first.detach()
    second = ProximalStep(optimizer, model, total_steps=10)
    train(model, optimizer, 10)
    assert (first.steps, second.steps) == (0, 10)


def test_a_step_too_many_is_refused(model):
    optimizer = adamw(model)
    ProximalStep(optimizer, model, total_steps=4)
    with pytest.raises(ValueError, match="step 5 is beyond total_steps=4"):
        train(model, optimizer, 5)


def test_never_fired_raises(model):
    prox = ProximalStep(adamw(model), model, total_steps=10)
    train(model, adamw(model), 10)  # another optimizer trains the model
    with pytest.raises(RuntimeError, match="never fired: 0 of total_steps=10"):
        prox.check_fired()


def test_stopping_early_warns(model):
    optimizer = adamw(model)
    prox = ProximalStep(optimizer, model, total_steps=10)
    train(model, optimizer, 8)
    with pytest.warns(UserWarning, match="only 8 of total_steps=10"):
        prox.check_fired()


def test_ones_with_little_shrink_warn():
    model = get_peft_model(TwoLayers(), CodyraConfig(r=4, target_modules=["first"], gate_init="ones"))
    with pytest.warns(UserWarning, match="gate_init='normal'"):
        ProximalStep(adamw(model), model, total_steps=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ProximalStep(adamw(model), model, total_steps=10, kappa_total=1.1)
