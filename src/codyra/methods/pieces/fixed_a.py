"""Adapter slot, LoRA with a fixed A: dW = alpha / r * B A, of which only B is trained, from zero."""

from codyra.methods.context import TaskContext
from codyra.methods.pieces.lora import Lora, lora_factors


class FixedA(Lora):
    """A stays as the init slot sets it, or as drawn where that is empty."""

    def before_task(self, ctx: TaskContext) -> None:
        super().before_task(ctx)
        for A_RD, _ in lora_factors(ctx).values():
            A_RD.requires_grad_(False)
