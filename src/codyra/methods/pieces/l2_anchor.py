"""Penalty: anchor_weight * sum of (theta - theta_before)^2 over everything trained (ZSCL, arXiv 2303.06628).

theta_before are the values at the start of the task; the gradient is 2 * anchor_weight * (theta - theta_before).
"""

import torch
from pydantic import Field
from torch import Tensor

from codyra.methods.base import Piece
from codyra.methods.context import TaskContext


class L2Anchor(Piece):
    """Pulls what is trained back to where the task began."""

    anchor_weight: float = Field(
        1.0, ge=0, description="weight of the squared distance to the weights before the task"
    )

    def before_task(self, ctx: TaskContext) -> None:
        if self.anchor_weight:
            trained = ctx.trained().items()
            # Full fine-tuning has kept them already.
            ctx.state["anchor"] = ctx.state.get("before") or {name: w.detach().clone() for name, w in trained}

    def penalty(self, ctx: TaskContext) -> Tensor | None:
        if self.anchor_weight == 0:
            return None
        trained, anchor = ctx.trained(), ctx.state["anchor"]
        squares = [(weight - anchor[name]).square().sum() for name, weight in trained.items()]
        return self.anchor_weight * torch.stack(squares).sum()
