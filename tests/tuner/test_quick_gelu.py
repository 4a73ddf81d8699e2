"""The lean activation is transformers' own, and it is gone when the adapters are."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.activations import QuickGELUActivation

from codyra.tuner import CodyraConfig
from codyra.tuner.quick_gelu import LeanQuickGELU, make_lean
from codyra.update import consolidate
from tiny_nets import CLIP_TARGETS, adapted, clip_batch, tiny_clip


def both(x, grad):
    """Outputs and gradients of transformers' activation and of ours."""
    results = []
    original = QuickGELUActivation()
    for activation in (original, LeanQuickGELU(original)):
        leaf = x.clone().requires_grad_()
        y = activation(leaf)
        y.backward(grad)
        results.append((y.detach(), leaf.grad))
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_same_values_to_the_bit_and_same_gradients(dtype):
    torch.manual_seed(0)
    x, grad = torch.cat([8 * torch.randn(500, 4), torch.zeros(1, 4)]).to(dtype), torch.randn(501, 4).to(dtype)
    (y, dx), (lean_y, lean_dx) = both(x, grad)
    assert torch.equal(y, lean_y)
    torch.testing.assert_close(
        lean_dx, dx, atol=10 * torch.finfo(dtype).eps, rtol=10 * torch.finfo(dtype).eps
    )


def test_gradient_is_the_derivative():
    x = torch.linspace(-6, 6, 40, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(LeanQuickGELU(QuickGELUActivation()), (x,))


def test_second_derivatives_and_those_of_many_at_once():
    original = QuickGELUActivation()
    x = torch.linspace(-3, 3, 5, dtype=torch.float64)
    for activation in (
        lambda x: LeanQuickGELU(original)(x).sum(),
        lambda x: LeanQuickGELU(original)(x).square().sum(),
    ):
        assert torch.autograd.gradgradcheck(activation, (x.clone().requires_grad_(),))
    ours = torch.autograd.functional.jacobian(LeanQuickGELU(original), x, vectorize=True)
    torch.testing.assert_close(ours, torch.autograd.functional.jacobian(original, x))
    singly = torch.func.vmap(torch.func.grad(LeanQuickGELU(original)))(x)
    torch.testing.assert_close(singly, ours.diagonal())


@pytest.mark.parametrize("kind", ["register_forward_pre_hook", "register_full_backward_hook"])
def test_an_activation_that_is_heard_stays(kind):
    net = nn.Sequential(QuickGELUActivation(), QuickGELUActivation())
    getattr(net[0], kind)(lambda *args: None)
    make_lean(net)
    assert [type(child) for child in net] == [QuickGELUActivation, LeanQuickGELU]


def test_only_the_input_is_kept():
    kept = []
    x = torch.randn(30, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        LeanQuickGELU(QuickGELUActivation())(x)
    assert [tensor.data_ptr() for tensor in kept] == [x.data_ptr()]


def kinds(net):
    return [
        type(module) for module in net.modules() if isinstance(module, QuickGELUActivation | LeanQuickGELU)
    ]


@pytest.mark.parametrize("take_off", ["unload", "merge_and_unload", "consolidate"])
def test_it_comes_and_goes_with_the_adapters(take_off):
    net = tiny_clip()
    originals = [module for module in net.modules() if type(module) is QuickGELUActivation]
    keys = set(net.state_dict())
    model = adapted(net, CodyraConfig(r=4, target_modules=CLIP_TARGETS))
    assert set(kinds(net)) == {LeanQuickGELU}
    plain = consolidate(model) if take_off == "consolidate" else getattr(model, take_off)()
    assert [module for module in plain.modules() if type(module) is QuickGELUActivation] == originals
    assert LeanQuickGELU not in kinds(plain)
    assert set(plain.state_dict()) == keys


def test_other_tuners_leave_the_network_alone():
    net = tiny_clip()
    get_peft_model(net, LoraConfig(target_modules=CLIP_TARGETS))
    assert set(kinds(net)) == {QuickGELUActivation}


def test_losses_and_gradients_of_a_network_are_the_same():
    results = []
    for lean in (False, True):
        torch.manual_seed(0)
        net = tiny_clip().double()
        if lean:
            make_lean(net)
        batch = clip_batch()
        out = net(batch["input_ids"], batch["pixel_values"].double())
        (out.image_embeds @ out.text_embeds.T).square().sum().backward()
        results.append([weight.grad for weight in net.parameters() if weight.grad is not None])
    torch.testing.assert_close(results[0], results[1], atol=1e-12, rtol=1e-9)


def test_what_is_watched_or_special_stays():
    class Own(QuickGELUActivation):
        pass

    net = nn.Sequential(QuickGELUActivation(), Own(), QuickGELUActivation(), nn.GELU())
    net[0].register_forward_hook(lambda module, args, output: None)
    make_lean(net)
    assert [type(module) for module in net] == [QuickGELUActivation, Own, LeanQuickGELU, nn.GELU]


def test_the_compiler_sees_the_original(monkeypatch):
    x = torch.randn(5, requires_grad=True)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert "QuickGELU" not in type(LeanQuickGELU(QuickGELUActivation())(x).grad_fn).__name__
