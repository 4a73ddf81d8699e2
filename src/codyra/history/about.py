"""codyra.json: what a checkout knows beside its weights, so that it can be used without the run."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from codyra import files
from codyra.engine.folder_reader import AnswerSpace
from codyra.errors import UserError
from codyra.reading import checked, damaged, read_json

FILE = "codyra.json"
FORMAT = 1


@dataclass(frozen=True)
class Base:
    """The pre-trained model: its name without any path, and the SHA-256 of its parameters."""

    name: str
    revision: str | None
    sha256: str
    dtype: Literal["float32", "bfloat16", "float16", "float64"]


@dataclass(frozen=True)
class CheckoutTask:
    """One task of the run: its classes in label order, the prompt of each and the template they come from.

    `learnt` is True when the weights of the checkout have learnt it. `scored_prompts` holds for each class the
    prompts that score together; () when those of `prompts` score alone. A task of answers has no classes.
    """

    name: str
    prompt: str
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    learnt: bool
    scored_prompts: tuple[tuple[str, ...], ...] = ()

    @property
    def of_each_class(self) -> tuple[tuple[str, ...], ...]:
        """The prompts that score each class."""
        return self.scored_prompts or tuple((prompt,) for prompt in self.prompts)


@dataclass(frozen=True)
class About:
    """The content of codyra.json.

    `answers` says how prompts are answered, None for a model of classes.
    `merged` are the numbers, from 1, of the tasks whose updates were added to the base model; `scored_in` is the
    label space of the run's scores; `codyra` is the version that made the checkout. With `head` there is a classifier
    in HEAD_FILE, whose columns are the classes of the learnt tasks.
    """

    format: int
    codyra: str
    run: str
    method: str
    base: Base
    merged: tuple[int, ...]
    scored_in: Literal["all", "task"]
    tasks: tuple[CheckoutTask, ...]
    answers: AnswerSpace | None = None
    head: bool = False

    @property
    def learnt_classes(self) -> list[tuple[str, ...]]:
        """The prompts that score each class of the learnt tasks, in their order."""
        return [of_class for task in self.tasks if task.learnt for of_class in task.of_each_class]


def write_about(folder: Path, about: About) -> None:
    """Write codyra.json into `folder`."""
    files.write_json(folder / FILE, asdict(about))


def read_about(folder: Path) -> About:
    """Read codyra.json of a checkout.

    Raises:
        UserError: `folder` is no checkout, or the file is damaged or of another format.
    """
    file = folder / FILE
    if not file.is_file():
        raise UserError(
            f"{folder} is no checkout (no {FILE} in it); make one with `codyra checkout RUN --out DIR`"
        )
    content = read_json(file)
    if isinstance(content, dict) and content.get("format") != FORMAT:
        raise UserError(
            f"{folder} has checkout format {content.get('format')!r:.40}, this codyra reads {FORMAT}; update codyra"
        )
    about = checked(About, content, file)
    if not about.tasks:
        damaged(file, "it has no tasks")
    for task in about.tasks if about.answers is None else ():
        if not task.classes or len(task.classes) != len(task.prompts):
            damaged(file, f"task {task.name} has {len(task.classes)} classes and {len(task.prompts)} prompts")
        if [*map(bool, task.of_each_class)] != [True] * len(task.classes):
            damaged(file, f"task {task.name} has not one or more scored prompts for each class")
    return about
