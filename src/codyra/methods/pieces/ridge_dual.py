"""Head slot, RAIL's dual form (arXiv 2406.18868): kernel ridge regression on all training features so far.

With F (S, D) the features of all tasks, k(f, g) = exp(-gamma |f - g|^2) and Y (S, C) their one-hot codes,

    scores(f) = k(f, F) A,    A = (k(F, F) + lambda I)^-1 Y,

solved anew after every task, in O(S^3). F and the class of every row are the memory, F and A are the update.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from codyra.methods.context import TaskContext
from codyra.methods.memory import Kind
from codyra.methods.pieces.ridge import Ridge, one_hot
from codyra.update import DualHead, TaskUpdate, gaussian_kernel


class RidgeDual(Ridge):
    """Needs no gradient; what it keeps and what a score costs grow with every example."""

    keeps: ClassVar[Kind | None] = "features"

    gamma: float = Field(0.1, gt=0, description="sharpness of the Gaussian kernel")
    ridge_lambda: float = Field(0.001, gt=0, description="what is added to the kernel's diagonal")

    def end_training(self, ctx: TaskContext) -> None:
        kept = ctx.memory.store("features", "ridge")
        features, columns = ctx.state["features"], ctx.state["columns"]
        if kept:
            features, columns = (
                torch.cat([kept["features"], features]),
                torch.cat([kept["columns"], columns]),
            )
        kept |= {"features": features, "columns": columns}

    def fit(self, ctx: TaskContext) -> TaskUpdate:
        kept = ctx.memory.store("features", "ridge")
        kernel_SS = gaussian_kernel(kept["features"], kept["features"], self.gamma)
        targets_SC = one_hot(kept["columns"], ctx.state["num_classes"])
        fusion, gamma = (torch.tensor(value, dtype=torch.float64) for value in (self.fusion, self.gamma))
        head = DualHead(
            fusion, gamma, kept["features"], coefficients(kernel_SS, targets_SC, self.ridge_lambda)
        )
        return TaskUpdate("head", tensors=head.to_tensors())


def coefficients(kernel_SS: Tensor, targets_SC: Tensor, ridge_lambda: float) -> Tensor:
    """(K + lambda I)^-1 Y, float64."""
    shifted_SS = kernel_SS + ridge_lambda * torch.eye(len(kernel_SS), dtype=torch.float64)
    return torch.cholesky_solve(targets_SC, torch.linalg.cholesky(shifted_SS))
