"""`codyra revert`: the run as it was after some task; later tasks move to an archive, nothing is deleted."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from codyra.engine.checksums import REWRITTEN
from codyra.engine.config import RunConfig
from codyra.engine.derive import write_summary
from codyra.engine.folder import DERIVED, TASK_LISTS, RunFolder
from codyra.engine.folder_reader import (
    PENDING,
    PendingRevert,
    check_not_pending,
    pending_revert,
    read_manifest,
)
from codyra.engine.lock import only_writer
from codyra.engine.manifest import now
from codyra.errors import UserError


def revert(run: Path, to: int) -> Path:
    """Take back every task after task `to` (counted from 1), learnt or half learnt.

    What is left is a finished run of `to` tasks, to which others can be appended. Its scores stay those that were
    measured, in the pooled label space of that time, classes of the archived tasks included; manifest.json says so
    under `scored_among`. Interrupted, it is finished by the same command.

    Returns:
        The archive, RUN/archive/NN: the files of the later tasks and copies of all that changed.

    Raises:
        UserError: `to` is not the number of a learnt task, nothing comes after it, or another revert waits to be
            finished.
    """
    folder = RunFolder(run)
    folder.stored_config()
    with only_writer(run):
        folder.sweep()
        pending = pending_revert(run)
        if pending is None and (done := _just_done(folder, to)):
            return done
        if pending is None:
            pending = PendingRevert(to, _next_archive(folder, to))
            folder.write_json(PENDING, asdict(pending))
        elif pending.to != to:
            check_not_pending(run)
        _take_back(folder, pending.to, pending.archive)
        folder.remove(PENDING)
        return folder.archive_folder(pending.archive)


def _just_done(folder: RunFolder, to: int) -> Path | None:
    """The archive of this very revert, when all but its last step was done before."""
    manifest = read_manifest(folder.path)
    last = manifest.archive[-1] if manifest.archive else None
    if last is None or last.reason != "revert" or len(manifest.data) != to or manifest.status != "finished":
        return None
    return folder.archive_folder(last.number)


def _next_archive(folder: RunFolder, to: int) -> int:
    names = [task.name for task in folder.stored_config().stream.chosen()]
    learnt = folder.finished_tasks(names)
    if not 1 <= to <= learnt:
        raise UserError(
            f"{folder.path}: {learnt} tasks are learnt, --to {to} is none of them; for the base model: "
            f"codyra checkout {folder.path} --after 0"
        )
    if to == len(names):
        raise UserError(f"{folder.path}: nothing comes after task {to} ({names[-1]}); nothing to revert")
    _scored_among(folder, names[:to])
    manifest = folder.read_json("manifest.json")
    later = tuple(f"{folder.task_folder(index, name)}/" for index, name in list(enumerate(names))[to:])
    kept = {name: digest for name, digest in manifest["files"].items() if not name.startswith(later)}
    folder.check_files({"files": kept})
    number = len(read_manifest(folder.path).archive) + 1
    folder.drop_archive(number)
    return number


def _take_back(folder: RunFolder, to: int, number: int) -> None:
    """Every step may be repeated: what an earlier attempt did already changes nothing."""
    config = folder.stored_config()
    stored = folder.read_json("manifest.json")
    names = [entry["task"] for entry in stored["data"]]
    folder.archive(number, names, keep=to)
    config = _first_tasks(config, to)
    folder.write_config(config)
    kept = names[:to]
    for name in TASK_LISTS:
        if listed_tasks := folder.read_json(name):
            folder.write_json(name, {**listed_tasks, "tasks": listed_tasks["tasks"][:to]})
    folder.write_json("samples.json", folder.read_json("samples.json", list)[:to])
    _shorten_harness(folder, to)
    among = _scored_among(folder, kept)
    for num_tasks in range(to + 1):
        file = folder.row_file(num_tasks, kept)
        row = folder.read_json(file)
        folder.write_json(file, {**row, "tasks": row["tasks"][:to]})
    folder.remove(*DERIVED)
    timing = stored["timing"]
    listed = folder.archived_checksums(stored["files"], number, names, keep=to)
    changed = {
        *REWRITTEN,
        "harness.json",
        *(folder.row_file(num_tasks, kept).as_posix() for num_tasks in range(to + 1)),
    }
    manifest = {
        **stored,
        "status": "unfinished",
        "data": stored["data"][:to],
        "timing": {**timing, "tasks": timing["tasks"][:to], "finished": now()},
        "rounding_loss": stored["rounding_loss"][:to],
        "archive": [
            *(entry for entry in stored["archive"] if entry["number"] != number),
            {"number": number, "reason": "revert", "tasks": _archived_names(folder, number)},
        ],
        "scored_among": among,
        "benchmark": _shortened(stored.get("benchmark"), to),
        "files": {name: digest for name, digest in listed.items() if name not in changed},
    }
    write_summary(folder, kept, config.stream.label_space, manifest)


def _shorten_harness(folder: RunFolder, to: int) -> None:
    """What was measured of models that are no longer the run's goes with them."""
    results = [
        {**result, "states": [state for state in result["states"] if state["after"] <= to]}
        for result in folder.read_json("harness.json", list)
    ]
    if left := [result for result in results if result["states"]]:
        folder.write_json("harness.json", left)
    else:
        folder.remove("harness.json")


def _shortened(benchmark: dict[str, Any] | None, to: int) -> dict[str, Any] | None:
    """What the manifest says of the benchmark once only `to` of its data sets are learnt."""
    if benchmark is None:
        return None
    kept = [mark for mark in benchmark["marks"] if not mark.startswith("reverted to ")]
    return {**benchmark, "marks": [f"reverted to {to} of {len(benchmark['tasks'])} data sets", *kept]}


def _scored_among(folder: RunFolder, kept: list[str]) -> list[str]:
    """The tasks among whose classes all rows were scored.

    Raises:
        UserError: they differ, because an append is taking them anew.
    """
    rows = [folder.read_json(folder.row_file(number, kept)) for number in range(len(kept) + 1)]
    among = rows[0].get("among")
    if not isinstance(among, list) or any(row.get("among") != among for row in rows):
        raise UserError(
            f"{folder.path}: an append was interrupted while it took all scores anew; finish it first with: codyra "
            f"run {folder.path / 'config.yaml'} --out {folder.path}"
        )
    for number in range(len(kept) + 1):
        columns = len(rows[number]["tasks"]) if isinstance(rows[number].get("tasks"), list) else 0
        folder.read_row(
            folder.row_file(number, kept), ["" for _ in range(columns)], among
        )  # raises what is wrong
    return among


def _archived_names(folder: RunFolder, number: int) -> list[str]:
    archived = folder.read_json(folder.archive_folder(number).relative_to(folder.path) / "manifest.json")
    return [entry["task"] for entry in archived["data"]]


def _first_tasks(config: RunConfig, count: int) -> RunConfig:
    tasks = config.stream.chosen()[:count]
    only = [task.name for task in tasks] if config.stream.only is not None else None
    stream = config.stream.model_copy(update={"tasks": tasks, "only": only})
    return config.model_copy(update={"stream": stream})
