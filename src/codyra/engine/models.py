"""Models of a run, re-composed: its base model with the updates of learnt tasks in it.

The base model and the ordered updates are the source of truth of a run; every other model is computed from them
here, exactly as it was computed when it was scored. Tasks are numbered from 1, as people count them.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from torch import Tensor

from codyra.digest import tensors_sha256
from codyra.engine.config import model_path, parse_config
from codyra.engine.folder import RunFolder
from codyra.engine.folder_reader import RunView, check_not_pending
from codyra.engine.manifest import changed_setup
from codyra.engine.plan import answer_settings
from codyra.errors import UserError
from codyra.families import Family, load_family
from codyra.update import Head, TaskUpdate, compose


def load_base(view: RunView) -> Family:
    """The base model of a run, on the CPU, in `model.dtype` also when the run held it in 8 or 4 bit.

    Raises:
        UserError: the model cannot be loaded, or has other weights than when the run began.
    """
    config = parse_config(view.config, f"config.yaml of {view.name}")
    spec = model_path(config).model_copy(update={"quantize": None})
    family = load_family(spec, answer_settings(config))
    found, expected = family.fingerprint(), view.manifest.base.sha256
    if found != expected:
        raise UserError(
            f"model '{config.model.name}' has other weights than when run {view.name} began (SHA-256 "
            f"{str(expected)[:12]} then, {found[:12]} now); put the former weights back in its place"
        )
    if changed := changed_setup(view.manifest.base.files, family.setup):
        raise UserError(
            f"{changed} of model '{config.model.name}' is not what it was when run {view.name} began; put the former "
            "file back in its place"
        )
    return family


def select_tasks(
    folder: RunFolder, names: Sequence[str], after: int | None = None, tasks: Sequence[int] | None = None
) -> list[int]:
    """Numbers of the tasks that a model is made of: the first `after` ones, or `tasks`, or all that are learnt.

    Args:
        names: of all tasks of the run, learnt or not.

    Raises:
        UserError: both are given, a task is not learnt, `tasks` do not stand in their order, or an interrupted
            revert left the folder half way.
    """
    check_not_pending(folder.path)
    learnt = folder.finished_tasks(names)
    if after is not None and tasks is not None:
        raise UserError("give the number of tasks (after) or the tasks themselves (tasks), not both")
    if tasks is None:
        count = learnt if after is None else after
        if count > learnt:
            raise _not_learnt(folder, names, learnt, learnt + 1)
        if count < 0:
            raise UserError(f"after: {count} is no number of tasks; 0 is the base model")
        tasks = range(1, count + 1)
    if any(earlier >= later for earlier, later in pairwise(tasks)):
        raise UserError(
            f"tasks {','.join(map(str, tasks))}: give each task once and in the order of the stream"
        )
    for number in tasks:
        if not 1 <= number <= learnt:
            raise _not_learnt(folder, names, learnt, number)
    return list(tasks)


def _not_learnt(folder: RunFolder, names: Sequence[str], learnt: int, number: int) -> UserError:
    there = ", ".join(f"{n} ({name})" for n, name in enumerate(names[:learnt], start=1)) or "none"
    return UserError(f"{folder.path}: task {number} is not learnt; learnt so far: {there}")


def read_updates(folder: RunFolder, names: Sequence[str], numbers: Iterable[int]) -> Iterable[TaskUpdate]:
    """What these tasks left behind, read one at a time.

    Raises:
        UserError: a file is missing or damaged, is not what the run wrote, or lies outside the run folder.
    """
    manifest = folder.read_json("manifest.json")
    for number in numbers:
        folder.check_files(manifest, [f"{folder.task_folder(number - 1, names[number - 1])}/"])
        yield folder.read_update(number - 1, names[number - 1])


def read_head(folder: RunFolder, names: Sequence[str], numbers: Sequence[int]) -> Head | None:
    """The head beside the model that has learnt these tasks: the one of the last of them, which knows all before.

    Raises:
        UserError: as `read_updates`.
    """
    return next((update.head for update in read_updates(folder, names, numbers[-1:])), None)


def state_sha256(weights: Mapping[str, Tensor], head: Head | None) -> str:
    """Digest of all that scoring reads and a task may have changed."""
    beside = (
        {f"head/{name}": tensor for name, tensor in head.to_tensors().items()} if head is not None else {}
    )
    return tensors_sha256({**weights, **beside}.items())


def recompose(family: Family, folder: RunFolder, names: Sequence[str], numbers: Sequence[int]) -> None:
    """Put the updates of these tasks (from `select_tasks`) into a freshly loaded base model, in place.

    A head (`read_head`) is no part of the network and stays outside.

    Raises:
        UserError: an update is missing, damaged, or does not fit the model.
    """
    base = dict(family.net.named_parameters())
    weights = compose(family.net, base, read_updates(folder, names, numbers))
    family.write_weights({name: weight for name, weight in weights.items() if weight is not base[name]})
