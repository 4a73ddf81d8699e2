"""The likeliest of given answers, without writing any."""

# Shapes: T tokens of all answers of a batch, A of one of them, V vocabulary
from collections.abc import Callable, Iterator, Sequence

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
        first_rows = [rows[group[0]] for group in part]
        log_shares_TV = logits(batch(first_rows)).log_softmax(dim=-1)
        sums: dict[int, float] = {}
        for group, of_row_AV in zip(
            part, log_shares_TV.split([row.num_answer for row in first_rows]), strict=True
        ):
            for position in group:
                answer_A = rows[position].ids[-len(of_row_AV) :].long().to(of_row_AV.device)
                sums[position] = float(of_row_AV.gather(1, answer_A[:, None]).sum())
        yield sums
