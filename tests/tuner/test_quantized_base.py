"""Adapters on linears of bitsandbytes: they learn, and are never merged into them."""

import logging

import bitsandbytes
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from codyra import CodyraConfig, ProximalStep, TaskUpdate, consolidate, param_groups


def quantized(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "8bit":
        layer = bitsandbytes.nn.Linear8bitLt(64, 8, has_fp16_weights=False)
    else:
        layer = bitsandbytes.nn.Linear4bit(64, 8, quant_type="nf4", compute_dtype=torch.float32)
    return nn.Sequential(layer.requires_grad_(False)).to("cpu")  # quantises


def learn(model: nn.Module, kind: str) -> tuple[TaskUpdate, list[float]]:
    optimizer = torch.optim.AdamW(param_groups(model, lr=5e-2))
    prox = ProximalStep(optimizer, model, total_steps=20)
    x, y = torch.randn(16, 64), torch.randn(16, 8)
    losses = []
    for _ in range(20):
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return TaskUpdate.from_model(model, prox=prox), losses


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_learnt_and_never_merged(kind):
    net = quantized(kind)
    before = net[0].weight.detach().clone()
    model = get_peft_model(net, CodyraConfig(r=4, target_modules=["0"]))
    update, losses = learn(model, kind)
    assert losses[-1] < losses[0] / 2
    assert 0 < update.ranks["0"] <= 4
    for merge in (consolidate, lambda model: model.merge_and_unload()):
        with pytest.raises(ValueError, match=r"nothing is merged into quantised weights \(Linear"):
            merge(model)
    again = TaskUpdate.from_model(model)
    assert torch.equal(again.factors["0"][0], update.factors["0"][0])
    assert torch.equal(net[0].get_base_layer().weight, before)


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_stock_lora_is_not_consolidated_either(kind):
    model = get_peft_model(quantized(kind), LoraConfig(r=4, target_modules=["0"]))
    with pytest.raises(ValueError, match="nothing is merged into quantised weights"):
        consolidate(model)


def test_only_the_line_about_a_kernel_is_left_out():
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")

    def is_shown(text):
        return bool(
            logger.filter(logger.makeRecord(logger.name, logging.WARNING, "", 0, text, ("reason",), None))
        )

    assert not is_shown("Failed to load CPU gemm_4bit_forward from kernels-community: %s")
    assert is_shown("the weights are broken: %s")
