"""Merge slot, add: W <- W + merge_scale * dW after every task."""

from pydantic import Field

from codyra.methods.base import Merge
from codyra.methods.context import TaskContext
from codyra.update import TaskUpdate


class Add(Merge):
    """The update is added to everything learnt before."""

    merge_scale: float = Field(1.0, ge=0, description="factor on the update when it is merged")

    def finish(self, ctx: TaskContext, update: TaskUpdate) -> TaskUpdate:
        return update if self.merge_scale == 1.0 else update.scaled(self.merge_scale)
