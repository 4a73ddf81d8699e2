"""What a stream may say depends on how the model answers: with a class name, or with a text of its own."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from codyra.errors import UserError
from codyra.streams.benchmarks import BENCHMARKS, AnswerBenchmark
from codyra.streams.spec import StreamSpec

Kind = Literal["classes", "answers"]
"""What the tasks of a stream ask for: the class of an image or text, or the answer to a prompt."""

_OF_TASKS: dict[Kind, tuple[str, ...]] = {
    "classes": ("ensemble", "underscores", "classes", "naming"),
    "answers": ("metric", "choices", "max_new_tokens", "frame"),
}
_OF_STREAMS: dict[Kind, tuple[str, ...]] = {
    "classes": ("label_space", "ties"),
    "answers": (
        *("truncation", "generation", "accuracy", "max_prompt_tokens", "max_answer_tokens"),
        *("chat_template", "score"),
    ),
}
_ROLES: dict[Kind, tuple[str, ...]] = {
    "classes": ("text", "image", "label"),
    "answers": ("prompt", "answer", "messages"),
}
_MODEL: dict[Kind, str] = {
    "classes": "a model that compares with class names",
    "answers": "a language model that answers prompts",
}


def check_kind(spec: StreamSpec, kind: Kind) -> None:
    """Refuse what only models of the other kind understand.

    Raises:
        UserError: a key, a column or a source has no meaning for this kind; the message names it.
    """
    other: Kind = "answers" if kind == "classes" else "classes"
    for task in spec.chosen():
        source = task.data.partition(":")[0]
        answers = isinstance(BENCHMARKS.get(source), AnswerBenchmark)
        if answers != (kind == "answers") and (source in BENCHMARKS or source == "imagefolder"):
            raise UserError(
                f"task '{task.name}': {source}: is for {_MODEL[other]}, this is {_MODEL[kind]}; choose another model"
            )
    if key := _first_set(spec, _OF_STREAMS[other]):
        raise UserError(f"stream.{key}: has no meaning for {_MODEL[kind]}; remove it")
    for task in spec.chosen():
        key = _first_set(task, _OF_TASKS[other])
        role = next((role for role in task.columns if role in _ROLES[other]), None)
        if key is not None or role is not None:
            what = key or f"columns: {role}"
            raise UserError(f"task '{task.name}': {what}: has no meaning for {_MODEL[kind]}; remove it")


def _first_set(section: BaseModel, keys: Sequence[str]) -> str | None:
    """The first of these keys that is not as it is when nobody names it."""
    fields = type(section).model_fields
    return next((key for key in keys if getattr(section, key) != fields[key].default), None)
