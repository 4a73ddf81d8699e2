"""General ability: states of a run scored with lm-evaluation-harness, in memory, and the scores put into the run."""

import contextlib
import difflib
import hashlib
import importlib.util
import io
import json
import logging
import math
import random
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import torch
from accelerate import PartialState

from codyra.engine.derive import rewrite_report
from codyra.engine.folder import RunFolder
from codyra.engine.folder_reader import HarnessResult, HarnessScore, HarnessState, RunView, read_run
from codyra.engine.lock import only_writer
from codyra.engine.models import load_base, recompose, select_tasks
from codyra.engine.progress import Narrator, duration
from codyra.errors import UserError
from codyra.families import Family
from codyra.families.hush import hush

BATCH_SIZE = 8
_PLACES = ("metadata", "dataset_path", "dataset_name", "dataset_kwargs")
"""Entries of a task's definition that say where its examples are; the examples themselves are compared."""


@dataclass(frozen=True)
class _Wanted:
    """What is to be scored: a task, or a group with a figure of its own.

    `loaded` is what the harness's TaskManager gave, `asked` a HarnessResult without figures.
    """

    loaded: Any
    asked: HarnessResult


def score_general_ability(
    run: Path,
    tasks: Sequence[str],
    *,
    after: Sequence[int] | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    include_path: Path | None = None,
    batch_size: int = BATCH_SIZE,
    narrator: Narrator | None = None,
) -> list[HarnessResult]:
    """Score states of a run on tasks of lm-evaluation-harness; write harness.json and report.html of the run.

    A score is written down as soon as it is there. What is written down is not scored again; other settings, another
    version of the harness or a changed task make a result of their own beside it.

    Args:
        tasks: names of tasks, groups or tags of the harness.
        after: states, by the number of learnt tasks; 0 is the base model. Default 0 and all that are learnt.
        num_fewshot: solved examples in front of every question; None leaves it to the task.
        limit: score only the first so many examples of every task.
        include_path: folder with definitions of further tasks. Python code that these name is executed.
        batch_size: examples computed together; scores do not depend on it but for rounding.

    Returns:
        The results of these tasks under these settings, at every state that was ever scored.

    Raises:
        UserError: the extra is missing; the run is of no causal language model or has learnt nothing; a task is
            unknown or cannot be loaded; the base model or a file of the run changed.
    """
    narrator = narrator or Narrator()
    view, folder = read_run(run), RunFolder(run)
    states = _states(view, folder, after)
    _check_possible(view, include_path)
    with only_writer(run), _quiet():
        folder.sweep()
        view = read_run(run)  # nobody else adds to it from here on
        if view.harness:
            folder.check_files(folder.read_json("manifest.json"), ["harness.json"])
        wanted = _resolve(tasks, include_path, num_fewshot, limit)
        for numbers in states:
            view = _score_state(folder, view, numbers, wanted, batch_size, narrator)
        rewrite_report(folder)
    return [result for result in view.harness if any(_same(one.asked, result) for one in wanted)]


def state_name(view: RunView, after: int) -> str:
    """`base model`, `after task 2 (py150)`."""
    return f"after task {after} ({view.accuracy.tasks[after - 1]})" if after else "base model"


def _states(view: RunView, folder: RunFolder, after: Sequence[int] | None) -> list[list[int]]:
    """The numbers of the tasks in each state, fewest first."""
    names = view.accuracy.tasks
    if after is None:
        learnt = select_tasks(folder, names)
        if not learnt:
            raise UserError(
                f"{folder.path}: no task is learnt yet, so there is nothing to compare the base model with; finish a "
                "task first, or score the base model alone with --after 0"
            )
        return [[], learnt]
    return [select_tasks(folder, names, count) for count in sorted(set(after))]


def _check_possible(view: RunView, include_path: Path | None) -> None:
    if view.answers is None:
        raise UserError(
            f"{view.name}: its model ({view.manifest.base.model_type}) is no causal language model, which is all that "
            "lm-evaluation-harness scores here"
        )
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            'lm-evaluation-harness is not installed; install it with: pip install "codyra[harness]"'
        )
    if include_path is not None and not include_path.is_dir():
        raise UserError(
            f"--include-path {include_path}: is no folder; give the one with the YAML files of the tasks"
        )
    if PartialState().num_processes > 1:
        raise UserError("eval: runs in one process; start it without accelerate launch")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The harness logs every setting and draws bars even into files; bars stay where somebody watches."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    watched = sys.stderr.isatty()
    try:
        with hush(), contextlib.nullcontext() if watched else contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


# --- tasks of the harness ------------------------------------------------------------------------------------


