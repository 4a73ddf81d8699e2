"""Penalty: weight * mean |w| over the gates of all linears (SoRA, arXiv 2311.11696).

The paper writes a sum; the released code divides it by the number of gates, and the weight is the one released with it.
"""

import torch
from pydantic import Field
from torch import Tensor

from codyra.methods.base import Piece
from codyra.methods.context import TaskContext


class GateL1(Piece):
    """Pulls the rank weights of a gated adapter towards zero, beside the proximal step."""

    gate_l1: float = Field(1e-3, ge=0, description="weight of the mean absolute rank weight in the loss")

    def penalty(self, ctx: TaskContext) -> Tensor | None:
        if self.gate_l1 == 0:
            return None
        gates = [gate.weight for gate in ctx.state["gates"]]
        total = torch.stack([weight.abs().sum() for weight in gates]).sum()
        return self.gate_l1 * total / sum(weight.numel() for weight in gates)
