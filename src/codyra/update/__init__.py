"""What a task leaves behind (task_update.py), its files (storage.py), weights made from it (merge.py), and all of
it at once for those who train with a Trainer (finish.py)."""

from codyra.update.finish import finish_task
from codyra.update.merge import (
    Architecture,
    architecture,
    compose,
    consolidate,
    distance,
    rounding_loss,
    unwrap,
    write_weights,
)
from codyra.update.storage import Kind, save_adapter
from codyra.update.task_update import TaskUpdate

__all__ = [
    "Architecture",
    "Kind",
    "TaskUpdate",
    "architecture",
    "compose",
    "consolidate",
    "distance",
    "finish_task",
    "rounding_loss",
    "save_adapter",
    "unwrap",
    "write_weights",
]
