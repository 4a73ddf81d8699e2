"""Penalty slot, elastic weight consolidation: parameters that earlier tasks depend on are held where they are.

(lambda / 2) sum_i F_i (theta_i - theta*_i)^2, where theta* is where the task before ended and F is the diagonal of the
empirical Fisher information, F_i = mean over examples of (d log p(y | x) / d theta_i)^2 with y as labelled, for classes
by an example's logits among them: measured when a task has been learnt, on its own training examples, one by one,
without dropout and without the penalty. Over tasks F <- gamma F + F_new (EWC, arXiv 1612.00796; its online form,
arXiv 1805.06370).

Kept: F, float32, of the shapes of the trained parameters. theta* is the adapter itself, so the adapter must be one that
is trained through the whole stream: of a merged one weights are left, and a fresh one has no theta*.

With F a mean over examples, lambda = 1 is the Laplace approximation for tasks of equal size where the loss is the mean
of -log p(y | x); where it is a mean over tokens, 1 / (tokens of an answer) is. It holds next to nothing, because the
examples of a task that is learnt have small gradients: on the demo stream a task that is hardly held moves a parameter
by 0.01 and makes sum_i F_i (theta_i - theta*_i)^2 1e-4 to 1e-3. With lambda = 1000, chosen from that, such a move costs
up to 0.5 of a loss of about 1, which is felt and still lets a task be learnt.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from codyra.errors import UserError
from codyra.methods.base import Piece, merge_of
from codyra.methods.context import TaskContext
from codyra.methods.gradients import gradients, without_dropout
from codyra.methods.memory import Kind


class FisherAnchor(Piece):
    """Online EWC on whatever the adapter trains."""

    keeps: ClassVar[Kind | None] = "statistics"
    quantized: ClassVar[bool] = True

    ewc_lambda: float = Field(
        1e3,
        ge=0,
        allow_inf_nan=False,
        description="weight of the penalty; 1 is the Laplace approximation for classes",
    )
    ewc_gamma: float = Field(
        1.0, ge=0, le=1, description="share of the Fisher information that outlives the next task"
    )
    fisher_examples: int | None = Field(
        200, ge=1, description="training examples, drawn, that it is measured on; null means all"
    )

    def check_beside(self, pieces: Sequence[Piece]) -> None:
        if merge_of(pieces).update_kind() != "cumulative":
            raise UserError(
                "fisher_anchor holds one adapter through all tasks; it needs merge: carry, continue"
            )

    def before_task(self, ctx: TaskContext) -> None:
        kept = ctx.memory.store("statistics", "fisher")
        ctx.state["anchors"] = [
            (weight, weight.detach().clone(), kept[name].to(weight))
            for name, weight in ctx.trained().items()
            if kept
        ]

    def penalty(self, ctx: TaskContext) -> Tensor | None:
        terms = [(fisher * (weight - start).square()).sum() for weight, start, fisher in ctx.state["anchors"]]
        return self.ewc_lambda / 2 * torch.stack(terms).sum() if terms and self.ewc_lambda else None

    def kept_bytes(self, ctx: TaskContext, task_index: int) -> int:
        return 4 * ctx.num_trained()

    def end_training(self, ctx: TaskContext) -> None:
        kept = ctx.memory.store("statistics", "fisher")
        for name, new in self._fisher(ctx).items():
            old = self.ewc_gamma * kept[name] if name in kept else 0.0
            kept[name] = old + new.to("cpu", torch.float32)

    def _fisher(self, ctx: TaskContext) -> dict[str, Tensor]:
        """Mean of the squared gradients of single examples, by the names of the parameters."""
        wanted = len(ctx.data) if self.fisher_examples is None else min(self.fisher_examples, len(ctx.data))
        positions = ctx.rng("fisher").sample(range(len(ctx.data)), wanted)
        sums = {name: torch.zeros_like(weight) for name, weight in ctx.trained().items()}
        with without_dropout(ctx.net):
            for batch in ctx.data.plain_batches(positions, 1):
                for name, gradient in gradients(ctx, ctx.data.log_likelihoods(batch).sum()).items():
                    sums[name].addcmul_(gradient, gradient)
        return {name: total / wanted for name, total in sums.items()}
