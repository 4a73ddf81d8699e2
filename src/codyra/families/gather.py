"""One batch over several processes: the share of each, and the features of all with their gradients."""

# Shapes: N rows (examples or prompts) here, M rows over all processes, D features
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def share_of(num_rows: int, rank: int, num_processes: int) -> tuple[slice, list[int]]:
    """The rows that process `rank` encodes, and how many rows of every process count.

    Fewer rows than processes leave some without one. Networks do not take an empty batch, and data-parallel
    training waits for the gradients of all processes, so these encode a row that does not count.
    """
    bounds = [num_rows * process // num_processes for process in range(num_processes + 1)]
    sizes = [stop - start for start, stop in pairwise(bounds)]
    start = min(bounds[rank], num_rows - 1)
    return slice(start, start + max(1, sizes[rank])), sizes


def gather_features(features_ND: Tensor, sizes: Sequence[int]) -> Tensor:
    """Features (M, D) of all processes, in the order of their ranks.

    Every process then computes the loss of the whole batch. The gradient of a feature is the sum of those of
    all processes, so that the average of the parameters' gradients over processes, which data-parallel
    training takes, equals the gradient of one process with the whole batch.

    Args:
        features_ND: features of this process, differentiable.
        sizes: number of rows of every process, from `share_of`; rows beyond it do not count.
    """
    gathered_MD: Tensor = _AllGather.apply(features_ND, sizes)
    return gathered_MD


def gather_labels(labels_N: Tensor, sizes: Sequence[int]) -> Tensor:
    """Labels (M,) of all processes, as `gather_features` orders their features."""
    return _concatenate(labels_N, sizes)


class _AllGather(torch.autograd.Function):
    """Concatenate over processes; backward sums over processes and hands each the rows it made."""

    @staticmethod
    def forward(ctx: Any, local_ND: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.sizes, ctx.num_local = sizes, len(local_ND)
        return _concatenate(local_ND, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # A copy: autograd may hand the same tensor to other consumers.
        total_MD = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total_MD)
        start, size = sum(ctx.sizes[: dist.get_rank()]), ctx.sizes[dist.get_rank()]
        local_ND = total_MD.new_zeros((ctx.num_local, total_MD.shape[1]))
        local_ND[:size] = total_MD[start : start + size]
        return local_ND, None


def _concatenate(local: Tensor, sizes: Sequence[int]) -> Tensor:
    """All-gather of blocks of unequal length: pad to the longest, gather, cut."""
    size = sizes[dist.get_rank()]
    padded = local.new_zeros((max(sizes), *local.shape[1:]))
    padded[:size] = local[:size]
    blocks = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(blocks, padded)
    return torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)])
