"""The slots of a method and the hooks of a piece.

A method is a YAML file beside this one that names a piece per slot. A piece is a small pydantic model: its fields are
the options a user may set, its methods are hooks. State lives in the TaskContext, never in a piece, so one method
object serves the whole stream.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from codyra.methods.context import Batch, Outputs, TaskContext
from codyra.methods.memory import Kind
from codyra.update import TaskUpdate, unwrap

Modality = Literal["image", "text", "answers"]


class Piece(BaseModel):
    """One composable piece; every hook does nothing unless the piece says otherwise.

    Attributes:
        modalities: kinds of examples that the piece can do with.
        sharded: the piece works where no process holds all parameters and gradients (FSDP2, DeepSpeed).
        quantized: the piece works on linears that are held in 8 or 4 bit.
        keeps: the most telling kind of what the piece puts into the memory; None for nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    modalities: ClassVar[frozenset[Modality]] = frozenset(("image", "text", "answers"))
    sharded: ClassVar[bool] = False
    quantized: ClassVar[bool] = False
    keeps: ClassVar[Kind | None] = None

    def kept_bytes(self, ctx: TaskContext, task_index: int) -> int:
        """At most so many bytes of memory after this task, for an estimate; the adapters of some task are on.

        0 also where it depends on data that are not read yet.
        """
        return 0

    def check_beside(self, pieces: "Sequence[Piece]") -> None:
        """Look whether this piece goes together with the others of its method, as their options are set.

        Raises:
            UserError: it does not.
        """

    def before_task(self, ctx: TaskContext) -> None:
        """Network loaded, no optimizer yet, no data: this also runs where options are only checked."""

    def collect(self, ctx: TaskContext) -> None:
        """Adapters are on and `ctx.data` is there: passes over the task before it is learnt. Must be deterministic,
        because a task that was interrupted collects again. Not run before a step that is only measured.
        """

    def optimizer_ready(self, ctx: TaskContext) -> None:
        """The optimizer exists, no step has been taken."""

    def penalty(self, ctx: TaskContext) -> Tensor | None:
        """A term of the loss that depends on parameters alone (scalar), once per step; or None."""
        return None

    def batch_loss(self, ctx: TaskContext, batch: Batch, outputs: Outputs) -> Tensor | None:
        """A term of the loss that depends on a batch, or a part of one (scalar); or None."""
        return None

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
        """Last step taken, adapters still on: fill the memory; raise if something that had to happen did not."""

    def finish(self, ctx: TaskContext, update: TaskUpdate) -> TaskUpdate:
        """The update as this piece leaves it: fewer ranks, another size. Asked in the order of the slots."""
        return update


class Adapter(Piece):
    """The slot every method fills: what is trainable, and what it leaves behind."""

    trains: ClassVar[bool] = True

    def touched(self, target_modules: Sequence[str], full_parameters: Sequence[str]) -> list[str]:
        """Names of the plain network's parameters that an update of this adapter may change."""
        raise NotImplementedError

    def param_groups(self, ctx: TaskContext, lr: float) -> list[dict[str, Any]]:
        """Optimizer groups with `lr` and `weight_decay` written into each; by default one, of all that is trained."""
        return [{"params": list(ctx.trained().values()), "lr": lr, "weight_decay": 0.0}]

    def extract(self, ctx: TaskContext, kind: Literal["low_rank", "cumulative"]) -> TaskUpdate:
        """The task's update."""
        raise NotImplementedError

    def discard(self, ctx: TaskContext) -> None:
        """Make the net plain again, with the weights it had before the task."""


class LinearAdapter(Adapter):
    """An adapter that peft puts on the targeted linears, and takes off again."""

    def touched(self, target_modules: Sequence[str], full_parameters: Sequence[str]) -> list[str]:
        return [f"{module}.weight" for module in target_modules]

    def extract(self, ctx: TaskContext, kind: Literal["low_rank", "cumulative"]) -> TaskUpdate:
        return TaskUpdate.from_model(ctx.model, kind=kind)

    def discard(self, ctx: TaskContext) -> None:
        unwrap(ctx.model)


class Merge(Piece):
    """The slot that says how an update joins its predecessors."""

    sharded: ClassVar[bool] = True
    quantized: ClassVar[bool] = True

    def update_kind(self) -> Literal["low_rank", "cumulative"]:
        """`low_rank` is added to the predecessors, `cumulative` replaces them."""
        return "low_rank"


def merge_of(pieces: Sequence[Piece]) -> Merge:
    """How updates join in the method that has these pieces."""
    return next(piece for piece in pieces if isinstance(piece, Merge))


class Head(Piece):
    """The slot of a classifier beside the untouched network; its update is of kind "head"."""

    def fit(self, ctx: TaskContext) -> TaskUpdate:
        """The classifier of all tasks so far."""
        raise NotImplementedError
