"""How a kind of model is loaded, batched, trained on a batch and scored."""

from codyra.families.dual_encoder import DualEncoder
from codyra.families.family import (
    AnswerScore,
    AnswerSettings,
    Batch,
    Family,
    ModelSpec,
    Objective,
    Score,
    TaskScore,
)
from codyra.families.image_text import ImageTextEncoder
from codyra.families.loading import load_family
from codyra.families.references import References

__all__ = [
    "AnswerScore",
    "AnswerSettings",
    "Batch",
    "DualEncoder",
    "Family",
    "ImageTextEncoder",
    "ModelSpec",
    "Objective",
    "References",
    "Score",
    "TaskScore",
    "load_family",
]
