"""Gradient-edit slot, A-GEM: no gradient that points against that of earlier tasks (arXiv 1812.00420).

g <- g - (g.r / |r|^2) r where g.r < 0, else g as it is; g and r are the gradients by all trained parameters, as one
vector. r is the gradient of the training loss on earlier tasks, of which one of two things is kept:

- samples: positions of some training examples of every earlier task (int64; the examples are read again from the
  stream and their bytes are counted). At every step r is taken anew, at the present parameters, on a batch of them. A
  task has a label space of its own, so its examples of the batch are a part with a loss of its own, whose means are
  taken over all parts; a dual encoder's text-to-image term, a sum, thus compares the examples of one task.
- last_grad: the mean over earlier tasks of the gradient that each had when it had been learnt (float32, of the shapes
  of the trained parameters). r is then stale but free, and means nothing for another adapter than it was taken of.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from pydantic import Field, model_validator
from torch import Tensor

from codyra.errors import UserError
from codyra.methods.base import Piece, merge_of
from codyra.methods.context import TaskContext, TaskData
from codyra.methods.gradients import gradients, without_dropout
from codyra.methods.memory import Kind

REFERENCE_EXAMPLES = 64


class Cone(Piece):
    """Keeps the gradient at no more than a right angle to that of earlier tasks."""

    keeps: ClassVar[Kind | None] = "samples"
    quantized: ClassVar[bool] = True

    grad_memory: Literal["samples", "last_grad"] = Field(
        "samples",
        description="what is kept of a task: examples, or its gradient at its end (carry: continue)",
    )
    memory_examples: int = Field(
        64, ge=1, description="training examples of a task, drawn, that are kept or that its gradient is of"
    )
    reference_examples: int | None = Field(
        None, ge=1, description="grad_memory samples: examples of all earlier tasks per step; 64 unless given"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_memory(cls, options: dict[str, Any]) -> dict[str, Any]:
        given = {option: value for option, value in options.items() if value is not None}
        if given.get("grad_memory", "samples") == "samples":
            return {"reference_examples": REFERENCE_EXAMPLES} | given
        if "reference_examples" in given:
            raise ValueError(
                "reference_examples belongs to grad_memory: samples; remove it or change grad_memory"
            )
        return given

    def check_beside(self, pieces: Sequence[Piece]) -> None:
        if self.grad_memory == "last_grad" and merge_of(pieces).update_kind() != "cumulative":
            raise UserError(
                "method.grad_memory: last_grad needs one adapter through all tasks, because gradients of a merged one "
                "mean nothing for the next; set method.carry to continue, or grad_memory to samples"
            )

    def before_task(self, ctx: TaskContext) -> None:
        kept = ctx.memory.store("statistics", "gradient")
        ctx.state["cone"] = {
            "step": 0,
            "projected": 0.0,
            "examples": ctx.memory.kept_examples(),
            "data": {},
            "gradient": {name: kept[name].to(weight) for name, weight in ctx.trained().items() if kept},
        }

    def after_backward(self, ctx: TaskContext) -> None:
        cone = ctx.state["cone"]
        reference = cone["gradient"]
        if cone["examples"]:
            reference = self._reference(ctx)
            cone["step"] += 1
        if reference:
            cone["projected"] = float(project(_gradient(ctx), list(reference.values())))

    def _reference(self, ctx: TaskContext) -> dict[str, Tensor]:
        """Gradient on a batch of what is kept of all earlier tasks."""
        cone = ctx.state["cone"]
        assert self.reference_examples is not None
        count = min(self.reference_examples, len(cone["examples"]))
        drawn = sorted(ctx.rng("reference", cone["step"]).sample(cone["examples"], count))
        parts = []
        for task, group in groupby(drawn, key=lambda example: example[0]):
            if task not in cone["data"]:
                cone["data"][task] = ctx.data_of(task)
            parts.append((cone["data"][task], [position for _, position in group]))
        return mean_gradient(ctx, parts)

    def train_log(self, ctx: TaskContext) -> dict[str, float | Tensor]:
        return {"projected": ctx.state["cone"]["projected"]}

    def save_state(self, ctx: TaskContext) -> dict[str, Tensor | int | float]:
        return {"step": ctx.state["cone"]["step"]}

    def load_state(self, ctx: TaskContext, state: Mapping[str, Tensor | int | float]) -> None:
        ctx.state["cone"]["step"] = state["step"]

    def kept_bytes(self, ctx: TaskContext, task_index: int) -> int:
        if self.grad_memory == "samples":  # positions, which take next to nothing
            return 0
        return 4 * ctx.num_trained()

    def end_training(self, ctx: TaskContext) -> None:
        count = min(self.memory_examples, len(ctx.data))
        positions = sorted(ctx.rng("memory").sample(range(len(ctx.data)), count))
        if self.grad_memory == "samples":
            sizes = [ctx.data.example_bytes([position]) for position in positions]
            ctx.memory.keep_examples(ctx.task_index, positions, sizes)
            return
        kept, earlier = ctx.memory.store("statistics", "gradient"), ctx.task_index
        for name, own in mean_gradient(ctx, [(ctx.data, positions)]).items():
            total = kept[name] * earlier if earlier else 0.0
            kept[name] = (total + own.to("cpu", torch.float32)) / (earlier + 1)


def project(gradient: Sequence[Tensor], reference: Sequence[Tensor]) -> bool:
    """g <- g - (g.r / |r|^2) r in place if g.r < 0; was it? A gradient that is not finite is left alone.

    Args:
        gradient, reference: the parts of two vectors, of the same shapes.
    """
    product = _dot(zip(gradient, reference, strict=True))
    if not product < 0:
        return False
    factor = product / _dot((part, part) for part in reference)
    for part, other in zip(gradient, reference, strict=True):
        part.sub_(other, alpha=factor)
    return True


def mean_gradient(ctx: TaskContext, parts: Sequence[tuple[TaskData, Sequence[int]]]) -> dict[str, Tensor]:
    """Gradient of the training loss by the trained parameters, at most `ctx.batch_size` examples at a time.

    Args:
        parts: data and positions of examples in it; what the loss is a mean over is counted over all of them.
    """
    total = {name: torch.zeros_like(weight) for name, weight in ctx.trained().items()}
    num_terms = sum(data.num_terms(positions) for data, positions in parts)
    with without_dropout(ctx.net):
        for data, positions in parts:
            for start in range(0, len(positions), ctx.batch_size):
                together = positions[start : start + ctx.batch_size]
                (batch,) = data.plain_batches(together, len(together))
                for name, part in gradients(ctx, data.loss(batch, num_terms=num_terms)["loss"]).items():
                    total[name].add_(part)
    if dist.is_initialized():
        # The step's own gradient, an average, is the same on all processes to the last bit. What each takes alone need
        # not be, and the sign of a small product would then part the copies of the model for good.
        for part in total.values():
            dist.broadcast(part, 0)
    return total


def _gradient(ctx: TaskContext) -> list[Tensor]:
    """What the loss of this step has left in the parameters; zeros where it does not depend on one."""
    parts = []
    for weight in ctx.trained().values():
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        parts.append(weight.grad)
    return parts


def _dot(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """In float64: the sign of a small product decides."""
    return float(torch.stack([(one.double() * other.double()).sum() for one, other in pairs]).sum())
