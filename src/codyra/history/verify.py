"""`codyra verify`: is a run folder what the run wrote, and does it still give the model that was scored?"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from codyra import files
from codyra.engine import checkpoint, checksums, results
from codyra.engine.config import RunConfig
from codyra.engine.derive import read_rows
from codyra.engine.folder import CANDIDATE, CHECKPOINT, RunFolder
from codyra.engine.folder_reader import PENDING, RunView, check_not_pending, read_run
from codyra.engine.lock import LOCK
from codyra.engine.manifest import machine
from codyra.engine.models import load_base, state_sha256
from codyra.engine.progress import count
from codyra.errors import UserError
from codyra.families import Family
from codyra.methods import build_method
from codyra.reading import read_text, sha256, within
from codyra.update import TaskUpdate, compose, distance

ROUNDING = 1e-5
ADDED = ("memory_bytes", "extra_parameters")
"""Figures that runs of earlier versions, whose methods kept nothing, do not have."""
"""Relative difference that another machine or number of threads may make."""


@dataclass(frozen=True)
class Finding:
    """One line of the verdict: `ok` True (fine), False (a fault) or None (only worth knowing)."""

    ok: bool | None
    text: str


def verify(run: Path) -> Iterator[Finding]:
    """Check a run folder, finished or not; nothing is written.

    Checksums of every file; accuracy tables and metrics against the scores; the weights after every task, merged
    anew from the base model, against those that were scored; every adapter in stock peft against the update.

    Yields:
        What was found, in this order. A file that changed is named.

    Raises:
        UserError: `run` is no run folder at all.
    """
    folder = RunFolder(run)
    folder.stored_config()
    manifest = folder.read_json("manifest.json")
    check_not_pending(run)
    yield from _checksums(folder, manifest)
    try:
        view = read_run(run)
        config = folder.stored_config()
        yield from _figures(folder, view, config)
        yield from _models(folder, view, config)
    except UserError as error:
        yield Finding(False, str(error))


# --- files ---------------------------------------------------------------------------------------------------


def _checksums(folder: RunFolder, manifest: dict[str, Any]) -> Iterator[Finding]:
    sealed = checksums.is_sealed(read_text(folder.path / "manifest.json"))
    if not sealed:
        yield Finding(False, "manifest.json: changed since the run wrote it")
    listed = manifest.get("files")
    if not isinstance(listed, dict):
        yield Finding(False, "manifest.json: lists no checksums")
        return
    faults = []
    for name, expected in listed.items():
        try:
            file = within(folder.path, name)
            if not file.is_file():
                faults.append(f"{name}: missing")
            elif sha256(file) != expected:
                faults.append(f"{name}: changed since the run wrote it")
        except UserError as error:
            faults.append(f"{name}: {error}")
    faults += [f"{name}: {reason}" for name, reason in _unlisted(folder, listed, manifest.get("status"))]
    for fault in faults:
        yield Finding(False, fault)
    if not faults and sealed:
        yield Finding(True, f"checksums: manifest.json and {len(listed)} files are as the run wrote them")
    yield from _strangers(folder, listed)


def _unlisted(folder: RunFolder, listed: Iterable[str], status: object) -> Iterator[tuple[str, str]]:
    """Files that the manifest of a finished run should list, and checkpoints, which have a checksum of their own."""
    if status == "finished":
        known = checksums.own_files(folder.path)
        yield from ((name, "not in manifest.json") for name in known if name not in listed)
    for state in sorted(folder.path.glob(f"tasks/*/{CHECKPOINT}/state.safetensors")):
        try:
            checkpoint.read(state)
        except UserError as error:
            yield state.relative_to(folder.path).as_posix(), str(error)


def _strangers(folder: RunFolder, listed: Iterable[str]) -> Iterator[Finding]:
    """Files that nobody needs, and those that only an interrupted run has."""
    known = {*listed, *checksums.ROOT_FILES, "manifest.json", LOCK, PENDING}
    for file in sorted(folder.path.rglob("*")):
        path = file.relative_to(folder.path)
        of_task = path.parts[0] == "tasks" and len(path.parts) == 3 and file.name in checksums.TASK_FILES
        underway = (
            path.parts[0] == "tasks" and len(path.parts) == 4 and path.parts[2] in (CHECKPOINT, CANDIDATE)
        )
        if file.is_dir() or path.as_posix() in known or of_task or underway:
            continue
        if files.is_temporary(file.name):
            yield Finding(None, f"{path}: left by a process that was killed; codyra run removes it")
        else:
            yield Finding(None, f"{path}: not a file of the run")


# --- figures -------------------------------------------------------------------------------------------------


def _figures(folder: RunFolder, view: RunView, config: RunConfig) -> Iterator[Finding]:
    names, among = list(view.accuracy.tasks), list(view.manifest.scored_among)
    if not (folder.path / "zero_shot.json").is_file():
        yield Finding(None, "scores: none yet")
        return
    zero_shot, rows = read_rows(folder, names, among)
    label_space = config.stream.label_space
    tables = {"accuracy.csv": view.accuracy, "accuracy_task.csv": view.accuracy_task}
    good = True
    for file, space in results.matrix_files(zero_shot, label_space).items():
        table = tables[file]
        expected = [results.cells(row, space) for row in (zero_shot, *rows)]
        found = (
            []
            if table is None or table.zero_shot is None
            else [list(table.zero_shot), *map(list, table.rows)]
        )
        # An unfinished run may have been stopped between a row of scores and the tables.
        fits = found == expected if view.finished else found == expected[: len(found)]
        if not fits:
            good = False
            yield Finding(False, f"{file}: does not match the scores of the tasks")
    if view.metrics is not None:
        updates = [folder.read_update(index, name) for index, name in enumerate(names)]
        drift = [
            folder.read_figure(folder.row_file(number, names), "drift") for number in range(1, len(names) + 1)
        ]
        trainable = view.manifest.method.trainable_parameters or 0
        benchmark = vars(view.manifest.benchmark) if view.manifest.benchmark is not None else None
        expected_metrics = results.summarise(
            names,
            zero_shot,
            rows,
            label_space,
            updates,
            drift,
            trainable,
            folder.memory_bytes(names),
            benchmark,
        )
        stored = folder.read_json("metrics.json")
        expected_metrics = {
            key: value for key, value in expected_metrics.items() if key in stored or key not in ADDED
        }
        if json.loads(json.dumps(expected_metrics)) != stored:
            good = False
            yield Finding(False, "metrics.json: does not match the scores and updates of the tasks")
    if good:
        what = "accuracy tables" + (" and metrics.json" if view.metrics is not None else "")
        yield Finding(True, f"figures: {what} follow from the scores of {count(len(rows), 'task')}")


# --- models --------------------------------------------------------------------------------------------------


def _models(folder: RunFolder, view: RunView, config: RunConfig) -> Iterator[Finding]:
    names = list(view.accuracy.tasks)
    learnt = folder.finished_tasks(names)
    family = load_base(view)
    yield Finding(True, f"base model: {view.manifest.base.name} has the weights that the run began with")
    updates = [folder.read_update(index, name) for index, name in enumerate(names[:learnt])]
    yield from _merged_anew(folder, view, config, family, updates)
    yield from _in_stock_peft(folder, names, family, updates)
    yield from _heads(view, updates)


def _merged_anew(
    folder: RunFolder, view: RunView, config: RunConfig, family: Family, updates: Sequence[TaskUpdate]
) -> Iterator[Finding]:
    method = build_method(config.method)
    targets = family.target_modules(method.targets) if method.targets is not None else []
    touched = method.adapter.touched(targets, family.full_parameters())
    base = {name: family.net.get_parameter(name).detach() for name in touched}
    same_place = _same_place(view)
    identical = rounded = 0
    for number in range(1, len(updates) + 1):
        name = folder.row_file(number, view.accuracy.tasks).as_posix()
        scored = folder.read_json(name)
        weights = compose(family.net, base, updates[:number])
        drift = distance(weights, base)
        if state_sha256(weights, updates[number - 1].head) == scored.get("weights_sha256"):
            identical += 1
        elif not same_place and math.isclose(
            drift, folder.read_figure(name, "drift"), rel_tol=ROUNDING, abs_tol=1e-12
        ):
            rounded += 1
        else:
            yield Finding(
                False,
                f"{name}: base and updates merged anew are not the weights that were scored (|dW| {drift:.6g})",
            )
    if identical:
        yield Finding(
            True, f"merge: {count(identical, 'state')} merged anew, bit-identical to what was scored"
        )
    if rounded:
        yield Finding(
            True,
            f"merge: {count(rounded, 'state')} merged anew, equal to what was scored to rounding "
            f"({ROUNDING:g} of |dW|); "
            "this is another machine, device or number of threads",
        )


def _same_place(view: RunView) -> bool:
    manifest = view.manifest
    here = (machine(), torch.get_num_threads(), version("torch"))
    return here == (manifest.machine, manifest.threads, manifest.versions.get("torch"))


def _in_stock_peft(
    folder: RunFolder, names: Sequence[str], family: Family, updates: Sequence[TaskUpdate]
) -> Iterator[Finding]:
    loaded = 0
    for index, update in enumerate(updates):
        if not update.factors:
            continue
        path = folder.task_folder(index, names[index])
        try:
            model = PeftModel.from_pretrained(family.net, str(folder.path / path))
        except (NotImplementedError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
            yield Finding(False, f"{path.as_posix()}: stock peft cannot load it ({error})")
            continue
        worst = max(_difference(model, name, A_KD, B_OK) for name, (A_KD, B_OK) in update.factors.items())
        num_adapted = sum(1 for layer, _ in model.named_modules() if layer.endswith(".lora_A.default"))
        model.unload()
        if worst > ROUNDING or num_adapted != len(update.factors):
            yield Finding(False, f"{path.as_posix()}: stock peft loads another update than the run left")
        else:
            loaded += 1
    if loaded:
        yield Finding(True, f"adapters: stock peft loads {loaded}, with the updates of their tasks")


def _heads(view: RunView, updates: Sequence[TaskUpdate]) -> Iterator[Finding]:
    found, known = 0, 0
    for number, (entry, update) in enumerate(zip(view.manifest.data, updates, strict=False), start=1):
        known += entry.classes
        if update.head is None:
            continue
        if update.head.num_classes == known:
            found += 1
        else:
            yield Finding(
                False,
                f"task {number}: its head scores {update.head.num_classes} classes, tasks 1 to {number} have {known}",
            )
    if found:
        yield Finding(True, f"heads: {found}, each with a column for every class learnt so far")


def _difference(model: Any, name: str, A_KD: Tensor, B_OK: Tensor) -> float:
    """Of peft's update and B A, relative to the largest entry."""
    layer = model.base_model.model.get_submodule(name)
    update_OD = B_OK @ A_KD
    stock = layer.get_delta_weight("default")
    stock_OD = stock.T if layer.fan_in_fan_out else stock
    return float((stock_OD - update_OD).abs().max() / update_OD.abs().max().clamp(min=1e-30))
