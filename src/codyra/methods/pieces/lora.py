"""Adapter slot, fixed-rank LoRA as stock peft has it: dW = alpha / r * B A."""

from typing import ClassVar

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from pydantic import Field
from torch import nn

from codyra.methods.base import LinearAdapter
from codyra.methods.context import TaskContext
from codyra.update import TaskUpdate


class Lora(LinearAdapter):
    """A and B of every targeted linear; all ranks are kept."""

    sharded: ClassVar[bool] = True
    quantized: ClassVar[bool] = True

    r: int = Field(16, ge=1, le=4096, description="rank of every adapted linear")
    alpha: float | None = Field(
        None, gt=0, description="the update is scaled by alpha / r; null means alpha = r"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input")
    targets: str | list[str] = Field("all", description="all, vision, text, attention, mlp, or module names")

    def before_task(self, ctx: TaskContext) -> None:
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.r if self.alpha is None else self.alpha,
            lora_dropout=self.dropout,
            target_modules=ctx.target_modules,
        )
        ctx.model = get_peft_model(ctx.net, config)
        if ctx.previous is not None and ctx.previous.kind == "cumulative":
            self._continue_from(ctx, ctx.previous)

    def _continue_from(self, ctx: TaskContext, previous: TaskUpdate) -> None:
        # A stored update has alpha / r folded into B: take it out again.
        scale = (self.r if self.alpha is None else self.alpha) / self.r
        own = lora_factors(ctx)
        for name, (A_RD, B_OR) in previous.factors.items():
            with torch.no_grad():
                own[name][0].copy_(A_RD)
                own[name][1].copy_(B_OR / scale)


def lora_factors(ctx: TaskContext) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """A (R, D) and B (O, R) of every targeted linear, by its name, while a LoRA adapter is on."""
    factors = {}
    for name in ctx.target_modules:
        layer = ctx.net.get_submodule(name)
        assert isinstance(layer, LoraLayer)
        factors[name] = (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    return factors
