"""One step of autograd against the parts one by one: the same numbers; and when it is not taken."""

import copy

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from codyra.tuner import CodyraConfig, GatedLinear, ProximalStep, param_groups, products
from codyra.tuner.fused import GatedProduct, operands
from tiny_nets import CLIP_TARGETS, TwoLayers, adapted, clip_batch, fill, tiny_clip

PARTS = ("lora_A", "lora_gate", "lora_B")


def layer(inside=6, out=8, r=4, dtype=torch.float64, bias=True, **options) -> GatedLinear:
    """One gated linear whose factors are all at work."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(inside, out, bias=bias)).to(dtype)
    fill(get_peft_model(net, CodyraConfig(r=r, target_modules=["0"], **options)))
    return net[0].eval()


def parts(module):
    return [getattr(module, part)["default"].weight for part in PARTS]


def in_one_step(y):
    ((before, _),) = y.grad_fn.next_functions[:1]  # y itself is a view of the rows
    return type(before).__name__ == "GatedProductBackward"


def run(module, x, fused, monkeypatch):
    """Output, gradient of the input and those of A, gate and B."""
    monkeypatch.setattr(GatedLinear, "fused", fused)
    x = x.detach().clone().requires_grad_()
    module.zero_grad()
    y = module(x)
    assert in_one_step(y) == fused
    generator = torch.Generator().manual_seed(5)
    y.backward(torch.randn(y.shape, generator=generator).to(y.dtype))
    return [y.detach(), x.grad, *(weight.grad for weight in parts(module))]


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6), (1, 6), (0, 6)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_same_numbers_in_float64(shape, bias, scale, monkeypatch):
    module = layer(bias=bias)
    module.scaling["default"] = scale
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plain, fused = (run(module, x, way, monkeypatch) for way in (False, True))
    assert [each.shape for each in fused] == [each.shape for each in plain]
    torch.testing.assert_close(fused, plain, atol=1e-13, rtol=1e-12)


def test_gradients_are_the_derivatives():
    torch.manual_seed(0)
    shapes = ((5, 6), (8, 6), (8,), (3, 6), (3,), (8, 3))
    x, W, b, A, gate, B = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    leaves = [tensor.requires_grad_() for tensor in (x, A, gate, B)]
    assert torch.autograd.gradcheck(lambda x, A, gate, B: GatedProduct.apply(x, W, b, A, gate, B), leaves)


@pytest.mark.parametrize("onednn", [False, True])
def test_same_numbers_in_float32(onednn, monkeypatch):
    if onednn and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch was built without oneDNN")
    monkeypatch.setattr(products, "onednn_is_quicker", lambda: onednn)
    module = layer(256, 192, 8, torch.float32)
    x = torch.randn(3, 70, 256, generator=torch.Generator().manual_seed(1))
    plain, fused = (run(module, x, way, monkeypatch) for way in (False, True))
    for ours, theirs in zip(fused, plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-6 * theirs.abs().max().item(), rtol=1e-5)


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "bfloat16 base"])
def test_as_near_to_the_truth_as_the_parts(autocast, monkeypatch):
    """Of float64 numbers both forms of a bf16 layer keep as much."""
    module = layer(96, 64, 8, torch.float32)
    if not autocast:
        module.base_layer.to(torch.bfloat16)
    x = torch.randn(40, 96, generator=torch.Generator().manual_seed(1)).bfloat16()
    exact = run(copy.deepcopy(module).double(), x.double(), False, monkeypatch)
    errors = {}
    for way in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = run(module, x.float() if autocast else x, way, monkeypatch)
        assert found[0].dtype == torch.bfloat16
        assert [each.dtype for each in found[2:]] == [torch.float32] * 3
        errors[way] = [
            (each.double() - true).norm() / true.norm() for each, true in zip(found, exact, strict=True)
        ]
    for ours, theirs in zip(errors[True], errors[False], strict=True):
        assert ours <= 1.3 * theirs + 1e-6
        assert ours < 0.02


def test_autocast_leaves_float64_alone(monkeypatch):
    module, x = layer(), torch.randn(5, 6, dtype=torch.float64)
    expected = run(module, x, False, monkeypatch)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(run(module, x, True, monkeypatch), expected, atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("frozen", PARTS)
def test_no_gradient_where_none_is_wanted(frozen, monkeypatch):
    module, x = layer(), torch.randn(5, 6, dtype=torch.float64)
    getattr(module, frozen)["default"].weight.requires_grad_(False)
    plain, fused = (run(module, x, way, monkeypatch) for way in (False, True))
    assert plain[2 + PARTS.index(frozen)] is None
    assert fused[2 + PARTS.index(frozen)] is None
    for ours, theirs in zip(fused, plain, strict=True):
        assert theirs is None or torch.allclose(ours, theirs, atol=1e-13)


def test_input_and_low_rank_product_are_all_that_is_kept():
    module, x = layer(), torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        module(x)
    held = {weight.data_ptr() for weight in module.parameters()} | {x.data_ptr()}
    assert [tuple(tensor.shape) for tensor in kept if tensor.data_ptr() not in held] == [(5, 4)]


@pytest.mark.parametrize("of", [torch.sum, lambda y: y.square().sum()], ids=["linear", "square"])
def test_second_derivatives_are_refused(of, monkeypatch):
    module, x = layer(), torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"say codyra.tuner.GatedLinear.fused = False"):
        torch.autograd.grad(of(module(x)), x, create_graph=True)
    monkeypatch.setattr(GatedLinear, "fused", False)
    (grad,) = torch.autograd.grad(of(module(x)), x, create_graph=True)
    grad.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in parts(module))


def test_with_activations_computed_again(monkeypatch):
    module, x = layer(), torch.randn(5, 6, dtype=torch.float64)
    expected = run(module, x, True, monkeypatch)
    leaf = x.clone().requires_grad_()
    module.zero_grad()
    y = checkpoint(module, leaf, use_reentrant=False)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(y.dtype))
    assert torch.equal(leaf.grad, expected[1])
    assert all(
        torch.equal(weight.grad, grad) for weight, grad in zip(parts(module), expected[2:], strict=True)
    )


@pytest.mark.parametrize("schedule", ["linear", "official"])
def test_a_task_is_learnt_alike(schedule, monkeypatch):
    """Losses, gates and factors of a CLIP over a whole schedule, in float64."""
    results = []
    for fused in (False, True):
        monkeypatch.setattr(GatedLinear, "fused", fused)
        torch.manual_seed(0)
        model = get_peft_model(tiny_clip().double(), CodyraConfig(r=4, target_modules=CLIP_TARGETS))
        optimizer = torch.optim.AdamW(param_groups(model, 1e-2), lr=1e-2)
        options = {"kappa_max": 0.05, "levels": 5} if schedule == "official" else {}
        ProximalStep(optimizer, model, total_steps=24, schedule=schedule, **options)
        batch, losses = clip_batch(), []
        for _ in range(24):
            out = model(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"].double())
            loss = nn.functional.cross_entropy(10 * out.image_embeds @ out.text_embeds.T, torch.arange(3))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        trained = [weight.detach() for weight in model.parameters() if weight.requires_grad]
        results.append([torch.tensor(losses, dtype=torch.float64), *trained])
    assert results[0][0][-1] < 0.5 * results[0][0][0]
    torch.testing.assert_close(results[1], results[0], atol=1e-9, rtol=0)


def test_what_follows_may_change_the_output_in_place(monkeypatch):
    results = []
    for fused in (False, True):
        monkeypatch.setattr(GatedLinear, "fused", fused)
        module, x = layer(), torch.linspace(-1, 1, 30, dtype=torch.float64).view(1, 5, 6).requires_grad_()
        y = module(x).mul_(2)
        y[..., 0] = 0
        nn.functional.relu(y, inplace=True).sum().backward()
        results.append([y.detach(), x.grad, *(weight.grad for weight in parts(module))])
    torch.testing.assert_close(results[1], results[0], atol=1e-13, rtol=0)


def test_a_frozen_first_factor_keeps_no_input():
    module, x = layer(), torch.randn(5, 6, dtype=torch.float64)
    module.lora_A["default"].weight.requires_grad_(False)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        module(x)
    assert x.data_ptr() not in [tensor.data_ptr() for tensor in kept]


# --- when the parts are called one by one


def test_small_products_are_left_to_the_parts(monkeypatch):
    monkeypatch.setattr(GatedLinear, "smallest_fused", 5 * 6 * 8)
    module = layer()
    assert in_one_step(module(torch.ones(5, 6).double()))
    assert not in_one_step(module(torch.ones(4, 6).double()))


def test_gradients_of_single_examples():
    module, x = layer(), torch.randn(5, 6, dtype=torch.float64)
    weights = dict(module.named_parameters())

    def loss(weights, row):
        return torch.func.functional_call(module, weights, (row,)).square().sum()

    singly = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x)
    module(x).square().sum().backward()
    for name in weights:
        if weights[name].grad is not None:
            torch.testing.assert_close(singly[name].sum(dim=0), weights[name].grad)


def test_forward_mode_and_traces_see_the_parts():
    module, x = layer(), torch.randn(5, 6, dtype=torch.float64)
    _, along = torch.func.jvp(module, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(along, module(x + 1) - module(x))
    with torch.autograd.forward_ad.dual_level():
        dual = module(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, along)
    traced = torch.jit.trace(module, (x,))
    assert torch.equal(traced(x), module(x))


def test_on_a_device_without_numbers():
    module = layer().to("meta")
    assert module(torch.ones(5, 6, dtype=torch.float64, device="meta")).shape == (5, 8)


def test_a_plain_layer_is_fused():
    assert operands(layer(), "default") is not None
    assert operands(layer(lora_dropout=0.5), "default") is not None  # not in training


def hook(*args):
    return None


@pytest.mark.parametrize("part", ["base_layer", *PARTS])
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward"])
def test_hooks_on_a_part_are_heard(part, kind):
    module = layer()
    watched = module.base_layer if part == "base_layer" else getattr(module, part)["default"]
    heard = []
    getattr(watched, f"register_{kind}_hook")(lambda *args: heard.append(kind))
    assert operands(module, "default") is None
    module(torch.randn(5, 6, dtype=torch.float64, requires_grad=True)).sum().backward()
    assert heard == [kind]


def replace_forward(module):
    module.base_layer.forward = lambda x: torch.zeros(*x.shape[:-1], 8, dtype=x.dtype)


def subclass(module):
    class Own(nn.Linear):
        pass

    module.base_layer.__class__ = Own


BARRIERS = {
    "training dropout": lambda module: module.train(),
    "base trains": lambda module: module.base_layer.weight.requires_grad_(True),
    "bias trains": lambda module: module.base_layer.bias.requires_grad_(True),
    "replaced forward": replace_forward,
    "subclass of nn.Linear": subclass,
    "weights of another kind": lambda module: module.base_layer._parameters.update(
        weight=module.base_layer.weight.as_subclass(type("Other", (nn.Parameter,), {}))
    ),
}


@pytest.mark.parametrize("barrier", BARRIERS)
def test_parts_that_do_more_are_called(barrier):
    module = layer(lora_dropout=0.5)
    BARRIERS[barrier](module)
    assert operands(module, "default") is None


def test_the_compiler_sees_the_parts(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert operands(layer(), "default") is None


def test_conv1d_is_not_fused():
    net = TwoLayers(Conv1D)
    adapted(net, CodyraConfig(r=4, target_modules=["first", "second"]))
    assert operands(net.first, "default") is None


@pytest.mark.parametrize("change", ["disabled", "merged", "two adapters"])
def test_what_is_no_single_adapter_is_left_to_peft(change, monkeypatch):
    net = TwoLayers().double().eval()
    model = adapted(net, CodyraConfig(r=4, target_modules=["first", "second"]))
    x = torch.randn(5, 6, dtype=torch.float64)
    if change == "disabled":
        net.first.enable_adapters(False)
    elif change == "merged":
        net.first.merge()
    else:
        model.add_adapter("second", CodyraConfig(r=2, target_modules=["first", "second"]))
        fill(model, "second")
        model.base_model.set_adapter(["default", "second"])
    with torch.no_grad():
        expected = net.first(x)
        monkeypatch.setattr(GatedLinear, "fused", False)
        assert torch.equal(net.first(x), expected)
