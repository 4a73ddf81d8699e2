"""Adapter slot, nothing trainable: the pre-trained model as it is."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from codyra.methods.base import Adapter
from codyra.methods.context import TaskContext
from codyra.update import TaskUpdate


class Nothing(Adapter):
    """Trains nothing and leaves nothing behind."""

    trains: ClassVar[bool] = False
    sharded: ClassVar[bool] = True
    quantized: ClassVar[bool] = True

    def touched(self, target_modules: Sequence[str], full_parameters: Sequence[str]) -> list[str]:
        return []

    def param_groups(self, ctx: TaskContext, lr: float) -> list[dict[str, Any]]:
        return []

    def extract(self, ctx: TaskContext, kind: Literal["low_rank", "cumulative"]) -> TaskUpdate:
        return TaskUpdate.none()
