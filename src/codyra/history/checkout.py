"""A checkout: a model of a run as a plain transformers directory, with its card and codyra.json."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import codyra
from codyra import files
from codyra.engine.config import parse_config
from codyra.engine.folder import RunFolder
from codyra.engine.folder_reader import RunView, read_run
from codyra.engine.models import load_base, read_head, recompose, select_tasks
from codyra.errors import UserError
from codyra.history.about import FORMAT, About, Base, CheckoutTask, write_about
from codyra.history.card import model_card
from codyra.history.directory import whole_directory
from codyra.history.names import base_name
from codyra.history.selection import Selection
from codyra.update import HEAD_FILE


def checkout(run: Path, out: Path, after: int | None = None, tasks: Sequence[int] | None = None) -> Selection:
    """Write a model of `run` to the new directory `out`, with the head beside it where the run has one.

    Args:
        after: with the first `after` tasks learnt; 0 is the base model; default all that are learnt.
        tasks: instead, numbers from 1 of the tasks whose updates are added to the base model.

    Raises:
        UserError: a task is not learnt, the base model is not the one of the run, a file of the run is missing
            or damaged, or `out` exists or cannot be written.
    """
    view, folder = read_run(run), RunFolder(run)
    names = view.accuracy.tasks
    selection = Selection.of(view, select_tasks(folder, names, after, tasks))
    about = _about(run, view, selection)
    with whole_directory(out) as directory:
        family = load_base(view)
        recompose(family, folder, names, selection.merged)
        head = read_head(folder, names, selection.merged)
        family.save(directory)
        if head is not None:
            files.write_tensors(directory / HEAD_FILE, head.to_tensors(), {"format": "pt"})
        write_about(directory, about)
        files.write_text(directory / "README.md", model_card(run, view, family, selection, about, head))
    return selection


def _about(run: Path, view: RunView, selection: Selection) -> About:
    config, base = parse_config(view.config, str(run / "config.yaml")), view.manifest.base
    return About(
        format=FORMAT,
        codyra=codyra.__version__,
        run=view.name,
        method=view.manifest.method.name,
        base=Base(base_name(view), base.revision, str(base.sha256), config.model.dtype),
        merged=selection.merged,
        scored_in=view.labels.scored_in if view.labels is not None else "task",
        tasks=tuple(_tasks(run, view, selection)),
        answers=view.answers,
        head=selection.head,
    )


def _tasks(run: Path, view: RunView, selection: Selection) -> Iterator[CheckoutTask]:
    if view.answers is not None:
        for number, rules in enumerate(view.answers.tasks, start=1):
            yield CheckoutTask(rules.name, rules.prompt, (), (), number in selection.contained)
        return
    if view.labels is None:
        raise UserError(
            f"{run / 'labels.json'} is missing, so its classes are not known; restore it from a copy"
        )
    for number, task in enumerate(view.labels.tasks, start=1):
        learnt = number in selection.contained
        yield CheckoutTask(task.name, task.prompt, task.classes, task.prompts, learnt, task.scored_prompts)