def _resolve(
    names: Sequence[str], include_path: Path | None, num_fewshot: int | None, limit: int | None
) -> list[_Wanted]:
    """The tasks behind these names. A group that sums its tasks up is one; of other groups and tags, every task is."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(include_path) if include_path else None)
    harness = version("lm_eval")
    wanted: dict[str, _Wanted] = {}
    for name in dict.fromkeys(names):
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks)
            hint = f"; near: {', '.join(near)}" if near else ""
            raise UserError(
                f"lm-evaluation-harness {harness} has no task {name!r}{hint}; for tasks of your own give --include-path"
            )
        with _at_fault(name, "loaded"):
            loaded = manager.load([name])
        group, members = loaded["groups"].get(name), list(loaded["tasks"].values())
        if group is not None and group.aggregate_metric_list:
            parts = [(name, group.version, [group], members)]
        else:
            parts = [(task.task_name, task.VERSION, [task], [task]) for task in members]
        for title, its_version, source, inside in parts:
            _check_harmless(inside)
            asked = HarnessResult(
                title, str(its_version), harness, _fingerprint(inside), num_fewshot, limit, examples=0
            )
            wanted[title] = _Wanted(manager.load(source), asked)
    return list(wanted.values())


@contextlib.contextmanager
def _at_fault(name: str, done: str) -> Iterator[None]:
    """What goes wrong in the harness over a task's definition or data, in one line."""
    from jinja2 import TemplateError

    try:
        yield
    except (AssertionError, LookupError, OSError, TypeError, ValueError, TemplateError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"task {name!r} of lm-evaluation-harness cannot be {done}: {reason}; mend its definition, its files or the "
            "way to the hub"
        ) from error


def _check_harmless(tasks: Iterable[Any]) -> None:
    for task in tasks:
        if getattr(task, "UNSAFE_CODE", False):
            raise UserError(
                f"task {task.task_name!r} executes code that the model writes, which codyra does not do; leave it out"
            )


def _fingerprint(tasks: Iterable[Any]) -> str:
    """SHA-256 over definitions and test examples."""
    digest = hashlib.sha256()
    for task in tasks:
        definition = {key: value for key, value in task.dump_config().items() if key not in _PLACES}
        for part in (definition, *task.eval_docs):
            digest.update(json.dumps(part, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


# --- scores --------------------------------------------------------------------------------------------------


def _score_state(
    folder: RunFolder,
    view: RunView,
    numbers: Sequence[int],
    wanted: Sequence[_Wanted],
    batch_size: int,
    narrator: Narrator,
) -> RunView:
    """The run with all wanted figures of the state that these tasks make; its model is gone on return."""
    after = len(numbers)
    missing = [one for one in wanted if not _is_scored(one, view.harness, after)]
    if len(missing) < len(wanted):
        narrator.say(
            f"{state_name(view, after)}: {len(wanted) - len(missing)} of {len(wanted)} scored before"
        )
    if missing:
        family = load_base(view)
        recompose(family, folder, view.accuracy.tasks, numbers)
        model = _harness_model(family, batch_size)
    for one in missing:
        started = time.monotonic()
        view = _added(folder, view, _evaluate(model, one, after))
        narrator.say(f"{state_name(view, after)}: {one.asked.task} ({duration(time.monotonic() - started)})")
    return view


def _harness_model(family: Family, batch_size: int) -> Any:
    from lm_eval.models.huggingface import HFLM

    family.to(PartialState().device)
    return HFLM(pretrained=family.net, tokenizer=family.tokenizer, batch_size=batch_size)


def _evaluate(model: Any, wanted: _Wanted, after: int) -> HarnessResult:
    """`wanted.asked` with the figures of this one state.

    As `lm_eval.simple_evaluate` scores, which would also ask git, pip and compilers about the machine, every time.
    """
    import lm_eval
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    asked = wanted.asked
    random.seed(DEFAULT_RANDOM_SEED)
    numpy.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    for task in wanted.loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        if own is None or (own != 0 and asked.num_fewshot is not None):  # 0 means: never
            task.set_config(key="num_fewshot", value=asked.num_fewshot or 0)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    with _at_fault(asked.task, "scored"):
        found = lm_eval.evaluate(model, wanted.loaded, limit=asked.limit, log_samples=False)
    figures = found["results"][asked.task]
    scores, better = {}, {}
    for key, value in figures.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        title = metric if kind == "none" else f"{metric} ({kind})"
        scores[title] = HarnessScore(_finite(value), _finite(figures.get(f"{metric}_stderr,{kind}")))
        better[title] = found["higher_is_better"].get(asked.task, {}).get(metric)
    return replace(
        asked,
        examples=int(figures["sample_len"]),
        higher_is_better=better,
        states=(HarnessState(after, scores),),
    )


def _finite(value: object) -> float | None:
    """The harness writes N/A for a standard error that it does not know."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _same(left: HarnessResult, right: HarnessResult) -> bool:
    """True when figures of both may stand in one row."""
    return replace(left, examples=0, higher_is_better={}, states=()) == replace(
        right, examples=0, higher_is_better={}, states=()
    )


def _is_scored(wanted: _Wanted, results: Iterable[HarnessResult], after: int) -> bool:
    return any(
        _same(wanted.asked, result) and any(state.after == after for state in result.states)
        for result in results
    )


def _added(folder: RunFolder, view: RunView, found: HarnessResult) -> RunView:
    """The run with these figures written down."""
    results = []
    for result in view.harness:
        if _same(result, found):
            states = sorted((*result.states, *found.states), key=lambda state: state.after)
            results.append(replace(found, states=tuple(states)))
        else:
            results.append(result)
    if not any(_same(result, found) for result in view.harness):
        results.append(found)
    folder.write_harness(results)
    return replace(view, harness=tuple(results))
