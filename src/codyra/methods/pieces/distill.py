"""Penalty: distillation from the model as the task found it, on the task's own batches (LwF, arXiv 1606.09282).

    distill_weight * sum over comparisons of T^2 * mean over rows of CE(softmax(teacher / T), softmax(student / T))

with the temperature T; but for a constant T^2 times the Kullback-Leibler divergence. A dual encoder has two comparisons
(the form for CLIP in ZSCL, arXiv 2303.06628): examples among the classes of the task, and classes among the examples of
the batch. A causal language model has one: the tokens of the true answers among the vocabulary.
"""

# Shapes: N rows, C choices, D features
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from codyra.errors import UserError
from codyra.methods.base import Piece, merge_of
from codyra.methods.context import Batch, Comparisons, Encoded, Outputs, TaskContext
from codyra.methods.teacher import Teacher, teaching


class Distill(Piece):
    """Holds what the network says of a batch close to what its teacher says; the classes of the teacher are encoded
    once per task."""

    quantized: ClassVar[bool] = True
    teacher: ClassVar[Teacher] = "previous"

    distill_weight: float = Field(1.0, ge=0, description="weight of every comparison with the teacher")
    distill_temperature: float = Field(2.0, gt=0, description="what the logits of both are divided by")

    def check_beside(self, pieces: Sequence[Piece]) -> None:
        if self.teacher == "previous" and merge_of(pieces).update_kind() == "cumulative":
            raise UserError(
                "the model without its adapter is the teacher; with carry: continue that is the base model, not the "
                "one that the task found"
            )

    def collect(self, ctx: TaskContext) -> None:
        if self.distill_weight:
            with teaching(ctx, self.teacher):
                ctx.state["taught_texts"] = self.texts(ctx)

    def batch_loss(self, ctx: TaskContext, batch: Batch, outputs: Outputs) -> Tensor | None:
        if self.distill_weight == 0:
            return None
        student = self.compared(ctx, outputs)
        with teaching(ctx, self.teacher):
            taught = self.taught(ctx, batch, outputs)
        terms = [
            share * distance(own, others, self.distill_temperature)
            for (own, share), (others, _) in zip(student, taught, strict=True)
        ]
        return self.distill_weight * torch.stack(terms).sum()

    def texts(self, ctx: TaskContext) -> Tensor | None:
        """Features (C, D) that the teacher gives to what examples are compared with; None for answers."""
        return ctx.data.prompt_features()

    def compared(self, ctx: TaskContext, outputs: Outputs) -> Comparisons:
        """What the student says."""
        return outputs.comparisons

    def taught(self, ctx: TaskContext, batch: Batch, outputs: Outputs) -> Comparisons:
        """What the teacher says; the network is the teacher now."""
        # A step that is only measured comes without `collect`.
        return ctx.data.outputs(batch, ctx.state.get("taught_texts")).comparisons


def distance(student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
    """T^2 times the sum over rows of CE(softmax(teacher / T), softmax(student / T)), in at least float32."""
    wide = torch.promote_types(student_NC.dtype, torch.float32)
    target_NC = (teacher_NC.to(wide) / temperature).softmax(dim=1)
    return temperature**2 * F.cross_entropy(student_NC.to(wide) / temperature, target_NC, reduction="sum")


def drawn(ctx: TaskContext, purpose: str, count: int, per_step: int | None) -> Sequence[int]:
    """Which of `count` texts or images take part in this step; the same on every process and after a stop."""
    if per_step is None or per_step >= count:
        return range(count)
    return ctx.rng(purpose, ctx.step).sample(range(count), per_step)


def taught_features(ctx: TaskContext, texts: Encoded, positions: Sequence[int]) -> Tensor:
    """What the teacher, which the network is now, makes of these texts (C, D): encoded once per task."""
    # A step that is only measured comes without `collect`.
    known = ctx.state.get("taught_texts")
    return texts.features(positions) if known is None else known[list(positions)]
