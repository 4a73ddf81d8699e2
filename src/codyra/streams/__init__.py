"""Streams: where tasks come from. Ordered tasks with their examples, and the class names or answers they ask for."""

from codyra.streams.answers import Prompt
from codyra.streams.images import ImageInput
from codyra.streams.instructions import AnswerSplit, InstructionTask
from codyra.streams.kinds import Kind
from codyra.streams.protocol import describe_benchmark
from codyra.streams.records import Role
from codyra.streams.reference import ReferenceData, read_reference
from codyra.streams.spec import ClassName, StreamSpec, TaskSpec
from codyra.streams.stream import Split, Task, build_stream, check_images, shared_prompts

__all__ = [
    "AnswerSplit",
    "ClassName",
    "ImageInput",
    "InstructionTask",
    "Kind",
    "Prompt",
    "ReferenceData",
    "Role",
    "Split",
    "StreamSpec",
    "Task",
    "TaskSpec",
    "build_stream",
    "check_images",
    "describe_benchmark",
    "read_reference",
    "shared_prompts",
]
