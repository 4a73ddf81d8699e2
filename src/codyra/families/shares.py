"""Test examples over several processes: each scores every n-th batch, and all know all results."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Positions of examples of like length together, the longest first: what does not fit fails at once."""
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def share(batches: Sequence[Batch]) -> Sequence[Batch]:
    """The batches of this process. They are the same whatever the number of processes, and so is what they give."""
    return batches[dist.get_rank() :: dist.get_world_size()] if dist.is_initialized() else batches


def together(
    parts: Iterable[dict[int, Result]], total: int, progress: Callable[[int], None], per_example: int = 1
) -> list[Result]:
    """All results in the order of their positions; every process gives its own and gets all.

    Args:
        parts: what each batch of this process gave, by position.
        total: number of positions over all processes.
        progress: told how many more examples are done; elsewhere as many are supposed to be as here.
        per_example: positions that make one example.
    """
    processes = dist.get_world_size() if dist.is_initialized() else 1
    own: dict[int, Result] = {}
    told = 0
    for part in parts:
        own |= part
        done = min(total, processes * len(own)) // per_example
        progress(done - told)
        told = done
    results = own
    if processes > 1:
        shares: list[Any] = [None] * processes
        dist.all_gather_object(shares, own)
        results = {position: result for given in shares for position, result in given.items()}
    if rest := total // per_example - told:
        progress(rest)
    return [results[position] for position in range(total)]
