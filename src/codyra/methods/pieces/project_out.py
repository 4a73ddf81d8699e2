"""Gradient-edit slot, project out (GPM, arXiv 2103.09762): nothing is learnt in directions that past tasks used.

With M the basis of these directions for the input of a linear (subspace.py: the fewest that hold a share of the energy
of C = E[x x^T] of every past task), A and every gradient of it lose their part
in span(M):

    A <- A - A M M^T  before the task,    dL/dA <- dL/dA - (dL/dA) M M^T.

AdamW divides every coordinate by a size of its own, which turns a projected gradient out of the free directions again,
so A is projected after every step as well. Hence A M = 0 all along, and dW x = B A x = 0 for every x in span(M).
"""

import torch
from torch import Tensor

from codyra.methods.context import TaskContext
from codyra.methods.pieces.lora import lora_factors
from codyra.methods.pieces.subspace import KeepsSubspace, Subspace, past_subspaces


class ProjectOut(KeepsSubspace):
    """Keeps A of a LoRA adapter off the past; extends M after the task by a pass over it."""

    def collect(self, ctx: TaskContext) -> None:
        ctx.state["projections"] = self._projections(ctx)
        self.after_step(ctx)

    def _projections(self, ctx: TaskContext) -> list[tuple[Tensor, Subspace]]:
        """Every A with what past tasks used of its input."""
        past = past_subspaces(ctx)
        if not past:
            return []
        first_of = ctx.data.visit_inputs(ctx.target_modules, [0], 1, lambda name, x_PD: None)
        factors = lora_factors(ctx)
        return [(factors[name][0], past[first]) for name, first in first_of.items() if first in past]

    @torch.no_grad()
    def after_backward(self, ctx: TaskContext) -> None:
        for A_RD, past in ctx.state["projections"]:
            if A_RD.grad is not None:
                A_RD.grad.copy_(past.without(A_RD.grad))

    @torch.no_grad()
    def after_step(self, ctx: TaskContext) -> None:
        for A_RD, past in ctx.state["projections"]:
            A_RD.copy_(past.without(A_RD))
