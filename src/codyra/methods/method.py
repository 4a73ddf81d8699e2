"""A method: one named combination of pieces, with what it declares about itself."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codyra.methods.base import Adapter, Head, Merge, Piece, merge_of
from codyra.methods.context import Batch, Outputs, TaskContext
from codyra.methods.declaration import Declaration
from codyra.update import TaskUpdate


@dataclass(frozen=True)
class Method:
    """What the loop calls around a task; every hook of `Piece` is handed on to the pieces in the order of the slots.

    `declared` says what the method keeps, needs and costs; `after_task` holds it to what it keeps.
    """

    name: str
    declared: Declaration
    pieces: tuple[Piece, ...]

    @property
    def adapter(self) -> Adapter:
        return next(piece for piece in self.pieces if isinstance(piece, Adapter))

    @property
    def merge(self) -> Merge:
        return merge_of(self.pieces)

    @property
    def head(self) -> Head | None:
        return next((piece for piece in self.pieces if isinstance(piece, Head)), None)

    @property
    def trains(self) -> bool:
        """False for methods without gradient steps."""
        return self.adapter.trains

    @property
    def learns(self) -> bool:
        """False where no task leaves anything behind."""
        return self.trains or self.head is not None

    @property
    def targets(self) -> str | list[str] | None:
        """The `targets` option of the adapter; None where it has none."""
        return getattr(self.adapter, "targets", None)

    @property
    def cumulative(self) -> bool:
        """The adapter is trained on from where it stopped, on the base model; its update replaces the earlier ones."""
        return self.merge.update_kind() == "cumulative"

    def before_task(self, ctx: TaskContext) -> None:
        for piece in self.pieces:
            piece.before_task(ctx)

    def collect(self, ctx: TaskContext) -> None:
        for piece in self.pieces:
            piece.collect(ctx)

    def param_groups(self, ctx: TaskContext, lr: float) -> list[dict[str, Any]]:
        return self.adapter.param_groups(ctx, lr)

    def optimizer_ready(self, ctx: TaskContext) -> None:
        for piece in self.pieces:
            piece.optimizer_ready(ctx)

    def notices(self, ctx: TaskContext) -> list[str]:
        return [notice for piece in self.pieces if (notice := piece.notice(ctx)) is not None]

    def penalty(self, ctx: TaskContext) -> Tensor | None:
        return _sum(piece.penalty(ctx) for piece in self.pieces)

    def batch_loss(self, ctx: TaskContext, batch: Batch, outputs: Outputs) -> Tensor | None:
        return _sum(piece.batch_loss(ctx, batch, outputs) for piece in self.pieces)

    def after_backward(self, ctx: TaskContext) -> None:
        for piece in self.pieces:
            piece.after_backward(ctx)

    def after_step(self, ctx: TaskContext) -> None:
        for piece in self.pieces:
            piece.after_step(ctx)

    def train_log(self, ctx: TaskContext) -> dict[str, float | Tensor]:
        return {key: value for piece in self.pieces for key, value in piece.train_log(ctx).items()}

    def save_state(self, ctx: TaskContext) -> dict[str, Tensor | int | float]:
        return {
            f"{number}.{key}": value
            for number, piece in enumerate(self.pieces)
            for key, value in piece.save_state(ctx).items()
        }

    def load_state(self, ctx: TaskContext, state: Mapping[str, Tensor | int | float]) -> None:
        for number, piece in enumerate(self.pieces):
            prefix = f"{number}."
            own = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
            piece.load_state(ctx, own)

    def after_task(self, ctx: TaskContext) -> TaskUpdate:
        """Training is done: the task's update, and in `ctx.memory` what is kept for the next task.

        The net is plain again, with the weights from before the task.

        Raises:
            RuntimeError: the method kept more than it declares.
        """
        for piece in self.pieces:
            piece.end_training(ctx)
        ctx.memory.drop_empty()
        if not ctx.memory.allowed(self.declared.stores):
            kept = ", ".join(ctx.memory.num_bytes())
            raise RuntimeError(f"method {self.name} declares stores: {self.declared.stores} and kept {kept}")
        if self.head is not None:
            update = self.head.fit(ctx)
        else:
            update = self.adapter.extract(ctx, kind=self.merge.update_kind())
        for piece in self.pieces:
            update = piece.finish(ctx, update)
        self.adapter.discard(ctx)
        return update


def _sum(terms: Iterator[Tensor | None]) -> Tensor | None:
    present = [term for term in terms if term is not None]
    return torch.stack(present).sum() if present else None
