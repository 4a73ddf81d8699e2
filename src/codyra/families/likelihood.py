"""The likeliest of given answers, without writing any."""

# Shapes: N rows, A tokens of an answer, of the longest in a batch (N, A, V), V vocabulary
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from codyra.families.answer_tokens import Row
from codyra.families.family import Batch


def alike(rows: Sequence[Row]) -> list[list[int]]:
    """Positions of rows that differ in their last token alone, as a prompt with one letter or another does."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, row in enumerate(rows):
        groups.setdefault((row.num_answer, *row.ids[:-1].tolist()), []).append(position)
    return list(groups.values())


def log_likelihoods(
    rows: Sequence[Row],
    batches: Iterable[Sequence[Sequence[int]]],
    logits: Callable[[Batch], Tensor],
    batch: Callable[[Sequence[Row]], Batch],
) -> Iterator[dict[int, float]]:
    """Sum of the log-probabilities of the answer's tokens of every row.

    Args:
        batches: of groups of `alike` rows, each of which is computed as one.

    Yields for each batch the sums of its rows by their positions.
    """
    for part in batches:
        logits_NAV = logits(batch([rows[group[0]] for group in part]))
        wide = torch.promote_types(logits_NAV.dtype, torch.float32)
        sums: dict[int, float] = {}
        for group, logits_AV in zip(part, logits_NAV, strict=True):
            first = len(logits_AV) - rows[group[0]].num_answer
            log_shares_AV = logits_AV[first:].log_softmax(dim=-1, dtype=wide)
            for position in group:
                answer_A = rows[position].ids[-len(log_shares_AV) :].long().to(log_shares_AV.device)
                sums[position] = float(log_shares_AV.gather(1, answer_A[:, None]).sum())
        yield sums
