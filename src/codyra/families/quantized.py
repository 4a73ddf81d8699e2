"""Linears that hold their weight in 8 or 4 bit, so that a large base fits where it is trained and scored.

What such a layer holds is a view of a weight that is kept elsewhere in 16 or 32 bit. When that weight changes the view
is made anew; nothing is ever added to it, so that its errors do not add up over tasks. Inputs are not quantised: the
layer computes with the weight dequantised, in the type of its input.
"""

# Shapes: N rows (any leading dimensions), D in features, O out features
import importlib.util
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from codyra.errors import UserError

Quantization = Literal["8bit", "4bit"]
BLOCK = 64
"""Weights of 4 bit that share a scale; a weight of 8 bit shares its with its row."""


def check_library() -> None:
    """Look for the library that quantises.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "model.quantize: the package bitsandbytes is not installed; set the key to null, or "
            'pip install "codyra[quantized]"'
        )


def quantize_linears(
    net: nn.Module, names: Sequence[str], kind: Quantization, device: torch.device | str
) -> dict[str, Tensor]:
    """Put a QuantizedLinear on `device` in the place of each of these linears, one after the other.

    Returns:
        The weights that they had, where these were, by parameter name.

    Raises:
        UserError: one of them is no nn.Linear; the network is unchanged then.
    """
    layers = {name: net.get_submodule(name) for name in names}
    weights = {}
    for name, layer in layers.items():
        if type(layer) is not nn.Linear:
            raise UserError(
                f"model.quantize: {name} is {type(layer).__name__}, and only nn.Linear can be held in {kind}; "
                "set model.quantize to null"
            )
        weights[f"{name}.weight"] = layer.weight.detach()
    for name, layer in layers.items():
        assert isinstance(layer, nn.Linear)
        net.set_submodule(name, QuantizedLinear(layer, kind, device))
    return weights


class QuantizedLinear(nn.Linear):
    """A frozen linear with its weight in 8 bit (absolute maximum per output) or 4 bit (NF4, blocks of BLOCK weights).

    Attributes:
        weight: int8 (O, D); or uint8 (ceil(O D / 2), 1), two numbers in each.
        scale: float32 (O,); or (ceil(O D / BLOCK),).
    """

    scale: nn.Parameter

    def __init__(self, plain: nn.Linear, kind: Quantization, device: torch.device | str) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")
        self.kind = kind
        self.bias = plain.bias
        self.hold(plain.weight.to(device))
        self.train(plain.training)

    @torch.no_grad()
    def hold(self, weight_OD: Tensor) -> None:
        """Quantise this weight, of 16 or more bits, in place of what was held before."""
        from bitsandbytes import functional

        if self.kind == "8bit":
            packed, scale, _ = functional.int8_vectorwise_quant(weight_OD.half())
        else:
            packed, state = functional.quantize_4bit(weight_OD.float(), blocksize=BLOCK, quant_type="nf4")
            scale = state.absmax
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)

    def forward(self, x_ND: Tensor) -> Tensor:
        kind_of_device = x_ND.device.type
        if torch.is_autocast_enabled(kind_of_device):
            x_ND = x_ND.to(torch.get_autocast_dtype(kind_of_device))
        bias = None if self.bias is None else self.bias.to(x_ND.dtype)
        if self.kind == "8bit":
            y_NO: Tensor = _Product.apply(x_ND, self.weight, self.scale, bias)
            return y_NO
        return self._product_of_4_bit(x_ND, bias)

    def _product_of_4_bit(self, x_ND: Tensor, bias: Tensor | None) -> Tensor:
        import bitsandbytes

        state = bitsandbytes.functional.QuantState(
            absmax=self.scale,
            shape=torch.Size((self.out_features, self.in_features)),
            dtype=x_ND.dtype,
            blocksize=BLOCK,
            quant_type="nf4",
        )
        y_NO: Tensor = bitsandbytes.matmul_4bit(x_ND, self.weight.t(), quant_state=state, bias=bias)
        return y_NO


class _Product(torch.autograd.Function):
    """x W' + b of an 8-bit W, which is dequantised for each pass: kept from one to the other it would fill the memory.

    The library's own product rounds the inputs to 8 bit as well.
    """

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, packed_OD: Tensor, scale_O: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(packed_OD, scale_O)
        return linear(x_ND, _dequantized(packed_OD, scale_O, x_ND.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor, None, None, None]:
        packed_OD, scale_O = ctx.saved_tensors
        return grad_NO @ _dequantized(packed_OD, scale_O, grad_NO.dtype), None, None, None


def _dequantized(packed_OD: Tensor, scale_O: Tensor, dtype: torch.dtype) -> Tensor:
    from bitsandbytes import functional

    weight_OD: Tensor = functional.int8_vectorwise_dequant(packed_OD, scale_O)
    return weight_OD.to(dtype)
