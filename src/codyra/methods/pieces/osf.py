"""Adapter slot, orthogonal subspace fine-tuning as peft has it: the large singular directions of a weight are frozen.

W = U_h S_h V_h + U_l S_l V_l, with the k largest singular values in the first term. U_l (O, R), S_l (R) and V_l (R, D)
with R = min(O, D) - k are trained, dW = U_l S_l V_l - its start. peft projects the gradients: U_h' g_U = 0 and
g_V V_h' = 0 (arXiv 2504.07097). AdamW scales every coordinate on its own and so leaves the subspace again; U_l and V_l
are therefore projected in the same way after every step, and U_h' dW = 0 = dW V_h' holds for the update itself.

Between tasks dW is merged and the weight decomposed anew. dW is stored dense: with k = min(O, D) / 2 its factors, of
rank 2R, would be larger.
"""

from typing import Literal

import torch
from peft import OSFConfig, get_peft_model
from peft.tuners.osf import OSFLayer
from pydantic import Field
from torch import nn

from codyra.methods.base import LinearAdapter
from codyra.methods.context import TaskContext
from codyra.tuner.compat import project_osf_factors
from codyra.update import TaskUpdate


class Osf(LinearAdapter):
    """The small singular directions of every targeted linear; what a task leaves behind is a dense difference."""

    frozen_share: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of a linear's singular directions, the largest, that is frozen; peft: effective_rank",
    )
    targets: str | list[str] = Field("all", description="all, vision, text, attention, mlp, or module names")

    def before_task(self, ctx: TaskContext) -> None:
        for name in ctx.target_modules:
            self._check(name, ctx.net.get_submodule(name))
        config = OSFConfig(effective_rank=self.frozen_share, target_modules=ctx.target_modules)
        ctx.model = get_peft_model(ctx.net, config)

    def _check(self, name: str, layer: nn.Module) -> None:
        if not isinstance(layer, nn.Linear):
            raise ValueError(
                f"osf decomposes nn.Linear only and {name} is {type(layer).__name__}; use another method or model"
            )
        if layer.weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"osf needs weights of float32, because singular vectors rounded to {layer.weight.dtype} are not "
                "orthogonal; set model.dtype to float32 (train.precision may be bf16)"
            )
        if int(self.frozen_share * min(layer.weight.shape)) < 1:
            raise ValueError(f"frozen_share {self.frozen_share:g} freezes nothing of {name}; set it higher")

    def after_step(self, ctx: TaskContext) -> None:
        for layer in _layers(ctx).values():
            project_osf_factors(layer, "default")

    def extract(self, ctx: TaskContext, kind: Literal["low_rank", "cumulative"]) -> TaskUpdate:
        tensors = {
            f"{name}.weight": layer.get_delta_weight("default").detach().cpu()
            for name, layer in _layers(ctx).items()
        }
        return TaskUpdate("dense", tensors=tensors)


def _layers(ctx: TaskContext) -> dict[str, OSFLayer]:
    return {name: module for name, module in ctx.net.named_modules() if isinstance(module, OSFLayer)}
