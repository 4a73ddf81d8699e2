"""Test examples over several processes: each scores every n-th batch, and all know all results."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Positions of examples of like length together, the longest first: what does not fit fails at once."""
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def num_processes() -> int:
    """Of this run; 1 without `accelerate launch`."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(batches: Sequence[Batch], before: int = 0) -> Sequence[Batch]:
    """The batches of this process. They are the same whatever the number of processes, and so is what they give.

    Args:
        before: batches that were dealt out earlier; it is the turn of the process after the last one that got any.
    """
    if not dist.is_initialized():
        return batches
    return batches[(dist.get_rank() - before) % dist.get_world_size() :: dist.get_world_size()]


def summed(counts: Tensor) -> Tensor:
    """The sum of the counts of all processes, in place and on every one."""
    if dist.is_initialized():
        dist.all_reduce(counts)
    return counts


class Progress:
    """Tells of work that processes share: elsewhere as much is supposed to be done as here.

    Args:
        tell: takes how many more examples are done.
        total: units of work over all processes.
        per_example: units that make one example.
    """

    def __init__(self, tell: Callable[[int], None], total: int, per_example: int = 1) -> None:
        self._tell, self._total, self._per_example = tell, total, per_example
        self._done = 0

    def __call__(self, here: int) -> None:
        """So many more units are done here."""
        self._advance(min(self._total, self._done + here * num_processes()))

    def finish(self) -> None:
        """Everything is done everywhere."""
        self._advance(self._total)

    def _advance(self, done: int) -> None:
        more = done // self._per_example - self._done // self._per_example
        self._done = done
        if more:
            self._tell(more)


def together(
    parts: Iterable[dict[int, Result]], total: int, tell: Callable[[int], None], per_example: int = 1
) -> list[Result]:
    """All results in the order of their positions; every process gives its own and gets all.

    Args:
        parts: what each batch of this process gave, by position.
        total: number of positions over all processes.
        tell, per_example: as `Progress` takes them.
    """
    own: dict[int, Result] = {}
    progress = Progress(tell, total, per_example)
    for part in parts:
        own |= part
        progress(len(part))
    results = own
    if num_processes() > 1:
        shares: list[Any] = [None] * num_processes()
        dist.all_gather_object(shares, own)
        results = {position: result for given in shares for position, result in given.items()}
    progress.finish()
    return [results[position] for position in range(total)]
