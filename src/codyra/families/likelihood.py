"""The likeliest of given answers, without writing any."""

# Shapes: T tokens of all answers, V vocabulary
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from codyra.families.answer_tokens import Row
from codyra.families.answers import NO_TARGET
from codyra.families.family import Batch


def log_likelihoods(
    rows: Sequence[Row],
    logits: Callable[[Batch], Tensor],
    batch: Callable[[Sequence[Row]], Batch],
    batch_size: int,
) -> Iterator[dict[int, float]]:
    """Sum of the log-probabilities of the answer's tokens of every row.

    Yields batch by batch the sums of the rows at these positions; rows of like length make a batch, the longest
    first.
    """
    order = sorted(range(len(rows)), key=lambda position: -len(rows[position].ids))
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        part = batch([rows[position] for position in positions])
        targets_NA = part["targets"]
        counts = targets_NA != NO_TARGET
        log_shares_TV = logits(part).log_softmax(dim=-1)
        of_tokens_NA = torch.zeros(targets_NA.shape, dtype=log_shares_TV.dtype, device=targets_NA.device)
        of_tokens_NA[counts] = log_shares_TV.gather(1, targets_NA[counts][:, None])[:, 0]
        yield dict(zip(positions, of_tokens_NA.sum(dim=1).tolist(), strict=True))
