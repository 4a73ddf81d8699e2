"""The directions that past tasks used, of every distinct input of the targeted linears (GPM, arXiv 2103.09762, kept as
InfLoRA does, arXiv 2404.00228).

M (D, K) is an orthonormal basis of them and empty before the first task. After task t of T, a pass over its examples,
and for a dual encoder over the prompts of its classes, gives C = E[x x^T] of every input x (D), and M is extended by
the leading eigenvectors of (I - M M^T) C (I - M M^T), as few as leave at most a share 1 - e_t of the energy of C, which
is the sum of its eigenvalues, outside of span(M):

    trace((I - M M^T) C) <= (1 - e_t) trace(C),    e_t = e, or e + (1 - e) t / T where the share rises.

Once K > D/2 the orthonormal basis of what is outside is kept instead: D * min(K, D - K) float32 numbers per input.
"""

# Shapes: D features of an input, K directions in span(M), F = D - K free ones, P positions, R rows
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from codyra.methods.base import Piece
from codyra.methods.context import TaskContext
from codyra.methods.memory import Kind, Memory
from codyra.methods.pieces.lora import lora_factors
from codyra.update import TaskUpdate

ROUNDING = 1e-6
"""Share of an energy that float32 sums cannot tell from none."""


@dataclass(frozen=True)
class Subspace:
    """span(M), held as one of two orthonormal bases.

    Attributes:
        basis: (D, K) of span(M), or (D, F) of its orthogonal complement.
        complement: which of the two it is.
    """

    basis: Tensor
    complement: bool = False

    @classmethod
    def empty(cls, like_DD: Tensor) -> "Subspace":
        """No direction at all, of as many features."""
        return cls(like_DD.new_zeros(len(like_DD), 0))

    def without(self, rows_RD: Tensor) -> Tensor:
        """These rows less their part in span(M)."""
        basis = self.basis.to(rows_RD)
        within_RD = rows_RD @ basis @ basis.T
        return within_RD if self.complement else rows_RD - within_RD

    def free_directions(self, C_DD: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (F,), ascending, and eigenvectors (D, F) of C less span(M), float64: an orthonormal basis of the
        complement, also where C has nothing there.
        """
        free_DF = self.basis.double() if self.complement else _completion(self.basis.double())
        energy_F, vectors_FF = torch.linalg.eigh(free_DF.T @ C_DD.double() @ free_DF)
        return energy_F.clamp(min=0), free_DF @ vectors_FF

    def extended(self, C_DD: Tensor, share: float) -> "Subspace":
        """The smallest extension with at least that share of the energy of C inside, in float32."""
        energy_F, free_DF = self.free_directions(C_DD)
        outside = max(1 - share, ROUNDING) * C_DD.double().trace()
        num_free = int((energy_F.cumsum(0) <= outside).sum())
        free_DF = free_DF[:, :num_free]
        if 2 * num_free < len(C_DD):
            return Subspace(free_DF.float(), complement=True)
        return Subspace(_completion(free_DF).float())


def past_subspaces(ctx: TaskContext) -> dict[str, Subspace]:
    """What earlier tasks used, on the network's device, by the first linear that reads the input."""
    device = next(ctx.net.parameters()).device
    bases, complements = _stores(ctx.memory)
    spans = {name: Subspace(basis.to(device)) for name, basis in bases.items()}
    return spans | {name: Subspace(basis.to(device), complement=True) for name, basis in complements.items()}


def second_moments(ctx: TaskContext) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Of every distinct input of the targeted linears, over the examples of the task and the prompts of its classes:
    C (D, D), times the number of positions, in at least float32, by the first linear that reads it; and the first one
    of every linear.
    """
    sums: dict[str, Tensor] = {}

    def add(name: str, x_PD: Tensor) -> None:
        x_PD = x_PD.to(torch.promote_types(x_PD.dtype, torch.float32))
        if name not in sums:
            sums[name] = x_PD.new_zeros(x_PD.shape[1], x_PD.shape[1])
        sums[name].addmm_(x_PD.T, x_PD)

    first_of = ctx.data.visit_inputs(ctx.target_modules, range(len(ctx.data)), ctx.batch_size, add)
    return sums, first_of


class KeepsSubspace(Piece):
    """What InfLoRA and GPM have in common: the memory, filled at the end of every task by a pass over its examples."""

    keeps: ClassVar[Kind | None] = "statistics"

    subspace_energy: float = Field(
        0.95, gt=0, le=1, description="share of the energy of a task's inputs that later tasks leave alone, e"
    )
    energy_rises: bool = Field(
        False, description="e is that of a stream's beginning; the share rises to 1 at the last task"
    )

    def kept_bytes(self, ctx: TaskContext, task_index: int) -> int:
        # As if no two linears read the same input, which is known after a pass over the data only.
        widths = [A_RD.shape[1] for A_RD, _ in lora_factors(ctx).values()]
        return sum(4 * D * (D // 2) for D in widths)

    def end_training(self, ctx: TaskContext) -> None:
        share = self.subspace_energy
        if self.energy_rises:
            assert ctx.num_tasks is not None, "the method declares needs_number_of_tasks"
            share += (1 - share) * (ctx.task_index + 1) / ctx.num_tasks
        past = past_subspaces(ctx)
        bases, complements = _stores(ctx.memory)
        sums, _ = second_moments(ctx)
        for name, C_DD in sums.items():
            after = past.get(name, Subspace.empty(C_DD)).extended(C_DD, share)
            bases.pop(name, None)
            (complements if after.complement else bases)[name] = after.basis.cpu()

    def finish(self, ctx: TaskContext, update: TaskUpdate) -> TaskUpdate:
        """Ranks for which A was given no direction have rows of zeros there: they add nothing and are dropped."""
        live = {name: A_RD.any(dim=1) for name, (A_RD, _) in update.factors.items()}
        factors = {
            name: (A_RD[live[name]], B_OR[:, live[name]])
            for name, (A_RD, B_OR) in update.factors.items()
            if live[name].any()
        }
        ranks = {name: int(live_R.sum()) for name, live_R in live.items()}
        return replace(update, factors=factors, ranks=update.ranks | ranks)


def _completion(basis_DK: Tensor) -> Tensor:
    """An orthonormal basis (D, D - K) of what is orthogonal to these orthonormal columns."""
    return torch.linalg.qr(basis_DK, mode="complete").Q[:, basis_DK.shape[1] :]


def _stores(memory: Memory) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Bases of subspaces, and of complements."""
    return memory.store("statistics", "subspace"), memory.store("statistics", "complement")
