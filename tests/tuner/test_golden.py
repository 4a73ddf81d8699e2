"""The golden trajectories, and the tuner against the dense reference on a net of two layers."""

import json
import math
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

import reference
from codyra.tuner import CodyraConfig, GatedLinear, ProximalStep, param_groups
from codyra.update import TaskUpdate, compose, consolidate
from tiny_nets import TwoLayers

GOLDEN = Path(__file__).parents[1] / "golden"
TRAP = "codyra_soft_60"
TRACES = sorted(path.stem for path in GOLDEN.glob("codyra_*.json"))


def read(name: str) -> dict:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def schedule_of(inputs: dict) -> dict:
    if "kappa_total" in inputs:
        return {"kappa_total": inputs["kappa_total"]}
    return {"kappa_max": inputs["kappa_max"], "levels": inputs["L"]}


def close(actual, expected) -> None:
    torch.testing.assert_close(tensor(actual), tensor(expected), atol=1e-9, rtol=0)


def check(golden: dict, losses: list[float], gates: list[Tensor], loss_after) -> None:
    for row in golden["trace"]:
        close(losses[row["step"]], row["loss"])
        close(loss_after[row["step"]], row["loss_after"])
        close(gates[row["step"]].tolist(), row["w"])


def test_every_trace_is_here():
    assert len(TRACES) == 7


@pytest.mark.parametrize("name", TRACES)
def test_reference_reproduces(name):
    golden = read(name)
    inputs = golden["inputs"]
    W, A0, w0, X, T = (tensor(inputs[key]) for key in ("W", "A0", "w0", "X", "T"))
    kappas = reference.thresholds(inputs["steps"], inputs["dense_fraction"], **schedule_of(inputs))
    close(kappas, golden["kappas"])

    def loss(weights):
        return (X @ weights[0].T - T).square().mean()

    steps = reference.train(
        loss, [W], [A0], [w0], lr=inputs["lr"], kappas=kappas, operator=inputs["operator"]
    )
    losses, gates, after = [], [], []
    for value, A, B, w in steps:
        losses.append(value)
        gates.append(w[0].detach().clone())
        after.append(loss([reference.effective(W, A[0], B[0], w[0])]).item())
    check(golden, losses, gates, after)
    for key, value in {"A": A, "B": B, "w": w}.items():
        close(value[0].tolist(), golden["final"][key])
    close(reference.effective(W, A[0], B[0], w[0]).tolist(), golden["final"]["W_merged"])


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "in parts"])
@pytest.mark.parametrize("name", [name for name in TRACES if name != TRAP])
def test_tuner_reproduces(name, fused, monkeypatch):
    monkeypatch.setattr(GatedLinear, "fused", fused)
    golden = read(name)
    inputs, final = golden["inputs"], golden["final"]
    net = nn.ModuleDict({"layer": nn.Linear(6, 5, bias=False).double()})
    net.forward = lambda x: net["layer"](x)
    net["layer"].weight.data = tensor(inputs["W"])
    base = {"layer.weight": tensor(inputs["W"])}
    model = get_peft_model(net, CodyraConfig(r=8, target_modules=["layer"]))
    layer = net["layer"]
    layer.lora_A["default"].weight.data = tensor(inputs["A0"])
    layer.lora_gate["default"].weight.data = tensor(inputs["w0"])

    optimizer = torch.optim.AdamW(param_groups(model, lr=inputs["lr"]), betas=(0.9, 0.9999))
    schedule = "linear" if "kappa_total" in inputs else "official"
    prox = ProximalStep(
        optimizer,
        model,
        total_steps=inputs["steps"],
        schedule=schedule,
        dense_fraction=inputs["dense_fraction"],
        operator=inputs["operator"],
        **schedule_of(inputs),
    )
    X, T = tensor(inputs["X"]), tensor(inputs["T"])
    losses, gates, after, kappas = [], [], [], []
    for step in range(inputs["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * (1 + math.cos(math.pi * step / inputs["steps"])) * inputs["lr"]
        optimizer.zero_grad()
        loss = (model(X) - T).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        gates.append(layer.lora_gate["default"].weight.detach().clone())
        after.append((model(X) - T).square().mean().item())
        kappas.append(prox.kappa)

    check(golden, losses, gates, after)
    close(kappas, golden["kappas"])
    close(layer.lora_A["default"].weight.tolist(), final["A"])
    close(layer.lora_B["default"].weight.tolist(), final["B"])
    close(gates[-1].tolist(), final["w"])
    assert (gates[-1] != 0).tolist() == final["keep"]
    prox.check_fired()
    assert prox.calls == sum(t > inputs["dense_fraction"] * inputs["steps"] for t in range(inputs["steps"]))

    update = TaskUpdate.from_model(model, prox=prox)
    assert update.ranks == {"layer": sum(final["keep"])}
    close(compose(net, base, [update])["layer.weight"].tolist(), final["W_merged"])
    close(consolidate(model)["layer"].weight.tolist(), final["W_merged"])


def test_tuner_refuses_the_historical_trap():
    inputs = read(TRAP)["inputs"]
    model = get_peft_model(TwoLayers(), CodyraConfig(r=8, target_modules=["first"]))
    optimizer = torch.optim.AdamW(param_groups(model, lr=inputs["lr"]))
    with pytest.raises(ValueError, match="30 of total_steps=60; use schedule='linear'"):
        ProximalStep(
            optimizer,
            model,
            total_steps=inputs["steps"],
            schedule="official",
            kappa_max=inputs["kappa_max"],
            levels=50,
        )


@pytest.mark.parametrize("operator", ["soft", "official"])
@pytest.mark.parametrize(
    "schedule", [{"kappa_total": 0.9}, {"schedule": "official", "kappa_max": 0.011, "levels": 50}]
)
def test_two_layers_equal_the_reference(operator, schedule):
    torch.manual_seed(1)
    steps, lr, generator = 200, 5e-3, torch.Generator().manual_seed(0)
    x, y = (torch.randn(16, n, generator=generator, dtype=torch.float64) for n in (6, 4))
    net = TwoLayers(bias=False).double()
    layers = [net.first, net.second]
    W = [layer.weight.detach().clone() for layer in layers]
    model = get_peft_model(net, CodyraConfig(r=5, target_modules=["first", "second"]))
    layers = [net.first, net.second]
    A = [layer.lora_A["default"].weight.detach().clone() for layer in layers]
    w = [layer.lora_gate["default"].weight.detach().clone() for layer in layers]

    optimizer = torch.optim.AdamW(param_groups(model, lr=lr), betas=(0.9, 0.9999))
    ProximalStep(optimizer, model, total_steps=steps, operator=operator, **schedule)
    cosine = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5 * (1 + math.cos(math.pi * t / steps)))
    options = {key: value for key, value in schedule.items() if key != "schedule"}
    dense = reference.train(
        lambda weights: (torch.tanh(x @ weights[0].T) @ weights[1].T - y).square().mean(),
        W,
        A,
        w,
        lr=lr,
        kappas=reference.thresholds(steps, 0.5, **options),
        operator=operator,
    )
    for expected, *final in dense:
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        cosine.step()
        assert loss.item() == pytest.approx(expected, abs=1e-6)
        A, B, w = final
    for index, layer in enumerate(layers):
        for part, value in (("lora_A", A), ("lora_B", B), ("lora_gate", w)):
            torch.testing.assert_close(
                getattr(layer, part)["default"].weight, value[index], atol=1e-6, rtol=0
            )
    assert 0 < sum(int((gate != 0).sum()) for gate in w) < 10
