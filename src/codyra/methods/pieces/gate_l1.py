"""Penalty: weight * sum |w| over the gates of all linears (SoRA, arXiv 2311.11696)."""

import torch
from pydantic import Field
from torch import Tensor

from codyra.methods.base import Piece
from codyra.methods.context import TaskContext


class GateL1(Piece):
    """Pulls the rank weights of a gated adapter towards zero, beside the proximal step."""

    gate_l1: float = Field(
        1e-3, ge=0, description="weight of the sum of the absolute rank weights in the loss"
    )

    def penalty(self, ctx: TaskContext) -> Tensor | None:
        if self.gate_l1 == 0:
            return None
        return self.gate_l1 * torch.stack([gate.weight.abs().sum() for gate in ctx.state["gates"]]).sum()
