"""One batch over several processes: the share of each, and the features of all with their gradients."""

# Shapes: N examples here, M examples over all processes, D features
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def share_of_batch(
    batch: Mapping[str, Tensor], rank: int, num_processes: int
) -> tuple[dict[str, Tensor], list[int]]:
    """The rows of `batch` that process `rank` encodes, and the number of examples of every process.

    A batch smaller than the number of processes leaves some without an example. Networks do not take an
    empty batch, and data-parallel training waits for the gradients of all processes, so these encode a row
    that does not count.
    """
    num_examples = len(next(iter(batch.values())))
    bounds = [num_examples * process // num_processes for process in range(num_processes + 1)]
    sizes = [stop - start for start, stop in pairwise(bounds)]
    start = min(bounds[rank], num_examples - 1)
    return {name: tensor[start : start + max(1, sizes[rank])] for name, tensor in batch.items()}, sizes


def gather_features(features_ND: Tensor, labels_N: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Features (M, D) and labels (M,) of all processes, in the order of their ranks.

    Every process then computes the loss of the whole batch. The gradient of a feature is the sum of those of
    all processes, so that the average of the parameters' gradients over processes, which data-parallel
    training takes, equals the gradient of one process with the whole batch.

    Args:
        features_ND: features of this process, differentiable.
        labels_N: int64 labels of this process.
        sizes: number of examples of every process, from `share_of_batch`; rows beyond it do not count.
    """
    return _AllGather.apply(features_ND, sizes), _concatenate(labels_N, sizes)


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
