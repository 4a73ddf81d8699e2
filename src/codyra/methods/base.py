"""What a continual-learning method is: a choice of pieces, and the hooks the loop calls around a task.

A method is a YAML file beside this one that names one piece per slot (adapter, step edit, merge). A
piece is a small pydantic model: its fields are the options a user may set, its methods are hooks. State lives in
the TaskContext, never in a piece, so one method object serves the whole stream.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from codyra.update import TaskUpdate


@dataclass
class TaskContext:
    """Everything a method may see and keep while one task is learnt."""

    net: nn.Module
    """The plain network; adapters swap linears inside it in place and give them back at task end."""
    target_modules: list[str]
    """Dotted names of the linears that `targets` selects; empty for methods without that option."""
    full_parameters: list[str]
    """Names of what full fine-tuning trains: all parameters but the logit scale."""
    task_index: int
    """From 0."""
    total_steps: int
    """Optimizer steps of this task."""
    previous: TaskUpdate | None
    """What the task before left behind."""
    model: nn.Module = field(init=False)
    """The network with adapters, once `before_task` has run; the plain one until then."""
    optimizer: torch.optim.Optimizer = field(init=False)
    """Set before `optimizer_ready`."""
    state: dict[str, Any] = field(default_factory=dict)
    """Private to the pieces: the proximal step, weights before the task, ..."""

    def __post_init__(self) -> None:
        self.model = self.net


class Piece(BaseModel):
    """One composable piece; every hook does nothing unless the piece says otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def before_task(self, ctx: TaskContext) -> None:
        """Network loaded, data known, no optimizer yet."""

    def optimizer_ready(self, ctx: TaskContext) -> None:
        """The optimizer exists, no step has been taken."""

    def loss(self, ctx: TaskContext, batch: dict[str, Tensor]) -> Tensor | None:
        """A penalty to add to the task's loss (scalar), or None."""

    def notice(self, ctx: TaskContext) -> str | None:
        """What a user should know of the options before the first step; asked for after `optimizer_ready`."""
        return None

    def after_backward(self, ctx: TaskContext) -> None:
        """Gradients are ready, before clipping and the step."""

    def after_step(self, ctx: TaskContext) -> None:
        """The optimizer stepped and was not skipped."""

    def train_log(self, ctx: TaskContext) -> dict[str, float | Tensor]:
        """What this piece adds to a line of train.jsonl; scalar tensors are read later, so that nothing waits."""
        return {}

    def save_state(self, ctx: TaskContext) -> dict[str, Tensor | int | float]:
        """What a checkpoint inside the task must hold for this piece, beside parameters and optimizer."""
        return {}

    def load_state(self, ctx: TaskContext, state: Mapping[str, Tensor | int | float]) -> None:
        """Continue from what `save_state` gave; called after `optimizer_ready`."""

    def end_training(self, ctx: TaskContext) -> None:
        """Last step taken; raise here if something that had to happen did not."""


class Adapter(Piece):
    """The slot every method fills: what is trainable, and what it leaves behind."""

    trains: ClassVar[bool] = True

    def touched(self, target_modules: Sequence[str], full_parameters: Sequence[str]) -> list[str]:
        """Names of the plain network's parameters that an update of this adapter may change."""
        raise NotImplementedError

    def param_groups(self, ctx: TaskContext, lr: float) -> list[dict[str, Any]]:
        """Optimizer groups with `lr` and `weight_decay` written into each."""
        raise NotImplementedError

    def extract(self, ctx: TaskContext, kind: Literal["low_rank", "cumulative"], scale: float) -> TaskUpdate:
        """The task's update times `scale`."""
        raise NotImplementedError

    def discard(self, ctx: TaskContext) -> None:
        """Make the net plain again, with the weights it had before the task."""


class Merge(Piece):
    """The slot that says how an update joins its predecessors."""

    def update_kind(self) -> Literal["low_rank", "cumulative"]:
        """`low_rank` is added to the predecessors, `cumulative` replaces them."""
        return "low_rank"

    def scale(self) -> float:
        """Factor on the update when it is merged."""
        return 1.0


@dataclass(frozen=True)
class Method:
    """One named combination of pieces, with what it declares about itself."""

    name: str
    summary: str
    source: str
    stores: Literal["none", "weights", "statistics", "features", "samples"]
    needs_reference_data: bool
    needs_number_of_tasks: bool
    task_id_at_test: bool
    extra_inference: bool
    adapter: Adapter
    merge: Merge
    others: tuple[Piece, ...] = ()

    @property
    def trains(self) -> bool:
        """False for methods without gradient steps."""
        return self.adapter.trains

    @property
    def targets(self) -> str | list[str] | None:
        """The `targets` option of the adapter; None where it has none."""
        return getattr(self.adapter, "targets", None)

    def _pieces(self) -> Iterator[Piece]:
        yield self.adapter
        yield from self.others
        yield self.merge

    def start_from(self, updates: Iterable[TaskUpdate]) -> Iterable[TaskUpdate]:
        """Which of the earlier updates are in the weights while the next task trains.

        A cumulative adapter is trained on from where it stopped, on top of the base model, hence none.
        """
        return () if self.merge.update_kind() == "cumulative" else updates

    def before_task(self, ctx: TaskContext) -> None:
        for piece in self._pieces():
            piece.before_task(ctx)

    def param_groups(self, ctx: TaskContext, lr: float) -> list[dict[str, Any]]:
        return self.adapter.param_groups(ctx, lr)

    def optimizer_ready(self, ctx: TaskContext) -> None:
        for piece in self._pieces():
            piece.optimizer_ready(ctx)

    def notices(self, ctx: TaskContext) -> list[str]:
        return [notice for piece in self._pieces() if (notice := piece.notice(ctx)) is not None]

    def loss(self, ctx: TaskContext, batch: dict[str, Tensor]) -> Tensor | None:
        terms = [term for piece in self._pieces() if (term := piece.loss(ctx, batch)) is not None]
        return torch.stack(terms).sum() if terms else None

    def after_backward(self, ctx: TaskContext) -> None:
        for piece in self._pieces():
            piece.after_backward(ctx)

    def after_step(self, ctx: TaskContext) -> None:
        for piece in self._pieces():
            piece.after_step(ctx)

    def train_log(self, ctx: TaskContext) -> dict[str, float | Tensor]:
        return {key: value for piece in self._pieces() for key, value in piece.train_log(ctx).items()}

    def save_state(self, ctx: TaskContext) -> dict[str, Tensor | int | float]:
        return {
            f"{number}.{key}": value
            for number, piece in enumerate(self._pieces())
            for key, value in piece.save_state(ctx).items()
        }

    def load_state(self, ctx: TaskContext, state: Mapping[str, Tensor | int | float]) -> None:
        for number, piece in enumerate(self._pieces()):
            prefix = f"{number}."
            own = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
            piece.load_state(ctx, own)

    def after_task(self, ctx: TaskContext) -> TaskUpdate:
        """Training is done: the task's update. The net is plain again, with the weights from before the task."""
        for piece in self._pieces():
            piece.end_training(ctx)
        update = self.adapter.extract(ctx, kind=self.merge.update_kind(), scale=self.merge.scale())
        self.adapter.discard(ctx)
        return update
