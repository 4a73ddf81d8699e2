"""Head slot, what the two ridge regressions share: features of the training examples and the fusion with zero-shot.

Features are unit-length vectors of the training examples as they are scored, without augmentation. Fusion
(`codyra.update.Head.fused`): where the zero-shot winner is a learnt class, the best learnt class by
(1 - fusion) softmax + fusion * regressed; otherwise the zero-shot prediction stays.

Shapes: N examples of the task, D features, C classes of all tasks so far.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from codyra.methods.base import Head, Modality
from codyra.methods.context import TaskContext


class Ridge(Head):
    """Reads the task once; the encoder is never changed."""

    modalities: ClassVar[frozenset[Modality]] = frozenset(("image", "text"))

    fusion: float = Field(
        0.8,
        ge=0,
        le=1,
        description="share of the head's score, the rest is zero-shot's, where zero-shot names a learnt class",
    )

    @torch.no_grad()
    def collect(self, ctx: TaskContext) -> None:
        data, features, targets, num_classes = ctx.data, [], [], 0
        for batch in data.plain_batches(range(len(data)), ctx.batch_size):
            outputs = data.outputs(batch)
            features.append(outputs.features.float().cpu())
            targets.append(outputs.targets.cpu())
            num_classes = len(outputs.prompts)
        earlier = ctx.previous.head if ctx.previous is not None else None
        known = earlier.num_classes if earlier is not None else 0
        ctx.state["features"] = torch.cat(features)
        ctx.state["columns"] = known + torch.cat(targets)
        ctx.state["num_classes"] = known + num_classes


def one_hot(columns_N: Tensor, num_classes: int) -> Tensor:
    """Targets (N, C) of the regression, float64."""
    return torch.nn.functional.one_hot(columns_N, num_classes).double()
