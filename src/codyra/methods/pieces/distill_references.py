"""Penalty: distillation from the pre-trained model on images and texts of the user's (ZSCL, arXiv 2303.06628).

    distill_weight * T^2 * (mean over images of CE(softmax(teacher / T), softmax(student / T)) + the same over texts)

of the logits of reference images among reference texts, and of the texts among the images: as `distill`, but neither
examples nor classes of the task take part. A step draws as many images as its batch has examples.
"""

# Shapes: N images and C texts of a step, D features
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from codyra.methods.base import Modality
from codyra.methods.context import Batch, ComparedData, Comparisons, Outputs, Reference, TaskContext
from codyra.methods.pieces.distill import Distill, drawn, taught_features
from codyra.methods.teacher import Teacher


class DistillReferences(Distill):
    """Keeps what the pre-trained model says of the world at large; both towers get gradients where they are trained."""

    modalities: ClassVar[frozenset[Modality]] = frozenset(("image",))
    quantized: ClassVar[bool] = False
    teacher: ClassVar[Teacher] = "pretrained"

    reference_images: str | None = Field(
        None, description="a folder of images, with or without folders in it; needed"
    )
    reference_texts: str | None = Field(None, description="a UTF-8 file with one caption per line; needed")
    reference_texts_per_step: int | None = Field(
        1000, ge=2, description="how many of the reference texts a step compares with; null: all"
    )

    def texts(self, ctx: TaskContext) -> Tensor:
        texts = _reference(ctx).texts
        return texts.features(range(len(texts)))

    def compared(self, ctx: TaskContext, outputs: Outputs) -> Comparisons:
        return self._among(ctx, outputs, _reference(ctx).texts.features(self._texts(ctx)))

    def taught(self, ctx: TaskContext, batch: Batch, outputs: Outputs) -> Comparisons:
        return self._among(ctx, outputs, taught_features(ctx, _reference(ctx).texts, self._texts(ctx)))

    def _among(self, ctx: TaskContext, outputs: Outputs, texts_CD: Tensor) -> Comparisons:
        """The reference images of this step among these texts, as the network sees the images now."""
        data: ComparedData = ctx.data
        images = _reference(ctx).images
        assert outputs.features is not None
        positions = drawn(ctx, "reference images", len(images), len(outputs.features))
        return data.compared(images.features(positions), texts_CD)

    def _texts(self, ctx: TaskContext) -> Sequence[int]:
        return drawn(ctx, "reference texts", len(_reference(ctx).texts), self.reference_texts_per_step)


def _reference(ctx: TaskContext) -> Reference:
    assert ctx.reference is not None, "a method with this piece declares needs_reference_data"
    return ctx.reference
