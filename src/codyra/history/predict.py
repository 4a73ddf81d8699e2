"""Prediction with a checkout: which of the classes it knows are nearest to a picture or a text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from codyra.errors import UserError
from codyra.families import DualEncoder, ModelSpec, load_family
from codyra.history.about import About, CheckoutTask, read_about
from codyra.reading import damaged, read_tensors, within
from codyra.streams.images import ImageFile
from codyra.update import HEAD_FILE, Head, TaskUpdate


@dataclass(frozen=True)
class Guess:
    """A prompt (of an ensemble the first), its score in percent, and the (task, class) pairs it stands for.

    Scores are softmax shares. Where a head decides they are 100 times its fused scores, which sum to nothing and may be
    negative, and classes that are not learnt make no guess.
    """

    percent: float
    prompt: str
    classes: tuple[tuple[str, str], ...]


def predict(
    checkout: Path, inputs: Sequence[str], label_space: str | None = None, top: int | None = None
) -> list[list[Guess]]:
    """The nearest classes of every input, best first, by the model of `checkout`.

    Prompts, tokens and pixels are those the run was scored with, and so is the winner. Classes that share a prompt
    cannot be told apart and make one guess.

    Args:
        inputs: image files, or texts, by what the model reads.
        label_space: "all" (classes of all tasks of the run), "learnt" (of the tasks this checkout has learnt), or
            the name of a task; default what the run was scored in.
        top: guesses per input; all by default.

    Raises:
        UserError: no checkout, a damaged one, no such label space, or an input that cannot be read.
    """
    about = read_about(checkout)
    if about.answers is not None:
        raise UserError(
            f"{checkout} holds a language model, which has no classes; `codyra.history.answer` asks it"
        )
    classes = _classes(about, _tasks_of(about, label_space, checkout))
    if not any(checkout.glob("model*.safetensors")):
        raise UserError(f"{checkout} has no model.safetensors; make it anew with `codyra checkout`")
    family = load_family(ModelSpec(name=str(checkout), dtype=about.base.dtype))
    if not isinstance(family, DualEncoder):
        damaged(checkout, f"it holds a {family.model_type} model, which knows no classes")
    examples = [_image(item) if family.modality == "image" else _text(item) for item in inputs]
    if (head := _read_head(checkout, about)) is not None:
        family.use_head(head, about.learnt_classes)
    for task in about.tasks:
        family.check_prompts(task.name, task.classes, task.of_each_class)
    # All prompts, in the order in which the run embeds them: what is compared is then the same to the last bit.
    prompts = list(dict.fromkeys(of_class for task in about.tasks for of_class in task.of_each_class))
    chosen = [position for position, of_class in enumerate(prompts) if of_class in classes]
    features_ND, cosines_NU = family.compare(examples, prompts)
    cosines_NC = cosines_NU[:, chosen]
    if not cosines_NC.isfinite().all():
        damaged(checkout, "its model gives scores that are not finite")
    if head is not None and head.num_features != features_ND.shape[1]:
        damaged(
            checkout / HEAD_FILE,
            f"it reads {head.num_features} features, the model has {features_ND.shape[1]}",
        )
    fusion = family.fusion({of_class: place for place, of_class in enumerate(prompts)})
    if fusion is None:
        percent_NC, ranked_by_NC = 100 * (family.logit_scale() * cosines_NC).softmax(dim=1), cosines_NC
    else:
        regressed_NU = fusion.regressed(features_ND)
        percent_NC = ranked_by_NC = 100 * fusion.scores(cosines_NU, regressed_NU, torch.tensor(chosen))
    # A stable sort: among equals the first wins, as in scoring.
    order_NC = ranked_by_NC.argsort(dim=1, descending=True, stable=True)[:, :top]
    return [
        [
            Guess(percent, prompts[chosen[place]][0], tuple(classes[prompts[chosen[place]]]))
            for place, percent in zip(order_C.tolist(), percent_C[order_C].tolist(), strict=True)
            if percent != -math.inf
        ]
        for order_C, percent_C in zip(order_NC, percent_NC, strict=True)
    ]


def _read_head(checkout: Path, about: About) -> Head | None:
    """The head of a checkout that has one.

    Raises:
        UserError: its file is missing or damaged, or belongs to other classes.
    """
    if not about.head:
        return None
    file = within(checkout, HEAD_FILE)
    tensors = read_tensors(file)
    try:
        head = TaskUpdate("head", tensors=tensors).head
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    if head is None:
        damaged(file, "it holds no tensors")
    if head.num_classes != len(about.learnt_classes):
        damaged(
            file,
            f"it scores {head.num_classes} classes, the tasks that are learnt have {len(about.learnt_classes)}",
        )
    return head


def _tasks_of(about: About, label_space: str | None, checkout: Path) -> Sequence[CheckoutTask]:
    names = ", ".join(task.name for task in about.tasks)
    if label_space is None:
        if about.scored_in == "task" and len(about.tasks) > 1:
            raise UserError(
                f"{checkout}: this run was scored within each task; say which with --label-space TASK ({names}), or "
                "all, or learnt"
            )
        label_space = "all"
    if label_space == "all":
        return about.tasks
    if label_space == "learnt":
        learnt = [task for task in about.tasks if task.learnt]
        if not learnt:
            raise UserError(f"{checkout} has learnt no task; use --label-space all or a task ({names})")
        return learnt
    found = [task for task in about.tasks if task.name == label_space]
    if not found:
        raise UserError(f"--label-space {label_space}: no such task; give all, learnt or one of {names}")
    return found


def _classes(about: About, tasks: Sequence[CheckoutTask]) -> dict[tuple[str, ...], list[tuple[str, str]]]:
    """{prompts of a class: [(task, class), ...]}."""
    classes: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for task in tasks:
        for name, prompts in zip(task.classes, task.of_each_class, strict=True):
            classes.setdefault(prompts, []).append((task.name, name))
    return classes


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of the command line that are no text
        raise UserError(f"{text!r} is not UTF-8; convert it") from None
    return text


def _image(path: str) -> ImageFile:
    file = Path(path)
    try:
        there = file.is_file()
    except (OSError, ValueError):  # a name that no file can have, such as a long text
        there = False
    if not there:
        raise UserError(f"{path}: there is no such file; this model reads image files")
    return ImageFile(file.parent, file.name)
