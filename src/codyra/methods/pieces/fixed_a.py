"""Adapter slot, LoRA with a fixed A: dW = alpha / r * B A, of which only B is trained, from zero."""

from collections.abc import Mapping

import torch
from torch import Tensor

from codyra.methods.context import TaskContext
from codyra.methods.pieces.lora import Lora, lora_factors


class FixedA(Lora):
    """A stays as the init slot sets it, or as drawn where that is empty."""

    def before_task(self, ctx: TaskContext) -> None:
        super().before_task(ctx)
        for A_RD, _ in lora_factors(ctx).values():
            A_RD.requires_grad_(False)

    def save_state(self, ctx: TaskContext) -> dict[str, Tensor | int | float]:
        # What is trained belongs to this A to the last bit; with other threads the pass over the data gives another.
        return {name: A_RD.detach() for name, (A_RD, _) in lora_factors(ctx).items()}

    @torch.no_grad()
    def load_state(self, ctx: TaskContext, state: Mapping[str, Tensor | int | float]) -> None:
        for name, (A_RD, _) in lora_factors(ctx).items():
            A_RD.copy_(torch.as_tensor(state[name]))
