"""What a causal language model trains on: the cross-entropy of the answers' tokens."""

# Shapes: N rows, L tokens, A tokens of the longest answer, T tokens of all answers, V vocabulary
import random
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from codyra.families.answer_tokens import Row, left_pad
from codyra.families.family import Batch, Objective

NO_TARGET = -100


def answer_batch(rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
    """Network inputs (N, L), and `targets` int64 (N, A): the tokens of the answers, right-aligned.

    The last token of a row is predicted and never read.
    """
    batch = left_pad([row.ids[:-1] for row in rows], pad_id)
    longest = max(row.num_answer for row in rows)
    targets_NA = torch.full((len(rows), longest), NO_TARGET)
    for target_A, row in zip(targets_NA, rows, strict=True):
        if row.num_answer:
            target_A[-row.num_answer :] = row.ids[-row.num_answer :]
    return {name: tensor.to(device) for name, tensor in {**batch, "targets": targets_NA}.items()}


class AnswerObjective(Objective):
    """Cross-entropy summed over the tokens of the answers, ends included, divided by their number in the global
    batch: the same however the batch is split.

    Args:
        logits: of a batch; (T, V) in the order of its targets, at least float32.
        rows: the training examples.
        batch: rows as a batch on the network's device.
        micro_batch_size: rows computed together; None for all of a process.
    """

    def __init__(
        self,
        logits: Callable[[Batch], Tensor],
        rows: Sequence[Row],
        batch: Callable[[Sequence[Row]], Batch],
        micro_batch_size: int | None,
    ):
        self._logits = logits
        self._rows = rows
        self._batch = batch
        self._micro_batch_size = micro_batch_size

    def micro_batches(
        self, positions: Sequence[int], rng: random.Random, rank: int, num_processes: int
    ) -> Iterator[Batch]:
        """Rows of like length together, the longest first: what does not fit into memory fails at once.

        A process without rows for its last part computes one that does not count, because data-parallel training
        waits for the gradients of all processes.
        """
        num_tokens = sum(self._rows[position].num_answer for position in positions)
        by_length = sorted(positions, key=lambda position: -len(self._rows[position].ids))
        most = -(-len(by_length) // num_processes)
        size = self._micro_batch_size or most
        mine = by_length[rank::num_processes]
        for start in range(0, most, size):
            part = mine[start : start + size]
            batch = self._batch([self._rows[position] for position in part or by_length[-1:]])
            yield {**batch, "scale": num_processes / num_tokens if part else 0.0}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, a scalar of at least float32."""
        targets_NA = batch["targets"]
        logits_TV = self._logits(batch)
        total = F.cross_entropy(logits_TV, targets_NA[targets_NA != NO_TARGET], reduction="sum")
        return {"loss": total * batch["scale"]}
