"""Features of the whole batch on every process, with gradients that flow back to where each feature was
made."""

# Shapes: N examples here, M examples over all processes, D features
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _AllGather(torch.autograd.Function):
    """Concatenate over processes; backward sums the gradients of all processes and hands each its own
    rows."""

    @staticmethod
    def forward(ctx: Any, local_ND: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.sizes = sizes
        return _concatenate(local_ND, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # Not in place: autograd may hand the same tensor to other consumers.
        total_MD = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total_MD)
        start = sum(ctx.sizes[: dist.get_rank()])
        return total_MD[start : start + ctx.sizes[dist.get_rank()]], None


def gather_features(features_ND: Tensor, labels_N: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Features (M, D) and labels (M,) of all processes, in the order of their ranks.

    Every process then computes the loss of the whole batch. The gradient of a feature is the sum of those of
    all processes, so the average of the parameters' gradients over processes, which data-parallel training
    takes, equals the gradient of one process with the whole batch.

    Args:
        features_ND: features of this process, differentiable.
        labels_N: int64 labels of this process.
        sizes: number of examples of every process; known beforehand, so that no step waits for the device.
    """
    return _AllGather.apply(features_ND, sizes), _concatenate(labels_N, sizes)


def _concatenate(local: Tensor, sizes: Sequence[int]) -> Tensor:
    """All-gather of blocks of unequal length: pad to the longest, gather, cut."""
    assert local.shape[0] == sizes[dist.get_rank()]
    padded = local.new_zeros((max(sizes), *local.shape[1:]))
    padded[: local.shape[0]] = local
    blocks = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(blocks, padded)
    return torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)])
