"""Rank rule of a control: ranks chosen by nothing but chance.

CoDyRA's selection follows the draw of its gates and leaves about half of the ranks and 0.56 of the gates' norm. This
rule drops a random half of every linear's ranks after training and scales the rest to the same norm (sqrt(1/2) * 0.79
= 0.56): what remains of CoDyRA's advantage beside it is what its selection knows.
"""

from dataclasses import replace

from pydantic import Field

from codyra.methods.base import Piece
from codyra.methods.context import TaskContext
from codyra.update import TaskUpdate


class RandomRanks(Piece):
    """Draws the ranks to keep from a generator of its own, per task and linear."""

    kept_share: float = Field(0.5, gt=0, le=1, description="share of the ranks of every linear that is kept")
    kept_scale: float = Field(0.79, gt=0, description="factor on what is kept")

    def finish(self, ctx: TaskContext, update: TaskUpdate) -> TaskUpdate:
        factors = {}
        for name, (A_RD, B_OR) in update.factors.items():
            num_kept = max(1, round(self.kept_share * len(A_RD)))
            kept = sorted(ctx.rng("random ranks", name).sample(range(len(A_RD)), num_kept))
            factors[name] = (A_RD[kept], B_OR[:, kept] * self.kept_scale)
        kept_ranks = {name: len(A_KD) for name, (A_KD, _) in factors.items()}
        return replace(update, factors=factors, ranks=dict.fromkeys(update.ranks, 0) | kept_ranks)
