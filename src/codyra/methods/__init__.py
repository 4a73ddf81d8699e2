"""Continual-learning methods as combinations of small pieces; one YAML file per named method."""

from codyra.methods.base import Method, TaskContext
from codyra.methods.registry import MethodOptions, build_method, method_names, option_names, parse_options

__all__ = [
    "Method",
    "MethodOptions",
    "TaskContext",
    "build_method",
    "method_names",
    "option_names",
    "parse_options",
]
