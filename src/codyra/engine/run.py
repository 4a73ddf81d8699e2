"""`run`: start, continue or show a run; `Run`: a run folder, read."""

import os
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import nn

from codyra.engine import results
from codyra.engine.config import RunConfig, load_config
from codyra.engine.folder import RunFolder
from codyra.engine.folder_reader import read_run
from codyra.engine.lock import only_writer
from codyra.engine.loop import Loop
from codyra.engine.manifest import benchmark_entry
from codyra.engine.models import load_base, read_head, recompose, select_tasks
from codyra.engine.plan import Estimate, Plan, check_disk, estimate, make_accelerator, make_plan
from codyra.engine.progress import Narrator, count, duration, size
from codyra.update import Head, TaskUpdate


class Run:
    """A run folder, read: what was measured and what each task left behind."""

    def __init__(self, folder: Path) -> None:
        self._folder = RunFolder(folder)
        self._view = read_run(folder)

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return self._folder.path

    @property
    def task_names(self) -> list[str]:
        """Tasks in the order they are learnt."""
        return list(self._view.accuracy.tasks)

    @property
    def metrics(self) -> dict[str, Any]:
        """metrics.json; empty while the run is unfinished."""
        return dict(self._folder.read_json("metrics.json"))

    @property
    def accuracy(self) -> list[results.Cells]:
        """R[i][j], percent: score of task j after task i, as `codyra.metrics` takes it (no zero-shot row)."""
        return [list(row) for row in self._view.accuracy.rows]

    @property
    def zero_shot(self) -> results.Cells:
        """Score of every task before the first was learnt, percent."""
        return list(self._view.accuracy.zero_shot or ())

    @property
    def updates(self) -> list[TaskUpdate]:
        """One per finished task, loaded from disk at every call."""
        names = self.task_names
        return [
            self._folder.read_update(index, names[index])
            for index in range(self._folder.finished_tasks(names))
        ]

    def model(self, after: int | None = None) -> nn.Module:
        """The plain transformers network after the first `after` tasks (all finished ones by default; 0 = base).

        What a method put beside the network is `head`.

        Raises:
            UserError: fewer tasks are finished, or the base model has other weights than when the run began.
        """
        numbers = select_tasks(self._folder, self.task_names, after)
        family = load_base(self._view)
        recompose(family, self._folder, self.task_names, numbers)
        return family.net

    def head(self, after: int | None = None) -> Head | None:
        """The classifier beside that network, of its unit-length features; None where the method has none.

        Raises:
            UserError: fewer tasks are finished, or the file is damaged.
        """
        names = self.task_names
        return read_head(self._folder, names, select_tasks(self._folder, names, after))


def default_out(config: RunConfig) -> Path:
    """runs/<config name>-<n>, n the first number that is not taken; of several processes the first one decides."""
    number = 1
    while (Path("runs") / f"{config.name}-{number}").exists():
        number += 1
    make_accelerator(config.train)  # processes find each other before any of them takes the folder
    (number,) = broadcast_object_list([number])
    return Path("runs") / f"{config.name}-{number}"


def is_first_process() -> bool:
    """The one that writes and speaks, known before the processes have found each other."""
    return int(os.environ.get("RANK", "0")) == 0


def run(
    config: str | Path | Mapping[str, Any] | RunConfig,
    out: str | Path | None = None,
    *,
    overrides: Iterable[str] = (),
    narrator: Narrator | None = None,
) -> Run:
    """Learn a stream of tasks, or continue where an unfinished run in `out` stopped, or show a finished one.

    Args:
        config: YAML file, preset name, mapping, or RunConfig.
        out: the run folder; runs/<config name>-<n> by default.
        overrides: `a.b=c` strings, as --set takes them.
        narrator: who tells what is going on; prints by default.

    Raises:
        UserError: anything the caller must change; what was learnt is kept.
        GuardRefused: the guard of the config did not accept an update.
    """
    resolved = load_config(config, overrides)
    folder = RunFolder(Path(out) if out is not None else default_out(resolved))
    narrator = narrator or Narrator()
    folder.check_config(resolved)
    if folder.is_finished():
        if is_first_process():
            folder.tidy()
            narrator.say(f"{folder.path}: this run is finished")
        return Run(folder.path)
    main = make_accelerator(resolved.train).is_main_process
    with only_writer(folder.path) if main else nullcontext() as gone:
        if gone:
            narrator.say(f"{folder.path}: taking over from {gone}, which is gone")
        folder.check_config(resolved)  # again, now that nobody else can change it
        learn(resolved, folder, narrator if main else Narrator(quiet=True))
    return Run(folder.path)


def learn(config: RunConfig, folder: RunFolder, narrator: Narrator) -> None:
    """Bring a run folder whose lock is held to its end."""
    plan = make_plan(config, _stored_shots(folder, config), narrator)
    done = folder.finished_tasks(plan.task_names)
    say_estimate(plan, folder, estimate(plan, len(plan.tasks) - done), narrator)
    Loop(plan, folder, narrator).go()


def dry_run(config: RunConfig, out: Path | None, narrator: Narrator) -> None:
    """Every check of `run` and its estimate; nothing is written, save to the machine's cache of test images."""
    folder = RunFolder(out if out is not None else default_out(config))
    folder.check_config(config)
    plan = make_plan(config, _stored_shots(folder, config), narrator)
    done = folder.finished_tasks(plan.task_names)
    say_estimate(plan, folder, estimate(plan, len(plan.tasks) - done), narrator)
    narrator.say("dry run: every check passed, nothing was written to a run folder")


def say_estimate(plan: Plan, folder: RunFolder, cost: Estimate, narrator: Narrator) -> None:
    """Tell what is about to happen and refuse what the disk cannot hold."""
    check_disk(folder.path, cost.disk_bytes)
    steps = sorted({plan.num_steps(index) for index in range(len(plan.tasks))})
    budget = f"{steps[0]} steps" if len(steps) == 1 else f"{steps[0]}-{steps[-1]} steps"
    narrator.say(
        f"{plan.method.name} on {plan.config.model.name}: {count(len(plan.tasks), 'task')} x {budget}, batch "
        f"{plan.config.train.batch_size}, on {plan.accelerator.device}; about {duration(cost.seconds)}, "
        f"{size(cost.memory_bytes)} of memory, {size(cost.disk_bytes)} of disk -> {folder.path}"
    )
    benchmark = benchmark_entry(plan)
    if benchmark is not None and benchmark["marks"]:
        narrator.say(f"not {benchmark['title']} as published: {'; '.join(benchmark['marks'])}")


def _stored_shots(folder: RunFolder, config: RunConfig) -> dict[str, dict[str, Any]]:
    """Few-shot choices of an earlier attempt at this run; they win over the generator."""
    names = [task.name for task in config.stream.chosen()]
    stored = {
        name: folder.read_json(folder.task_folder(index, name) / "shots.json")
        for index, name in enumerate(names)
    }
    return {name: shots for name, shots in stored.items() if shots}
