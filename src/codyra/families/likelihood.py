"""The likeliest of given answers, without writing any."""

# Shapes: T tokens of all answers of a batch, A of one of them, V vocabulary
from collections.abc import Callable, Iterable, Iterator, Sequence

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
