"""Head slot, RAIL's primal form (arXiv 2406.18868): recursive ridge regression on random features.

phi = ReLU(f H), H (D, M) drawn once from the seed and frozen. For every batch of examples, exactly and in any order,

    R <- R - R Phi^T (I + Phi R Phi^T)^-1 Phi R,    W <- [W, 0] + R Phi^T (Y - Phi [W, 0]),

from R = I / lambda, so that after the first task R is (Phi^T Phi + lambda I)^-1 and W always the ridge regression of
all examples so far to one-hot codes. R is the memory, H and W are the update; no example and no feature is kept.

Shapes: N examples of a batch, D features, M random features (option `hidden`), C classes of all tasks so far.
"""

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from codyra.methods.context import TaskContext
from codyra.methods.memory import Kind
from codyra.methods.pieces.ridge import Ridge, one_hot
from codyra.update import PrimalHead, TaskUpdate, expanded

ROWS = 1024
"""Examples of one recursion; says nothing about the result."""


class RidgePrimal(Ridge):
    """Needs no gradient; what it keeps does not grow with the examples."""

    keeps: ClassVar[Kind | None] = "statistics"

    hidden: int = Field(
        2048, ge=1, le=100_000, description="random features; hidden^2 float64 are kept after every task"
    )
    ridge_lambda: float = Field(0.1, gt=0, description="weight of |W|^2 in the regression")

    def kept_bytes(self, ctx: TaskContext, task_index: int) -> int:
        return 8 * self.hidden**2

    def end_training(self, ctx: TaskContext) -> None:
        features_ND, num_classes = ctx.state["features"], ctx.state["num_classes"]
        statistics = ctx.memory.store("statistics", "ridge")
        earlier = ctx.previous.head if ctx.previous is not None else None
        if earlier is None:
            H_DM = self._draw(ctx, features_ND.shape[1])
            R_MM = torch.eye(self.hidden, dtype=torch.float64) / self.ridge_lambda
            W_MC = torch.zeros(self.hidden, 0, dtype=torch.float64)
        else:
            assert isinstance(earlier, PrimalHead)
            H_DM, R_MM, W_MC = earlier.H, statistics["R"], earlier.W
        W_MC = torch.nn.functional.pad(W_MC, (0, num_classes - W_MC.shape[1]))
        targets_NC = one_hot(ctx.state["columns"], num_classes)
        for part_ND, part_NC in zip(features_ND.split(ROWS), targets_NC.split(ROWS), strict=True):
            R_MM, W_MC = recursion(R_MM, W_MC, expanded(part_ND, H_DM), part_NC)
        statistics["R"] = R_MM
        ctx.state["head"] = PrimalHead(torch.tensor(self.fusion, dtype=torch.float64), H_DM, W_MC)

    def _draw(self, ctx: TaskContext, num_features: int) -> Tensor:
        """H, uniform in +-1 / sqrt(D) as a fresh linear layer."""
        generator = torch.Generator().manual_seed(ctx.rng("ridge").getrandbits(63))
        return (2 * torch.rand(num_features, self.hidden, generator=generator) - 1) / math.sqrt(num_features)

    def fit(self, ctx: TaskContext) -> TaskUpdate:
        return TaskUpdate("head", tensors=ctx.state["head"].to_tensors())


def recursion(R_MM: Tensor, W_MC: Tensor, Phi_NM: Tensor, Y_NC: Tensor) -> tuple[Tensor, Tensor]:
    """R and W with these examples in them; all float64.

    With I + Phi R Phi^T = L L^T and B = L^-1 Phi R the first step is R - B^T B, which stays symmetric.
    """
    PhiR_NM = Phi_NM @ R_MM
    L_NN = torch.linalg.cholesky(torch.eye(len(Phi_NM), dtype=torch.float64) + PhiR_NM @ Phi_NM.T)
    B_NM = torch.linalg.solve_triangular(L_NN, PhiR_NM, upper=False)
    R_MM = R_MM - B_NM.T @ B_NM
    R_MM = (R_MM + R_MM.T) / 2
    return R_MM, W_MC + R_MM @ (Phi_NM.T @ (Y_NC - Phi_NM @ W_MC))
