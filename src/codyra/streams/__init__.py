"""Streams: where tasks come from. Ordered tasks with their examples, class names and prompts."""

from codyra.streams.images import ImageInput
from codyra.streams.protocol import describe_benchmark
from codyra.streams.spec import ClassName, Role, StreamSpec, TaskSpec
from codyra.streams.stream import Split, Task, build_stream, check_images, shared_prompts

__all__ = [
    "ClassName",
    "ImageInput",
    "Role",
    "Split",
    "StreamSpec",
    "Task",
    "TaskSpec",
    "build_stream",
    "check_images",
    "describe_benchmark",
    "shared_prompts",
]
