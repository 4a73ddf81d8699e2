"""What a task leaves behind (task_update.py), its files (storage.py), weights made from it (merge.py), classifiers
beside them (head.py), and all of it at once for those who train with a Trainer (finish.py)."""

from codyra.update.finish import finish_task
from codyra.update.head import HEAD_FILE, DualHead, Head, PrimalHead, expanded, gaussian_kernel, head_of
from codyra.update.merge import (
    Architecture,
    add_updates,
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
    "HEAD_FILE",
    "Architecture",
    "DualHead",
    "Head",
    "Kind",
    "PrimalHead",
    "TaskUpdate",
    "add_updates",
    "architecture",
    "compose",
    "consolidate",
    "distance",
    "expanded",
    "finish_task",
    "gaussian_kernel",
    "head_of",
    "rounding_loss",
    "save_adapter",
    "unwrap",
    "write_weights",
]
