"""OSF: neither gradients nor steps nor the update reach the frozen singular directions."""

import pytest
import torch
from peft.tuners.osf import OSFLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from codyra.methods import TaskContext, build_method, parse_options
from codyra.methods.pieces.osf import Osf
from codyra.update import compose, write_weights
from methods.toy_task import learn, step, toy_context, toy_net, train


def osf(**options):
    return build_method(parse_options({"name": "osf", **options}))


def frozen(net, share):
    """{linear: (U_h (O, K), V_h (K, D))} by an SVD of its own."""
    directions = {}
    for name in ("first", "second"):
        U, _, V = torch.linalg.svd(net.get_submodule(name).weight.double(), full_matrices=False)
        k = int(share * min(net.get_submodule(name).weight.shape))
        directions[name] = (U[:, :k], V[:k])
    return directions


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_gradients_and_steps_stay_out_of_the_frozen_subspace(share):
    net, method = toy_net(), osf(frozen_share=share)
    directions = frozen(net, share)
    ctx = toy_context(net)
    method.before_task(ctx)
    train(method, ctx, steps=0, lr=0.05)
    previous = {name: torch.zeros_like(net.get_submodule(name).weight) for name in directions}
    for _ in range(10):
        step(method, ctx)
        for name, (U_h, V_h) in directions.items():
            layer = net.get_submodule(name)
            factors = layer.osf_svd_params["default"]
            g_U, g_V = factors["U_low"].grad.double(), factors["V_low"].grad.double()
            assert g_U.norm() > 1e-4
            assert (U_h.T @ g_U).norm() < 1e-6 * g_U.norm()
            assert (g_V @ V_h.T).norm() < 1e-6 * g_V.norm()
            delta = layer.get_delta_weight("default").detach()
            moved, previous[name] = (delta - previous[name]).double(), delta
            assert moved.norm() > 1e-3
            assert (U_h.T @ moved).norm() < 1e-5
            assert (moved @ V_h.T).norm() < 1e-5
    update = method.after_task(ctx)
    for name, (U_h, V_h) in directions.items():
        delta = update.tensors[f"{name}.weight"].double()
        assert (U_h.T @ delta).norm() < 1e-5 < 1e-2 < delta.norm()
        assert (delta @ V_h.T).norm() < 1e-5


def test_projected_gradients_alone_do_not_keep_adamw_inside(monkeypatch):
    """Why the factors are projected as well."""
    monkeypatch.setattr(Osf, "after_step", lambda self, ctx: None)
    net = toy_net()
    directions = frozen(net, 0.5)
    update, _ = learn(osf(), net)
    U_h, _ = directions["first"]
    delta = update.tensors["first.weight"].double()
    assert (U_h.T @ delta).norm() > 0.05 * delta.norm()


def test_the_merged_network_gives_what_the_adapter_gave_and_keeps_its_large_directions():
    net, method = toy_net(), osf(frozen_share=0.5)
    directions = frozen(net, 0.5)
    singular = torch.linalg.svdvals(net.first.weight.double())
    ctx = toy_context(net)
    method.before_task(ctx)
    train(method, ctx, lr=0.01)
    with torch.no_grad():
        wanted = net(ctx.data.inputs)
    update = method.after_task(ctx)
    assert update.kind == "dense"
    base = {name: net.get_parameter(name).detach().clone() for name in ("first.weight", "second.weight")}
    assert not torch.allclose(net(ctx.data.inputs), wanted)
    write_weights(net, compose(net, base, [update]))
    torch.testing.assert_close(net(ctx.data.inputs), wanted)
    U_h, V_h = directions["first"]
    core = U_h.T @ net.first.weight.double() @ V_h.T
    torch.testing.assert_close(core, torch.diag(singular[: len(core)]), rtol=1e-5, atol=1e-5)


def test_a_fresh_adapter_changes_nothing():
    net, method = toy_net(), osf()
    inputs = torch.randn(3, 6)
    before = net(inputs)
    ctx = toy_context(net)
    method.before_task(ctx)
    torch.testing.assert_close(net(inputs), before)
    layers = [module for module in net.modules() if isinstance(module, OSFLayer)]
    assert len(layers) == 2
    trained = sum(weight.numel() for weight in ctx.trained().values())
    assert trained == (5 + 1 + 6) * (5 - 2) + (4 + 1 + 5) * (4 - 2)


def test_it_begins_the_same_in_every_attempt():
    parts = []
    for _ in range(2):
        ctx = toy_context(toy_net())
        osf().before_task(ctx)
        parts.append([weight.detach().clone() for weight in ctx.trained().values()])
    assert all(map(torch.equal, *parts))


@pytest.mark.parametrize(
    ("layer", "share", "message"),
    [
        (Conv1D(5, 6), 0.5, "osf decomposes nn.Linear only and first is Conv1D; use another method or model"),
        (nn.Linear(6, 5, dtype=torch.bfloat16), 0.5, "set model.dtype to float32"),
        (nn.Linear(6, 5), 0.1, r"frozen_share 0\.1 freezes nothing of first; set it higher"),
    ],
)
def test_what_it_cannot_decompose(layer, share, message):
    net = nn.Sequential()
    net.add_module("first", layer)
    ctx = TaskContext(net, ["first"], [], task_index=0, total_steps=2, previous=None)
    with pytest.raises(ValueError, match=message):
        osf(frozen_share=share).before_task(ctx)
