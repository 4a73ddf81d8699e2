"""Continual-learning methods as combinations of small pieces; one YAML file per named method."""

from codyra.methods.context import TaskContext, TaskData
from codyra.methods.declaration import Declaration, method_names, read_declaration
from codyra.methods.memory import Memory
from codyra.methods.method import Method
from codyra.methods.registry import (
    SHARED_OPTIONS,
    MethodOptions,
    build_method,
    option_names,
    parse_options,
)

__all__ = [
    "SHARED_OPTIONS",
    "Declaration",
    "Memory",
    "Method",
    "MethodOptions",
    "TaskContext",
    "TaskData",
    "build_method",
    "method_names",
    "option_names",
    "parse_options",
    "read_declaration",
]
