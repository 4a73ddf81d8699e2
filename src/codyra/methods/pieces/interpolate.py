"""Merge slot, interpolate: W <- a * W_tuned + (1 - a) * W_ref after every task (WiSE-FT, arXiv 2109.01903).

W_ref is W_before, the weights before the task (`previous`, the form in ZSCL, arXiv 2303.06628): the update dW is merged
as a * dW. Or it is W_0, those of the base model (`pretrained`): the update is a * dW - (1 - a) * (W_before - W_0), and
dense, because what earlier tasks left behind shrinks as well.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from codyra.methods.base import Merge
from codyra.methods.context import TaskContext
from codyra.methods.teacher import plain_parameter
from codyra.update import TaskUpdate, compose


class Interpolate(Merge):
    """Between the weights before and after the task; of LoRA, between the full weights that it makes."""

    quantized: ClassVar[bool] = False

    merge_alpha: float = Field(
        0.8, ge=0, le=1, description="share of the tuned weights; 1 is the plain merge, 0 learns nothing"
    )
    merge_reference: Literal["previous", "pretrained"] = Field(
        "previous", description="the other weights: those before the task, or of the base model"
    )

    def finish(self, ctx: TaskContext, update: TaskUpdate) -> TaskUpdate:
        if self.merge_alpha == 1:
            return update
        scaled = update.scaled(self.merge_alpha)
        if self.merge_reference == "previous" or ctx.previous is None:
            return scaled
        back = TaskUpdate.from_difference(_before(ctx), ctx.base, scale=1 - self.merge_alpha)
        zeros = {
            name: torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
            for name, weight in ctx.base.items()
        }
        differences = compose(ctx.net, zeros, [scaled, back]).items()
        return TaskUpdate("dense", tensors={name: tensor for name, tensor in differences if tensor.any()})


def _before(ctx: TaskContext) -> dict[str, Tensor]:
    """The weights before the task, on the CPU."""
    kept = ctx.state.get("before", {})
    return {
        name: (kept[name] if name in kept else plain_parameter(ctx.net, name)).detach().cpu()
        for name in ctx.base
    }
