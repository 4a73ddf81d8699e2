"""Heads: ridge regressions on the features of an untouched encoder, whose tensors are an update of kind "head".

A head gives every class that was learnt a score of its own; the encoder's prompts know all other classes too. How the
two decide together is the head's `fused`. What fits a head is in methods/pieces/ridge_*.py.

Shapes: N examples, D features, M random features, S stored examples, C classes learnt so far in the order of the
stream, K classes that an example is compared with. Scores are float64.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from codyra.errors import UserError

HEAD_FILE = "head.safetensors"
"""In a model's folder, the tensors of the head beside it; no other program reads it."""


@dataclass(frozen=True, eq=False)
class Head(ABC):
    """A classifier of unit-length features; its fields are the tensors that an update holds.

    Attributes:
        fusion: share of the head's scores where it decides, a scalar.
    """

    fusion: Tensor

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Columns: the classes of the tasks learnt so far, task by task."""

    @property
    @abstractmethod
    def num_features(self) -> int:
        """D."""

    @abstractmethod
    def scores(self, features_ND: Tensor) -> Tensor:
        """Regressed one-hot codes (N, C), float64; no probabilities."""

    @property
    def num_parameters(self) -> int:
        """Numbers that scoring reads, settings (scalars) left out."""
        return sum(tensor.numel() for tensor in self.to_tensors().values() if tensor.ndim)

    def to_tensors(self) -> dict[str, Tensor]:
        """The tensors of the update."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device | str) -> Self:
        """A copy on another device."""
        return type(self)(**{name: tensor.to(device) for name, tensor in self.to_tensors().items()})

    def fused(self, zero_shot_NK: Tensor, regressed_NK: Tensor, learnt_K: Tensor) -> Tensor:
        """Scores (N, K), the largest of which is the prediction.

        Where the zero-shot winner is a learnt class the candidates are the learnt ones, by
        (1 - fusion) * zero-shot + fusion * regressed; the others get -inf. All other rows are the zero-shot ones.

        Args:
            zero_shot_NK: softmax of the encoder over these classes.
            regressed_NK: scores of the head; of classes that are not learnt they are of no meaning.
            learnt_K: which classes the head knows, bool.
        """
        decides_N1 = learnt_K[zero_shot_NK.argmax(dim=1)][:, None]
        mixed_NK = (1 - self.fusion) * zero_shot_NK + self.fusion * regressed_NK
        return torch.where(decides_N1, mixed_NK.where(learnt_K, -torch.inf), zero_shot_NK)


@dataclass(frozen=True, eq=False)
class PrimalHead(Head):
    """scores = ReLU(f H) W, with H (D, M) random and W (M, C) regressed."""

    H: Tensor
    W: Tensor

    @property
    def num_classes(self) -> int:
        return self.W.shape[1]

    @property
    def num_features(self) -> int:
        return self.H.shape[0]

    def scores(self, features_ND: Tensor) -> Tensor:
        return expanded(features_ND, self.H) @ self.W


@dataclass(frozen=True, eq=False)
class DualHead(Head):
    """scores = k(f, features) coefficients, with the Gaussian kernel k; features (S, D), coefficients (S, C)."""

    gamma: Tensor
    features: Tensor
    coefficients: Tensor

    @property
    def num_classes(self) -> int:
        return self.coefficients.shape[1]

    @property
    def num_features(self) -> int:
        return self.features.shape[1]

    def scores(self, features_ND: Tensor) -> Tensor:
        return gaussian_kernel(features_ND, self.features, float(self.gamma)) @ self.coefficients


def head_of(tensors: Mapping[str, Tensor]) -> Head:
    """The head whose `to_tensors` these are.

    Raises:
        UserError: they are not those of a head, or their shapes do not fit together.
    """
    for kind in (PrimalHead, DualHead):
        if set(tensors) == {field.name for field in fields(kind)}:
            head = kind(**tensors)
            if _fits(head):
                return head
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    raise UserError(f"tensors {shapes} are no head; take its file from a copy of the run")


def _fits(head: Head) -> bool:
    scalars = [tensor for name, tensor in head.to_tensors().items() if name in ("fusion", "gamma")]
    if isinstance(head, PrimalHead):
        matrices, fit = (head.H, head.W), head.H.shape[-1:] == head.W.shape[:1]
    else:
        assert isinstance(head, DualHead)
        matrices = (head.features, head.coefficients)
        fit = head.features.shape[:1] == head.coefficients.shape[:1]
    return fit and all(tensor.ndim == 2 for tensor in matrices) and not any(one.ndim for one in scalars)


def expanded(features_ND: Tensor, H_DM: Tensor) -> Tensor:
    """ReLU(f H), float64 (N, M)."""
    return torch.relu(features_ND.double() @ H_DM.double())


def gaussian_kernel(left_ND: Tensor, right_SD: Tensor, gamma: float) -> Tensor:
    """exp(-gamma |f - g|^2), float64 (N, S)."""
    left_ND, right_SD = left_ND.double(), right_SD.double()
    squares_NS = left_ND.square().sum(1)[:, None] + right_SD.square().sum(1) - 2 * left_ND @ right_SD.T
    return torch.exp(-gamma * squares_NS.clamp(min=0))
