"""Rank rule, energy: the fewest singular directions of every update that keep a share of its energy.

With the singular values s_1 >= s_2 >= ... of dW = B A, the smallest K with s_1^2 + ... + s_K^2 >= tau * sum s_i^2
is kept (truncation at the end of training, LoRA-Squeeze, arXiv 2602.10993); the squared error of dW is the sum of the
squares dropped. dW is never formed: with B = Q_B R_B and A^T = Q_A R_A its singular values are those of R_B R_A^T.
"""

# Shapes: O out features, D in features, R ranks, K kept ranks
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from codyra.methods.base import Piece
from codyra.methods.context import TaskContext
from codyra.update import TaskUpdate


class Energy(Piece):
    """Truncates the update of every linear on its own; 1 leaves it as it is."""

    energy: float = Field(
        0.9, gt=0, le=1, description="share of the squared singular values of every update that is kept"
    )

    def finish(self, ctx: TaskContext, update: TaskUpdate) -> TaskUpdate:
        if self.energy == 1:
            return update
        factors = {name: truncated(A_RD, B_OR, self.energy) for name, (A_RD, B_OR) in update.factors.items()}
        factors = {name: pair for name, pair in factors.items() if len(pair[0])}
        kept = {name: len(A_KD) for name, (A_KD, _) in factors.items()}
        return replace(update, factors=factors, ranks=dict.fromkeys(update.ranks, 0) | kept)


def truncated(A_RD: Tensor, B_OR: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """Factors (K, D) and (O, K), in the dtype of the given ones, of the best approximation with that energy.

    The rows of the first are orthonormal, the second carries the singular values. An update of zeros keeps nothing.
    """
    Q_B, R_B = torch.linalg.qr(B_OR.double())
    Q_A, R_A = torch.linalg.qr(A_RD.double().T)
    U, s_R, Vh = torch.linalg.svd(R_B @ R_A.T, full_matrices=False)
    share_R = s_R.square().cumsum(0) / s_R.square().sum()
    # Rounding may leave the whole sum a hair below 1.
    num_kept = min(int((share_R < energy).sum()) + 1, len(s_R)) if s_R[0] > 0 else 0
    A_KD = (Q_A @ Vh[:num_kept].T).T
    B_OK = Q_B @ (U[:, :num_kept] * s_R[:num_kept])
    return A_KD.to(A_RD.dtype).contiguous(), B_OK.to(B_OR.dtype).contiguous()
