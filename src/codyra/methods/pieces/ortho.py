"""Penalty, orthogonality to the past (O-LoRA, arXiv 2310.14152): the rows of A keep off those of earlier tasks.

    ortho_weight * sum over linears, i < t of |A_i A_t^T|_1  +  ortho_l2 * sum over linears of (|A_t|_2 + |B_t|_2)

with |.|_1 the sum of absolute entries and |.|_2 the root of the sum of squares. The first sum has R * R(t-1) entries
per linear: it grows with the rank and with every task, and so does its pull. `ortho_reduction: mean` divides it by
their number.
"""

# Shapes: D in features, R ranks, H ranks of all earlier tasks together
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from codyra.errors import UserError
from codyra.methods.base import Piece, merge_of
from codyra.methods.context import TaskContext
from codyra.methods.memory import Kind
from codyra.methods.pieces.lora import lora_factors


class Ortho(Piece):
    """Keeps the A of every task, one under the other: R rows more per linear and task."""

    keeps: ClassVar[Kind | None] = "statistics"
    quantized: ClassVar[bool] = True

    ortho_weight: float = Field(
        0.5, ge=0, description="weight of the overlap of A with the A of earlier tasks"
    )
    ortho_l2: float = Field(0.0, ge=0, description="weight of the L2 norms of the new factors")
    ortho_reduction: Literal["sum", "mean"] = Field(
        "sum", description="over the entries of the overlap; mean does not grow with the rank and the tasks"
    )

    def check_beside(self, pieces: Sequence[Piece]) -> None:
        if merge_of(pieces).update_kind() == "cumulative":
            raise UserError("ortho keeps adapters of tasks apart; with carry: continue there is only one")

    def optimizer_ready(self, ctx: TaskContext) -> None:
        past = ctx.memory.store("statistics", "past_A")
        ctx.state["factors"] = factors = lora_factors(ctx)
        ctx.state["overlapping"] = [
            (past[name].to(A_RD), A_RD) for name, (A_RD, _) in factors.items() if name in past
        ]

    def penalty(self, ctx: TaskContext) -> Tensor | None:
        terms: list[Tensor] = []
        if self.ortho_weight:
            reduce = torch.mean if self.ortho_reduction == "mean" else torch.sum
            overlaps = [reduce((past_HD @ A_RD.T).abs()) for past_HD, A_RD in ctx.state["overlapping"]]
            terms += [self.ortho_weight * overlap for overlap in overlaps]
        if self.ortho_l2:
            factors = [factor for pair in ctx.state["factors"].values() for factor in pair]
            terms += [self.ortho_l2 * torch.linalg.vector_norm(factor) for factor in factors]
        return torch.stack(terms).sum() if terms else None

    def kept_bytes(self, ctx: TaskContext, task_index: int) -> int:
        factors = [A_RD for A_RD, _ in lora_factors(ctx).values()]
        return (task_index + 1) * sum(A_RD.numel() * A_RD.element_size() for A_RD in factors)

    def end_training(self, ctx: TaskContext) -> None:
        past = ctx.memory.store("statistics", "past_A")
        for name, (A_RD, _) in ctx.state["factors"].items():
            A_RD = A_RD.detach().cpu()
            past[name] = torch.cat([past[name], A_RD]) if name in past else A_RD.clone()
