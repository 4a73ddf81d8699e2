"""Merge slot, add: W <- W + merge_scale * dW after every task."""

from pydantic import Field

from codyra.methods.base import Merge


class Add(Merge):
    """The update is added to everything learnt before."""

    merge_scale: float = Field(1.0, ge=0, description="factor on the update when it is merged")

    def scale(self) -> float:
        return self.merge_scale
