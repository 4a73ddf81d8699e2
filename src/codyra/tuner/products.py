"""The matrix product of the hot path, by the quickest of torch's own routines on this processor.

`torch.ops.mkldnn._linear_pointwise` is an operator that torch's compiler uses and torch does not promise to keep; where
it is missing, products go torch's ordinary way.
"""

import functools
import platform
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

# Shapes: N rows, D features in, O features out

WORTH_ONEDNN = 2**21
"""Multiplications N * D * O of a product; below it oneDNN's ten microseconds per call cost more than they save."""


def linear(x_ND: Tensor, W_OD: Tensor, b_O: Tensor | None = None) -> Tensor:
    """x W^T + b as `torch.nn.functional.linear`, equal to rounding; (N, O) in their dtype. Has no gradient."""
    on_cpu = x_ND.device.type == "cpu" and x_ND.dtype == torch.float32
    if on_cpu and x_ND.numel() * len(W_OD) >= WORTH_ONEDNN and onednn_is_quicker():
        return torch.ops.mkldnn._linear_pointwise(x_ND, W_OD, b_O, "none", [], "")
    return F.linear(x_ND, W_OD, b_O)


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
