"""Linears in 8 and 4 bit: a view of the exact weight that computes as a plain linear with that view's weight would."""

import importlib.util
import random

import pytest
import torch
from bitsandbytes import functional
from peft import LoraConfig, get_peft_model
from torch import nn

from codyra import CodyraConfig, ProximalStep, TaskUpdate, param_groups
from codyra.errors import UserError
from codyra.families import ModelSpec, load_family
from codyra.families.causal_lm import CausalLM
from codyra.families.quantized import QuantizedLinear
from codyra.update import unwrap
from families.answer_tasks import load as load_lm
from families.answer_tasks import quiz
from families.tiny_lms import save_gpt2, save_llama, save_qwen

KINDS = ("8bit", "4bit")
CONFIGS = {"codyra": CodyraConfig, "lora": LoraConfig}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


def view(layer: QuantizedLinear) -> torch.Tensor:
    """The weight that a layer computes with, float32."""
    if layer.kind == "8bit":
        return functional.int8_vectorwise_dequant(layer.weight, layer.scale)
    shape = torch.Size((layer.out_features, layer.in_features))
    state = functional.QuantState(layer.scale, shape, blocksize=64, quant_type="nf4", dtype=torch.float32)
    return functional.dequantize_4bit(layer.weight, state)


def quantized(family: CausalLM) -> dict[str, QuantizedLinear]:
    return {name: layer for name, layer in family.net.named_modules() if isinstance(layer, QuantizedLinear)}


# One layer


@pytest.mark.parametrize(("num_out", "num_in", "bias"), [(8, 64, True), (7, 10, False)])
def test_values_and_gradients_are_those_of_a_plain_linear(kind, num_out, num_in, bias):
    torch.manual_seed(0)
    plain = nn.Linear(num_in, num_out, bias=bias).requires_grad_(False)
    layer = QuantizedLinear(plain, kind, "cpu")
    error = (view(layer) - plain.weight).abs().amax(dim=1) / plain.weight.abs().max()
    assert error.max() < {"8bit": 0.005, "4bit": 0.16}[kind]  # half a step, relative to the largest
    plain.weight.copy_(view(layer))
    inputs = [torch.randn(2, 3, num_in, requires_grad=True) for _ in range(2)]
    with torch.no_grad():
        inputs[1].copy_(inputs[0])
    outputs = [module(x) for module, x in zip((layer, plain), inputs, strict=True)]
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(layer(inputs[0].detach()), outputs[1].detach())
    for y in outputs:
        y.square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)


def test_the_type_is_that_of_the_input_or_of_autocast(kind):
    torch.manual_seed(0)
    plain = nn.Linear(64, 8).requires_grad_(False)
    layer = QuantizedLinear(plain, kind, "cpu")
    plain.weight.copy_(view(layer))
    x = torch.randn(5, 64, requires_grad=True)
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        outputs = layer(x), plain(x)
    torch.testing.assert_close(*outputs)
    gradients = [torch.autograd.grad(y.float().square().sum(), x)[0] for y in outputs]
    assert gradients[0].dtype == torch.float32
    torch.testing.assert_close(*gradients)


def test_no_dequantised_weight_waits_for_the_backward_pass(kind):
    layer = QuantizedLinear(nn.Linear(64, 64, bias=False).requires_grad_(False), kind, "cpu")
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda t: t):
        layer(torch.randn(2, 64, requires_grad=True))
    assert not any(tensor.is_floating_point() and tensor.numel() >= 64 * 64 for tensor in saved)


def test_what_was_held_before_has_no_part_in_what_is_held(kind):
    torch.manual_seed(0)
    plain = nn.Linear(64, 8).requires_grad_(False)
    layer = QuantizedLinear(plain, kind, "cpu")
    first = view(layer)
    for _ in range(3):
        layer.hold(torch.randn(8, 64))
        assert not torch.equal(view(layer), first)
    layer.hold(plain.weight)
    assert torch.equal(view(layer), first)


# A whole model


def test_the_linears_of_the_blocks_and_no_others(llama, kind):
    family = load_lm(llama)
    before = {name: weight.clone() for name, weight in family.net.named_parameters()}
    fingerprint, count, targets = family.fingerprint(), family.num_parameters, family.target_modules("all")
    exact = family.quantize(kind, "cpu")
    assert list(quantized(family)) == targets
    assert family.target_modules("all") == targets
    assert (family.fingerprint(), family.num_parameters) == (fingerprint, count)
    assert set(exact) == {f"{name}.weight" for name in targets}
    assert all(torch.equal(exact[name], before[name]) for name in exact)
    now = dict(family.net.named_parameters())
    assert all(torch.equal(now[name], before[name]) for name in before if name not in exact)
    assert not any(weight.requires_grad for weight in now.values())
    assert not any(module.training for module in family.net.modules())


