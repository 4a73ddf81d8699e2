"""Init slot, data SVD: A is made of the main directions of the task's inputs, less those that past tasks used
(InfLoRA, arXiv 2404.00228).

A pass over the task, before it is learnt, gives C = E[x x^T] of every distinct input x (D) of the targeted linears.
With M (D, K) the directions that past tasks used (subspace.py: the fewest that hold a share of the energy of
every past C), A (R, D) gets the R leading eigenvectors of

    (I - M M^T) C (I - M M^T)

as its rows, each of length 1/sqrt(3): A M = 0 and 3 A A^T = I. Where A stays fixed, no update changes what a linear
makes of an x in span(M). Linears that read the same tensor get the same A. Where the task uses fewer than R free
directions, A has as many rows, and zeros below them: Adam would make full steps of the rounding of any other.
"""

import torch

from codyra.methods.context import TaskContext
from codyra.methods.pieces.lora import lora_factors
from codyra.methods.pieces.subspace import ROUNDING, KeepsSubspace, Subspace, past_subspaces, second_moments

LENGTH = 3**-0.5
"""Of the rows of A, as released: about that of a row of LoRA's own draw."""


class DataSvd(KeepsSubspace):
    """Sets A of a LoRA adapter; extends M after the task by a second pass."""

    @torch.no_grad()
    def collect(self, ctx: TaskContext) -> None:
        past, factors = past_subspaces(ctx), lora_factors(ctx)
        sums, first_of = second_moments(ctx)
        for first, C_DD in sums.items():
            before = past.get(first, Subspace.empty(C_DD))
            energy_F, ascending_DF = before.free_directions(C_DD)
            ascending_DF = ascending_DF[:, energy_F > ROUNDING * C_DD.double().trace()]
            for A_RD in (factors[name][0] for name in first_of if first_of[name] == first):
                leading_RD = ascending_DF.flip(1).T[: len(A_RD)]
                A_RD.zero_()[: len(leading_RD)] = LENGTH * leading_RD
