"""Adapter slot, full fine-tuning: every parameter but the logit scale."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch

from codyra.methods.base import Adapter
from codyra.methods.context import TaskContext
from codyra.update import TaskUpdate


class Full(Adapter):
    """Trains the weights themselves; what a task leaves behind is a dense difference."""

    sharded: ClassVar[bool] = True

    def touched(self, target_modules: Sequence[str], full_parameters: Sequence[str]) -> list[str]:
        return list(full_parameters)

    def before_task(self, ctx: TaskContext) -> None:
        ctx.state["before"] = {}
        for name in ctx.full_parameters:
            parameter = ctx.net.get_parameter(name)
            if parameter.dtype.itemsize < 4:
                raise ValueError(
                    f"full fine-tuning needs weights of float32, because {parameter.dtype} rounds most steps away; set "
                    "model.dtype to float32 (train.precision may be bf16)"
                )
            ctx.state["before"][name] = parameter.detach().clone()
            parameter.requires_grad_(True)

    def extract(self, ctx: TaskContext, kind: Literal["low_rank", "cumulative"]) -> TaskUpdate:
        after = {name: ctx.net.get_parameter(name).detach() for name in ctx.full_parameters}
        return TaskUpdate.from_difference(ctx.state["before"], after)

    def discard(self, ctx: TaskContext) -> None:
        with torch.no_grad():
            for name, weight in ctx.state.pop("before").items():
                parameter = ctx.net.get_parameter(name)
                parameter.copy_(weight)
                parameter.requires_grad_(False)
                parameter.grad = None
