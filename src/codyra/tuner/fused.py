"""The gated linear as one step of autograd: the same numbers as layer.py's plain form, quicker and with less memory.

Forward   low = x A^T,  y = x W^T + b + (low * w) B^T
Backward  up = g B,  dx = g W + (up * w) A,  dA = (up * w)^T x,  dB = g^T (low * w),  dw = sum_N up * low

Kept between them are x and low alone (under autocast their narrow casts, and that of W); the sums y and dx grow in
place, and W needs no gradient.
"""

# Shapes: N rows (all leading dimensions together), D features in, O features out, R ranks
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from codyra.tuner.compat import LoraLinear
from codyra.tuner.followed import is_followed, refuse_second_derivatives
from codyra.tuner.products import linear


class GatedProduct(torch.autograd.Function):
    """y = W x + b + B (w * (A x)) for a frozen W, (N, D) to (N, O). Second derivatives are refused."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, W_OD: Tensor, b_O: Tensor | None, A_RD: Tensor, gate_R: Tensor, B_OR: Tensor
    ) -> Tensor:
        """Under autocast the products are in its dtype, as those of torch's own linears."""
        device = x_ND.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            x_ND, W_OD, A_RD, B_OR = (_cast(tensor, dtype) for tensor in (x_ND, W_OD, A_RD, B_OR))
            b_O = None if b_O is None else _cast(b_O, dtype)
        y_NO = linear(x_ND, W_OD, b_O)
        low_NR = linear(x_ND.to(A_RD.dtype), A_RD)
        gated_NR = (low_NR * gate_R).to(B_OR.dtype)
        if y_NO.dtype == B_OR.dtype:
            y_NO.addmm_(gated_NR, B_OR.T)
        else:  # adapters in float32 on narrower weights: their product is rounded once, in the sum
            y_NO = (y_NO + linear(gated_NR, B_OR)).to(y_NO.dtype)
        wants_A = ctx.needs_input_grad[3]
        ctx.save_for_backward(x_ND if wants_A else None, W_OD, A_RD, gate_R, B_OR, low_NR)
        return y_NO

    @staticmethod
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, A, w and B, each only where it is wanted.

        Raises:
            RuntimeError: they are to be differentiated again.
        """
        refuse_second_derivatives("codyra.tuner.GatedLinear.fused = False before the forward pass")
        x_ND, W_OD, A_RD, gate_R, B_OR, low_NR = ctx.saved_tensors
        wants_x, _, _, wants_A, wants_gate, wants_B = ctx.needs_input_grad
        dx_ND = dA_RD = dgate_R = dB_OR = None
        wide_NO = grad_NO.to(B_OR.dtype)
        up_NR = linear(wide_NO, B_OR.T).to(gate_R.dtype)
        if wants_gate:
            dgate_R = (up_NR * low_NR).sum(dim=0, dtype=gate_R.dtype)
        if wants_B:
            dB_OR = ((low_NR * gate_R).to(B_OR.dtype).T @ wide_NO).T  # the narrow side first is quicker
        gated_NR = (up_NR * gate_R).to(A_RD.dtype)
        if wants_A:
            dA_RD = gated_NR.T @ x_ND.to(A_RD.dtype)
        if wants_x:
            dx_ND = linear(grad_NO, W_OD.T)
            if dx_ND.dtype == A_RD.dtype:
                dx_ND.addmm_(gated_NR, A_RD)
            else:
                dx_ND = (dx_ND + linear(gated_NR, A_RD.T)).to(dx_ND.dtype)
        return dx_ND, None, None, dA_RD, dgate_R, dB_OR


Operands = tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]
"""W (O, D), b (O,), A (R, D), gate (R,) and B (O, R)."""

_ORDINARY = (Tensor, nn.Parameter, FakeTensor)
"""Kinds of weights that are no more than their numbers; FakeTensor is what memory is predicted with."""


def operands(layer: LoraLinear, adapter: str) -> Operands | None:
    """What `GatedProduct` multiplies in the place of this layer; None where its parts do more than multiply.

    None for Conv1D, quantised and sharded weights, subclasses of nn.Linear, a base or bias that trains, dropout, and
    where anything watches or replaces the forward of a part. Asked in every forward pass: hooks come and go.
    """
    base, dropout = layer.base_layer, layer.lora_dropout[adapter]
    A, gate, B = layer.lora_A[adapter], layer.lora_gate[adapter], layer.lora_B[adapter]
    linear_parts = type(base) is type(A) is type(B) is nn.Linear
    if not (linear_parts and all(map(is_plain, (base, A, gate, B, dropout)))):
        return None
    W_OD, b_O = base.weight, base.bias
    if (
        A.bias is not None
        or B.bias is not None
        or W_OD.requires_grad
        or (b_O is not None and b_O.requires_grad)
        or (dropout.training and not isinstance(dropout, nn.Identity))
        or is_followed()
    ):
        return None
    return W_OD, b_O, A.weight, gate.weight, B.weight


def is_plain(part: nn.Module) -> bool:
    """Whether calling this module is calling its class's forward, on ordinary weights, unheard."""
    inside = vars(part)  # nn.Module's own way to an attribute takes longer than a small product
    return not (
        inside["_forward_hooks"]
        or inside["_forward_pre_hooks"]
        or inside["_backward_hooks"]
        or inside["_backward_pre_hooks"]
        or "forward" in inside
        or any(
            type(weight) not in _ORDINARY for weight in inside["_parameters"].values() if weight is not None
        )
    )


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.to(dtype)
