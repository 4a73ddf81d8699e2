"""The likeliest of given answers, without writing any."""

# Shapes: N rows, A tokens of an answer, of the longest in a batch (N, A, V), V vocabulary
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from codyra.families.answer_tokens import Row
from codyra.families.family import Batch


def log_likelihoods(
    rows: Sequence[Row],
    logits: Callable[[Batch], Tensor],
    batch: Callable[[Sequence[Row]], Batch],
    batch_size: int,
) -> Iterator[dict[int, float]]:
    """Sum of the log-probabilities of the answer's tokens of every row.

    Rows that differ in their last token alone, as a prompt with one letter or another does, are computed as one.
    Yields batch by batch the sums of the rows at these positions; rows of like length make a batch, the longest
    first.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for position, row in enumerate(rows):
        alike.setdefault((row.num_answer, *row.ids[:-1].tolist()), []).append(position)
    groups = sorted(alike.values(), key=lambda group: -len(rows[group[0]].ids))
    for start in range(0, len(groups), batch_size):
        part = groups[start : start + batch_size]
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