def test_weights_that_are_written_are_quantised_anew(llama, kind):
    family = load_lm(llama)
    exact = family.quantize(kind, "cpu")
    first = {name: view(layer) for name, layer in quantized(family).items()}
    other = {name: weight + 0.1 * torch.randn_like(weight) for name, weight in exact.items()}
    norm = torch.full_like(family.net.get_parameter("model.norm.weight"), 2.0)
    family.write_weights({**other, "model.norm.weight": norm})
    assert torch.equal(family.net.get_parameter("model.norm.weight"), norm)
    for name, layer in quantized(family).items():
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False).requires_grad_(False)
        plain.weight.copy_(other[f"{name}.weight"])
        assert torch.equal(view(layer), view(QuantizedLinear(plain, kind, "cpu")))
    family.write_weights(exact)
    assert all(torch.equal(view(layer), first[name]) for name, layer in quantized(family).items())


def trained(family: CausalLM, method: str) -> tuple[TaskUpdate, list[float]]:
    """The update of ten steps, and the losses."""
    torch.manual_seed(0)
    model = get_peft_model(family.net, CONFIGS[method](r=4, target_modules=family.target_modules("all")))
    prox = None
    if method == "codyra":
        optimizer = torch.optim.AdamW(param_groups(model, lr=1e-2))
        prox = ProximalStep(optimizer, model, total_steps=10, kappa_total=0.65)
    else:
        optimizer = torch.optim.AdamW(
            [weight for weight in model.parameters() if weight.requires_grad], lr=1e-2
        )
    objective = family.start_task(quiz(), [], text_loss="official", micro_batch_size=3)
    losses = []
    for _ in range(10):
        total = 0.0
        for batch in objective.micro_batches(range(5), random.Random(0), 0, 1):
            loss = objective.loss(batch)["loss"]
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    update = TaskUpdate.from_model(model, prox=prox)
    unwrap(model)
    return update, losses


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("save", [save_llama, save_qwen])  # without and with biases
def test_adapters_learn_what_they_learn_on_the_dequantised_weights(tmp_path, kind, method, save):
    directory = save(tmp_path / "model")
    family, plain = load_lm(directory), load_lm(directory)
    family.quantize(kind, "cpu")
    plain.write_weights({f"{name}.weight": view(layer) for name, layer in quantized(family).items()})
    update, losses = trained(family, method)
    expected, expected_losses = trained(plain, method)
    assert losses[-1] < losses[0] - 0.1
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    assert update.ranks == expected.ranks
    for name, factors in expected.factors.items():
        for here, there in zip(update.factors[name], factors, strict=True):
            torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-4)
    assert [score.answers for score in family.score([quiz()])] == [
        score.answers for score in plain.score([quiz()])
    ]


def test_recomputed_activations_change_no_gradient(llama, kind):
    family = load_lm(llama)
    family.quantize(kind, "cpu")
    found = []
    for wanted in (False, True):
        with family.checkpointed_activations(wanted):
            found.append(trained(family, "lora")[1])
    assert found[0] == found[1]


# Refusals


def test_the_library_is_missing(llama, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'bitsandbytes is not installed.*pip install "codyra\[quantized\]"'):
        load_family(ModelSpec(name=str(llama), quantize="4bit"))


def test_only_linears(tmp_path, kind):
    family = load_lm(save_gpt2(tmp_path / "model"))
    with pytest.raises(UserError, match=r"h\.0\.attn\.c_attn is Conv1D.*set model.quantize to null"):
        family.quantize(kind, "cpu")
    assert family.target_modules("all")
    assert family.fingerprint() == load_lm(tmp_path / "model").fingerprint()


def test_only_language_models(load):
    with pytest.raises(UserError, match=r"is for causal language models; .* a clip model"):
        load("clip").quantize("4bit", "cpu")


def test_no_double_precision():
    with pytest.raises(ValueError, match="quantize needs dtype float32, bfloat16 or float16"):
        ModelSpec(name="x", dtype="float64", quantize="8bit")
