"""codyra: keep a pre-trained model learning, task after task. Public names load on first use (PEFT takes seconds)."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codyra import metrics
    from codyra.engine.run import run
    from codyra.tuner import CodyraCallback, CodyraConfig, ProximalStep, param_groups
    from codyra.update import TaskUpdate, consolidate, finish_task

__version__ = "0.1.0"

__all__ = [
    "CodyraCallback",
    "CodyraConfig",
    "ProximalStep",
    "TaskUpdate",
    "consolidate",
    "finish_task",
    "metrics",
    "param_groups",
    "run",
]

_HOME = {
    "CodyraCallback": "codyra.tuner",
    "CodyraConfig": "codyra.tuner",
    "ProximalStep": "codyra.tuner",
    "param_groups": "codyra.tuner",
    "TaskUpdate": "codyra.update",
    "consolidate": "codyra.update",
    "finish_task": "codyra.update",
    "run": "codyra.engine.run",
}


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return importlib.import_module("codyra.metrics")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'codyra' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "peft" in sys.modules:
    # PeftModel.from_pretrained must know the adapter type, and the seconds are already spent.
    import codyra.tuner  # noqa: F401
