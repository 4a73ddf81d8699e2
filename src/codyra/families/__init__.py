"""How a kind of model is loaded, batched, trained on a batch and scored."""

from codyra.families.dual_encoder import DualEncoder, TaskObjective
from codyra.families.family import ModelSpec, TaskScore
from codyra.families.gather import gather_features, share_of_batch
from codyra.families.loading import load_family

__all__ = [
    "DualEncoder",
    "ModelSpec",
    "TaskObjective",
    "TaskScore",
    "gather_features",
    "load_family",
    "share_of_batch",
]
