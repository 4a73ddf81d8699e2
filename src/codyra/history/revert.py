"""`codyra revert`: the run as it was after some task; later tasks move to an archive, nothing is deleted."""

from pathlib import Path

from codyra.engine.config import RunConfig
from codyra.engine.derive import write_summary
from codyra.engine.folder import PENDING, RunFolder
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
        pending = folder.pending_revert()
        if pending is None:
            pending = (to, _next_archive(folder, to))
            folder.write_json(PENDING, {"to": pending[0], "archive": pending[1]})
        elif pending[0] != to:
            folder.check_not_pending()
        _take_back(folder, *pending)
        folder.remove(PENDING)
        return folder.archive_folder(pending[1])


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
    return len(folder.read_json("manifest.json")["archive"]) + 1


def _take_back(folder: RunFolder, to: int, number: int) -> None:
    """Every step may be repeated: what an earlier attempt did already changes nothing."""
    config = folder.stored_config()
    stored = folder.read_json("manifest.json")
    names = [entry["task"] for entry in stored["data"]]
    folder.archive(number, names, keep=to)
    config = _first_tasks(config, to)
    folder.write_config(config)
    kept = names[:to]
    labels = folder.read_json("labels.json")
    folder.write_json("labels.json", {**labels, "tasks": labels["tasks"][:to]})
    folder.write_json("samples.json", folder.read_json("samples.json", list)[:to])
    among = stored["scored_among"]
    for num_tasks in range(to + 1):
        file = folder.row_file(num_tasks, kept)
        row = folder.read_json(file)
        folder.write_json(file, {**row, "tasks": row["tasks"][:to]})
    folder.remove("accuracy.csv", "accuracy_task.csv", "metrics.json", "report.html")
    timing = stored["timing"]
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
        "files": {name: digest for name, digest in stored["files"].items() if (folder.path / name).is_file()},
    }
    write_summary(folder, kept, config.stream.label_space, manifest)


def _archived_names(folder: RunFolder, number: int) -> list[str]:
    archived = folder.read_json(folder.archive_folder(number).relative_to(folder.path) / "manifest.json")
    return [entry["task"] for entry in archived["data"]]


def _first_tasks(config: RunConfig, count: int) -> RunConfig:
    tasks = config.stream.chosen()[:count]
    only = [task.name for task in tasks] if config.stream.only is not None else None
    stream = config.stream.model_copy(update={"tasks": tasks, "only": only})
    return config.model_copy(update={"stream": stream})
