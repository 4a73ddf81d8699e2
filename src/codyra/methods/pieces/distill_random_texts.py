"""Penalty: distillation from the model as the task found it, on random texts (LwF-VR, in ZSCL, arXiv 2303.06628).

    distill_weight * T^2 * (mean over examples of CE(softmax(teacher / T), softmax(student / T)) + the same over texts)

of the logits of the batch's examples among texts of random vocabulary tokens, and of these texts among the examples: as
`distill`, with such texts in the place of classes. They are drawn once per task.
"""

# Shapes: C texts of a step, D features
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from codyra.methods.base import Modality
from codyra.methods.context import Batch, ComparedData, Comparisons, Encoded, Outputs, TaskContext
from codyra.methods.pieces.distill import Distill, drawn, taught_features

TOKENS = 10
"""Of a random text, without start and end."""


class DistillRandomTexts(Distill):
    """Keeps what the network says of texts that no task has; both towers get gradients where they are trained."""

    modalities: ClassVar[frozenset[Modality]] = frozenset(("image",))
    quantized: ClassVar[bool] = False

    random_texts: int = Field(1000, ge=2, description="random texts drawn per task")
    random_texts_per_step: int | None = Field(
        None, ge=2, description="how many of the random texts a step compares with; null: all"
    )

    def texts(self, ctx: TaskContext) -> Tensor:
        return self._random(ctx).features(range(self.random_texts))

    def compared(self, ctx: TaskContext, outputs: Outputs) -> Comparisons:
        data: ComparedData = ctx.data
        assert outputs.features is not None
        return data.compared(outputs.features, self._random(ctx).features(self._drawn(ctx)))

    def taught(self, ctx: TaskContext, batch: Batch, outputs: Outputs) -> Comparisons:
        texts_CD = taught_features(ctx, self._random(ctx), self._drawn(ctx))
        return ctx.data.outputs(batch, texts_CD).comparisons

    def _random(self, ctx: TaskContext) -> Encoded:
        if "random_texts" not in ctx.state:
            data: ComparedData = ctx.data
            rng = ctx.rng("random texts")
            ctx.state["random_texts"] = data.random_texts(self.random_texts, TOKENS, rng)
        texts: Encoded = ctx.state["random_texts"]
        return texts

    def _drawn(self, ctx: TaskContext) -> Sequence[int]:
        return drawn(ctx, "random texts of a step", self.random_texts, self.random_texts_per_step)
