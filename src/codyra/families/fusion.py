"""A dual encoder and a head together: which of the classes in a label space an example is of.

A class is known by its prompts, here as everywhere in a dual encoder: classes of equal prompts cannot be told apart
by zero-shot, so they share one place U, and of the head the sum of their columns, which is the regression of the class
that they are together.

Shapes: N examples, D features, U distinct prompts of a label space, K of them that are compared, C columns of the head.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from codyra.update import Head

Prompts = tuple[str, ...]


class Fusion:
    """A head in a label space.

    Args:
        head: on the device of the features.
        classes: the prompts that score each column of the head.
        places: the place in the label space of all prompts there; classes that are not among them are left out.
        scale: factor of the cosines.
    """

    def __init__(
        self, head: Head, classes: Sequence[Prompts], places: Mapping[Prompts, int], scale: Tensor | float
    ) -> None:
        self._head = head
        self._scale = scale
        self._num_places = len(places)
        device = head.fusion.device
        # One place more than there are, for the classes that are left out.
        self._places_C = torch.tensor(
            [places.get(prompts, len(places)) for prompts in classes], device=device
        )
        self._learnt_U = torch.zeros(len(places) + 1, dtype=torch.bool, device=device)
        self._learnt_U[self._places_C] = True

    def regressed(self, features_ND: Tensor) -> Tensor:
        """Scores of the head (N, U), float64; zero for what it does not know."""
        scores_NC = self._head.scores(features_ND)
        sums_NU = scores_NC.new_zeros(len(scores_NC), self._num_places + 1)
        return sums_NU.index_add_(1, self._places_C, scores_NC)[:, : self._num_places]

    def scores(self, cosines_NU: Tensor, regressed_NU: Tensor, compared_K: Tensor) -> Tensor:
        """Scores (N, K), float64, among these places alone; `Head.fused` says what they are."""
        # In float64, where a softmax makes no two cosines of float32 equal.
        zero_shot_NK = (self._scale * cosines_NU[:, compared_K].double()).softmax(dim=1)
        return self._head.fused(zero_shot_NK, regressed_NU[:, compared_K], self._learnt_U[compared_K])
