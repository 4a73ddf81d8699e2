"""What a family of models and its surroundings agree on: the model wanted, the tasks, the scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image
from pydantic import BaseModel, ConfigDict


class ModelSpec(BaseModel):
    """The `model:` section of a configuration."""

    model_config = ConfigDict(extra="forbid")

    name: str
    """Hugging Face hub id or local directory."""
    revision: str | None = None
    """Branch, tag or commit on the hub; of no meaning for a local directory."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    """Data type the weights are held in."""


@dataclass(frozen=True)
class TaskScore:
    """Counts of one test set: right among the classes of all tasks, and right among its own."""

    name: str
    examples: int
    correct: int
    correct_task: int


class ImageFile(Protocol):
    """An image that is decoded only when it is needed."""

    @property
    def name(self) -> str: ...

    def open(self) -> Image.Image: ...


class TaskSplit(Protocol):
    """Inputs (all texts or all images) and the class index of each."""

    @property
    def inputs(self) -> Sequence[str | ImageFile]: ...

    @property
    def labels(self) -> Sequence[int]: ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 over exactly these inputs, in order."""
        ...


class ClassificationTask(Protocol):
    """The part of a task that a dual encoder reads.

    `prompts` holds one finished sentence per class, for training; `scored_prompts` holds for each class those that
    score together.
    """

    @property
    def name(self) -> str: ...

    @property
    def modality(self) -> str: ...

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def prompts(self) -> Sequence[str]: ...

    @property
    def scored_prompts(self) -> Sequence[Sequence[str]]: ...

    @property
    def train(self) -> TaskSplit: ...

    @property
    def test(self) -> TaskSplit: ...
