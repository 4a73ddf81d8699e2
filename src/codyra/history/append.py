"""`codyra append`: new tasks on top of a finished run, months later if need be."""

import copy
from pathlib import Path
from typing import Any

from codyra.engine.config import OTHERS, RunConfig, parse_config
from codyra.engine.folder import WHERE_IS_IT, RunFolder, comparable, first_difference
from codyra.engine.folder_reader import check_not_pending
from codyra.engine.lock import only_writer
from codyra.engine.progress import Narrator
from codyra.engine.run import Run, learn
from codyra.errors import UserError
from codyra.methods import read_declaration
from codyra.reading import parse_yaml, read_text


def append(run: Path, more: Path, narrator: Narrator | None = None) -> Run:
    """Learn the tasks of `more` after those of the run.

    `more` is a config of which only `stream.tasks` is needed; whatever else it says must be as in the run. The new
    classes join the label space, so every earlier state is scored anew, and in the end the folder is what one run
    over all tasks would have left; the figures until then are kept in archive/NN. Interrupted, it is continued by
    the same command.

    Raises:
        UserError: the run is unfinished, its method had to know the number of tasks, `more` says something else than
            the run, a task exists already, or base model or data changed since.
        GuardRefused: the guard of the run did not accept an update.
    """
    folder = RunFolder(run)
    folder.stored_config()
    narrator = narrator or Narrator()
    with only_writer(run):
        check_not_pending(run)
        config = _extended(folder, more)
        if config is None:
            narrator.say(f"{run}: these tasks are learnt already")
        else:
            learn(config, folder, narrator)
    return Run(run)


def _extended(folder: RunFolder, more: Path) -> RunConfig | None:
    """The config with the new tasks; None when the folder holds them all, finished."""
    stored = folder.stored_config()
    given = _read_more(more, stored)
    old, new = stored.stream.chosen(), given.stream.tasks
    if len(old) > len(new) and old[-len(new) :] == new:
        return None if folder.is_finished() else stored
    names = [task.name for task in old]
    learnt = folder.finished_tasks(names)
    if learnt < len(names):
        raise UserError(
            f"{folder.path}: {learnt} of {len(names)} tasks are learnt; finish it first: {folder.run_command}"
        )
    if read_declaration(stored.method.name).needs_number_of_tasks:
        raise UserError(
            f"{folder.path}: {stored.method.name} shares out its room among the number of tasks that it is told, which "
            f"was {len(names)}; give all tasks to one new run, or begin one with a method that needs no such number"
        )
    content = stored.model_dump(mode="json")
    if isinstance(given.train.epochs, dict):
        content["train"]["epochs"] = given.train.epochs | content["train"]["epochs"]
    content["guard"] = given.model_dump(mode="json")["guard"]  # how much it tolerates may be another now
    # What `only` left out of the stream may be learnt after all.
    added = {task.name for task in new} - set(names)
    kept = [task for task in content["stream"]["tasks"] if task["name"] not in added]
    content["stream"]["tasks"] = kept + [task.model_dump(mode="json") for task in new]
    if content["stream"]["only"] is not None:
        content["stream"]["only"] += [task.name for task in new]
    return parse_config(content, str(more))


def _read_more(more: Path, stored: RunConfig) -> RunConfig:
    """The config of the run with the tasks of `more` alone, once it is known that all else in it is as in the run."""
    if not more.is_file():
        raise UserError(f"{more}: there is no such file; give a YAML file with stream: tasks:")
    try:
        given = parse_yaml(read_text(more))
    except ValueError as error:
        raise UserError(f"{more}: is not YAML: {error}") from None
    given = given if isinstance(given, dict) else {}
    stream = given.get("stream")
    stream = stream if isinstance(stream, dict) else {}
    tasks = stream.get("tasks")
    if not isinstance(tasks, list) or not tasks:
        raise UserError(
            f"{more}: names no new tasks; write them under stream: tasks:, as in the config of a run"
        )
    if stream.get("only") is not None:
        raise UserError(
            f"{more}: stream.only: every task of this file is appended; list those alone that shall be"
        )
    method = given.get("method")
    name = method.get("name", stored.method.name) if isinstance(method, dict) else stored.method.name
    if name != stored.method.name:
        raise UserError(f"{more}: method.name is {stored.method.name} there, {name} here; leave that key out")
    for task in tasks:
        if isinstance(task, dict) and isinstance(task.get("data"), str):
            task["data"] = _settled(task["data"], more, given.get("data_dir"), stored)
    settled = {key: getattr(stored, key) for key in WHERE_IS_IT}  # of the run; the tasks' places were settled
    whole = _merged(stored.model_dump(mode="json"), {**given, **settled})
    by_task, epochs = stored.train.epochs, whole["train"]["epochs"]
    if by_name := isinstance(by_task, dict) and isinstance(epochs, dict):
        names = [task.get("name") for task in tasks if isinstance(task, dict)]
        whole["train"]["epochs"] = {
            **({OTHERS: by_task[OTHERS]} if OTHERS in by_task else {}),
            **{name: value for name, value in epochs.items() if name in names},
        }
    config = parse_config(whole, str(more))
    here, there = comparable(config), comparable(stored)
    if by_name:
        del here["train"]["epochs"], there["train"]["epochs"]  # new tasks may have their own
    for content in (here, there):
        del content["stream"]["tasks"], content["stream"]["only"]
    if difference := first_difference(there, here):
        raise UserError(
            f"{more}: {difference}; an appended task is learnt as the others were: leave that key out"
        )
    return config


def _merged(stored: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The stored config with what `given` says in its place, section by section; `only` counts for the old tasks."""
    merged = copy.deepcopy(stored)
    merged["stream"]["only"] = None
    for key, value in given.items():
        inner = merged.get(key)
        merged[key] = {**inner, **value} if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def _settled(data: str, more: Path, data_dir: Any, stored: RunConfig) -> str:
    """A place written down for `more`, as it must be written in the run's config, which may lie elsewhere."""
    if isinstance(data_dir, str):
        data = data.replace("${data_dir}", data_dir)
    kind, colon, location = data.partition(":")
    root = more.resolve().parent
    if (
        "${" in location
        or root == Path(stored.root).resolve()
        or (kind == "hf" and not (root / location).is_dir())
    ):
        return data
    return f"{kind}{colon}{root / Path(location).expanduser()}"
