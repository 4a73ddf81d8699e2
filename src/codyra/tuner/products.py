"""The matrix product of the hot path, by the quickest of torch's own routines on this processor.

`torch.ops.mkldnn._linear_pointwise` is an operator that torch's compiler uses and torch does not promise to keep; where
it is missing, products go torch's ordinary way.
"""

import functools
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Shapes: N rows, D features in, O features out

WORTH_ONEDNN = 2**21
"""Multiplications N * D * O of a product; below it oneDNN's ten microseconds per call cost more than they save."""


def linear(x_ND: Tensor, W_OD: Tensor, b_O: Tensor | None = None) -> Tensor:
    """x W^T + b as `torch.nn.functional.linear`, equal to rounding; (N, O) in their dtype.

    To be called where no gradient is kept: oneDNN's has none.
    """
    on_cpu = x_ND.device.type == "cpu" and x_ND.dtype == torch.float32
    worth_it = on_cpu and x_ND.numel() * len(W_OD) >= WORTH_ONEDNN
    if worth_it and onednn_is_quicker() and torch.backends.mkldnn.enabled:
        return torch.ops.mkldnn._linear_pointwise(x_ND, W_OD, b_O, "none", [], "")
    return torch.mm(x_ND, W_OD.T) if b_O is None else torch.addmm(b_O, x_ND, W_OD.T)


def as_rows(x: Tensor) -> Tensor:
    """(..., D) to (N, D); not by reshape(-1, D), which an empty batch leaves open."""
    return x.reshape(x.numel() // x.shape[-1], x.shape[-1])


@contextmanager
def quick_linears(net: nn.Module) -> Iterator[None]:
    """While this is open, every plain nn.Linear of the network multiplies by `linear` where no gradient is kept."""
    quicker = []
    if onednn_is_quicker():
        quicker = [
            module for module in net.modules() if type(module) is nn.Linear and "forward" not in vars(module)
        ]
    for module in quicker:
        module.forward = functools.partial(_without_gradient, module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in quicker:
            del module.forward


def _without_gradient(module: nn.Linear, input: Tensor) -> Tensor:
    sharded = type(module.weight) is not nn.Parameter
    if torch.is_grad_enabled() or torch.is_autocast_enabled(input.device.type) or sharded:
        return F.linear(input, module.weight, module.bias)
    return linear(as_rows(input), module.weight, module.bias).view(*input.shape[:-1], module.out_features)


@functools.cache
def onednn_is_quicker() -> bool:
    """Whether float32 products should go through oneDNN.

    MKL, which torch uses for them, keeps its AVX-512 kernels for Intel's processors; on others oneDNN is twice as quick
    (docs/performance.md). The rule looks at the processor and not at a clock, so that a run can be repeated.
    """
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "GenuineIntel" not in _processor()
    )


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    return about.read_text("utf-8", errors="replace") if about.exists() else platform.processor()
