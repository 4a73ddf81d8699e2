"""Texts and images that belong to no task: what methods compare two models on.

Their features follow the weights that the network has when they are asked for; nothing of them is remembered.
"""

# Shapes: K texts or images asked for, D features, H x W pixels
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codyra.families.evaluation import DecodedImages
from codyra.families.images import MemoryCache
from codyra.families.tokens import TokenTable

if TYPE_CHECKING:
    from codyra.families.dual_encoder import DualEncoder

CACHE_BYTES = 2**30
"""Pixels of reference images kept in memory; 7,100 images at 224 x 224."""


class ReferenceTexts:
    """Texts, tokenised once."""

    def __init__(self, family: "DualEncoder", tokens: TokenTable):
        self._family = family
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def features(self, positions: Sequence[int]) -> Tensor:
        """Unit-length features (K, D), at least float32, of the texts at these positions, with gradients."""
        return self._family.encode_chunks(self._family.token_chunks(self.tokens, positions))


class ReferenceImages:
    """Images, each decoded when it is first asked for; as many as fit into CACHE_BYTES are kept as pixels."""

    def __init__(self, family: "DualEncoder", images: DecodedImages, count: int):
        self._family = family
        self._images = images
        self._count = count
        self._pixels: MemoryCache[Tensor] = MemoryCache(CACHE_BYTES, lambda pixels_13HW: pixels_13HW.nbytes)

    def __len__(self) -> int:
        return self._count

    def features(self, positions: Sequence[int]) -> Tensor:
        """Unit-length features (K, D), at least float32, of the images at these positions, with gradients."""
        pixels = [self._pixels.get(position, partial(self._read, position)) for position in positions]
        return self._family.encode_examples({"pixels": torch.cat(pixels)})

    def _read(self, position: int) -> Tensor:
        return self._images.test([position])["pixels"]


@dataclass(frozen=True)
class References:
    """What a user supplied beside the tasks."""

    texts: ReferenceTexts
    images: ReferenceImages
