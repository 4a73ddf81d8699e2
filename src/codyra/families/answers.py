"""What a causal language model trains on: the cross-entropy of the answers' tokens."""

# Shapes: N rows, L tokens, A tokens of the longest answer, P = N * A positions, V vocabulary
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from codyra.families.answer_tokens import Row, left_pad
from codyra.families.family import NO_TARGET, Batch, Objective, Outputs
from codyra.families.observing import Visitor, observed_inputs

POSITIONS_AT_ONCE = 32
"""Of the loss; with the vocabulary of 256,000 of Gemma, 32 positions are 33 MB in float32."""


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
        net: the network that `logits` runs.
        logits: of a batch; (N, A, V), for every entry of its targets.
        rows: the training examples.
        batch: rows as a batch on the network's device.
        micro_batch_size: rows computed together; None for all of a process.
    """

    def __init__(
        self,
        net: nn.Module,
        logits: Callable[[Batch], Tensor],
        rows: Sequence[Row],
        batch: Callable[[Sequence[Row]], Batch],
        micro_batch_size: int | None,
    ):
        self._net = net
        self._logits = logits
        self._rows = rows
        self._batch = batch
        self._micro_batch_size = micro_batch_size

    def __len__(self) -> int:
        return len(self._rows)

    def micro_batches(
        self, positions: Sequence[int], rng: random.Random, rank: int, num_processes: int
    ) -> Iterator[Batch]:
        """Rows of like length together, the longest first: what does not fit into memory fails at once.

        A process without rows for its last part computes one that does not count, because data-parallel training
        waits for the gradients of all processes.
        """
        num_tokens = self.num_terms(positions)
        by_length = sorted(positions, key=lambda position: -len(self._rows[position].ids))
        most = -(-len(by_length) // num_processes)
        size = self._micro_batch_size or most
        mine = by_length[rank::num_processes]
        for start in range(0, most, size):
            part = mine[start : start + size]
            batch = self._batch([self._rows[position] for position in part or by_length[-1:]])
            yield {**batch, "scale": num_processes / num_tokens if part else 0.0}

    def plain_batches(self, positions: Sequence[int], size: int) -> Iterator[Batch]:
        """As `Objective.plain_batches`; the loss of each is the mean over its own tokens."""
        for start in range(0, len(positions), size):
            rows = [self._rows[position] for position in positions[start : start + size]]
            yield {**self._batch(rows), "scale": 1 / sum(row.num_answer for row in rows)}

    def outputs(self, batch: Batch, prompts: Tensor | None = None) -> Outputs:
        """Logits of the tokens of the answers, whose positions are all those that have a target."""
        logits_PV = self._logits(batch).flatten(0, 1)
        return Outputs(logits_PV, batch["targets"].flatten(), scale=batch["scale"])

    def log_likelihoods(self, batch: Batch) -> Tensor:
        logits_NAV, targets_NA = self._logits(batch), batch["targets"]
        wide = torch.promote_types(logits_NAV.dtype, torch.float32)
        log_p_NA = -F.cross_entropy(
            logits_NAV.to(wide).transpose(1, 2), targets_NA, ignore_index=NO_TARGET, reduction="none"
        )
        return log_p_NA.sum(dim=1)

    def num_terms(self, positions: Sequence[int]) -> int:
        return sum(self._rows[position].num_answer for position in positions)

    def visit_inputs(
        self, modules: Sequence[str], positions: Sequence[int], size: int, visit: Visitor
    ) -> dict[str, str]:
        first_of: dict[str, str] = {}
        for batch in self.plain_batches(positions, size):
            with observed_inputs(self._net, modules, visit, batch["attention_mask"]) as of_batch:
                self._logits(batch)
            first_of |= of_batch
        return first_of

    def example_bytes(self, positions: Sequence[int]) -> int:
        return sum(4 * len(self._rows[position].ids) for position in positions)

    def loss(
        self, batch: Batch, outputs: Outputs | None = None, num_terms: int | None = None
    ) -> dict[str, Tensor]:
        """`loss`, a scalar of at least float32."""
        outputs = outputs or self.outputs(batch)
        scale = batch["scale"] if num_terms is None else 1 / num_terms
        return {"loss": _SummedCrossEntropy.apply(outputs.logits, outputs.targets) * scale}


class _SummedCrossEntropy(torch.autograd.Function):
    """Cross-entropy, summed over the positions that have a target, computed in at least float32.

    Only a few positions at a time are widened, in both passes, so that the logits and their gradient exist once each,
    in the dtype of the network. Left to autograd they are held in float32 three times over.
    """

    @staticmethod
    def forward(ctx: Any, logits_PV: Tensor, targets_P: Tensor) -> Tensor:
        ctx.save_for_backward(logits_PV, targets_P)
        parts = zip(logits_PV.split(POSITIONS_AT_ONCE), targets_P.split(POSITIONS_AT_ONCE), strict=True)
        return torch.stack([_cross_entropy(logits, targets) for logits, targets in parts]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        logits_PV, targets_P = ctx.saved_tensors
        gradient_PV = torch.empty_like(logits_PV)
        parts = (tensor.split(POSITIONS_AT_ONCE) for tensor in (gradient_PV, logits_PV, targets_P))
        for gradient, logits, targets in zip(*parts, strict=True):
            with torch.enable_grad():
                leaf = logits.detach().requires_grad_()
                total = _cross_entropy(leaf, targets)
            gradient.copy_(torch.autograd.grad(total, leaf, upstream)[0])
        return gradient_PV, None


def _cross_entropy(logits_PV: Tensor, targets_P: Tensor) -> Tensor:
    wide = torch.promote_types(logits_PV.dtype, torch.float32)
    return F.cross_entropy(logits_PV.to(wide), targets_P, ignore_index=NO_TARGET, reduction="sum")
