"""CLIP's activation x * sigmoid(1.702 x), keeping x alone for the backward pass.

transformers' own keeps x and the sigmoid and makes two more tensors of their size on the way. In a CLIP these are the
largest of a step: 4 D wide, where everything else is D.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from codyra.tuner.followed import is_followed, is_one_of_many
from codyra.tuner.fused import is_plain

SLOPE = 1.702


class _QuickGELU(torch.autograd.Function):
    """x sigmoid(s x), which is silu(s x) / s: its derivative is that of silu at s x, where s x is finite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x * SLOPE).sigmoid_().mul_(x)  # every bit as transformers has it

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        scaled = x * SLOPE
        if torch.is_grad_enabled() or is_followed() or is_one_of_many(grad):
            share = scaled.sigmoid()
            return grad * share * (1 + scaled * (1 - share))
        return torch.ops.aten.silu_backward.grad_input(grad, scaled, grad_input=scaled)


class LeanQuickGELU(nn.Module):
    """Stands in for transformers' QuickGELUActivation, of any shape and dtype, until the adapters are taken off."""

    def __init__(self, original: QuickGELUActivation) -> None:
        super().__init__()
        self._original = [original]  # in a list, so that it is no module of the network

    def forward(self, x: Tensor) -> Tensor:
        if is_followed():
            return self._original[0](x)
        return _QuickGELU.apply(x)

    def unload_and_optionally_merge_module(self, **kwargs: Any) -> QuickGELUActivation:
        """PEFT calls this when it takes the adapters off."""
        return self._original[0]


def make_lean(net: nn.Module) -> None:
    """Put a LeanQuickGELU in the place of every QuickGELUActivation of the network."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            # Not a subclass, nor one that is heard or whose forward was replaced (kernels from a hub).
            if type(child) is QuickGELUActivation and is_plain(child):
                setattr(module, name, LeanQuickGELU(child))
