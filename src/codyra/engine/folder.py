"""RunFolder: the only code that writes into a run folder (layout: docs/run-folder.md).

A task is finished when its scores.json exists, which is written last; accuracy.csv and metrics.json are derived
from the scores and can be written again at any time. Everything is written atomically.
"""

import csv
import io
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from codyra import files
from codyra.engine.config import RunConfig, parse_config
from codyra.errors import UserError
from codyra.families import TaskScore
from codyra.streams import Task
from codyra.update import TaskUpdate

Cells = Sequence[float | None]
Row = list[TaskScore | None]
"""Scores of all tasks at one moment of the stream; None where a task was not scored."""

WHERE_IS_IT = ("root", "data_dir", "name")
"""Config keys that say where things lie, not what is run: a run may be continued from another place."""


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # --- state -----------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """True when a run was started here."""
        return (self.path / "config.yaml").is_file()

    def check_config(self, config: RunConfig) -> None:
        """Refuse to mix two runs in one folder.

        Raises:
            UserError: the folder holds another config (the first differing key is named), or files that are no run.
        """
        if not self.exists():
            # A manifest alone is a run whose very first write was cut short.
            if self.path.exists() and (
                not self.path.is_dir() or any(file.name != "manifest.json" for file in self.path.iterdir())
            ):
                raise UserError(f"{self.path}: exists and is no run folder; choose another --out")
            return
        try:
            raw = yaml.safe_load((self.path / "config.yaml").read_text("utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            raw = None
        if not isinstance(raw, dict):
            raise UserError(f"{self.path / 'config.yaml'}: is damaged; restore it or choose another --out")
        stored = parse_config(raw, str(self.path / "config.yaml"))
        difference = _first_difference(
            stored.model_dump(mode="json", exclude=set(WHERE_IS_IT)),
            config.model_dump(mode="json", exclude=set(WHERE_IS_IT)),
        )
        if difference:
            raise UserError(f"{self.path}: holds another run ({difference}); choose another --out")

    def finished_tasks(self, task_names: Sequence[str]) -> int:
        """How many tasks, from the first on, are finished."""
        for task_index, name in enumerate(task_names):
            if not (self.path / self.task_folder(task_index, name) / "scores.json").is_file():
                return task_index
        return len(task_names)

    def is_finished(self) -> bool:
        """True once the last thing of a run, its report, was written."""
        finished = self.exists() and self.read_json("manifest.json").get("status") == "finished"
        return finished and (self.path / "report.html").is_file()

    def task_folder(self, task_index: int, name: str) -> Path:
        """Folder of a task, relative to the run's; people count from 01, code from 0."""
        return Path("tasks") / f"{task_index + 1:02d}-{name}"

    # --- reading ---------------------------------------------------------------------------------------------

    def read_json(self, name: str | Path, kind: type = dict) -> Any:
        """Content of a JSON file of the folder, an empty `kind` where it was not written yet.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path / name
        if not path.is_file():
            return kind()
        try:
            content = json.loads(path.read_text("utf-8"))
            if not isinstance(content, kind):
                raise UnicodeError(f"it holds no {kind.__name__}")
            return content
        except (json.JSONDecodeError, UnicodeError) as error:
            raise UserError(
                f"{path}: is damaged ({error}); restore it or start again in another --out"
            ) from None

    def read_row(self, name: str | Path) -> Row | None:
        """A row of scores, None where it was not written yet."""
        if not (self.path / name).is_file():
            return None
        try:
            return [None if cell is None else TaskScore(**cell) for cell in self.read_json(name)["tasks"]]
        except (KeyError, TypeError) as error:
            raise self._damaged(name, error) from None

    def read_drift(self, name: str | Path) -> float:
        """|theta_t - theta_0|_F as a task's scores.json has it."""
        try:
            return float(self.read_json(name)["drift"])
        except (KeyError, TypeError) as error:
            raise self._damaged(name, error) from None

    def _damaged(self, name: str | Path, error: Exception) -> UserError:
        return UserError(
            f"{self.path / name}: is damaged ({error}); restore it or start again in another --out"
        )

    def read_update(self, task_index: int, name: str) -> TaskUpdate:
        """What a finished task left behind."""
        return TaskUpdate.load(self.path / self.task_folder(task_index, name))

    # --- writing ---------------------------------------------------------------------------------------------

    def start(self, config: RunConfig, manifest: Mapping[str, Any]) -> None:
        """Begin a run: the manifest first, the config (whose presence makes this a run folder) last."""
        files.write_json(self.path / "manifest.json", manifest)
        files.write_text(self.path / "config.yaml", config.to_yaml())

    def write_json(self, name: str | Path, content: Any) -> None:
        """Any JSON file of the folder."""
        files.write_json(self.path / name, content)

    def write_text(self, name: str | Path, content: str) -> None:
        """Any text file of the folder."""
        files.write_text(self.path / name, content)

    def write_samples(self, previews: Mapping[str, tuple[str, list[dict[str, Any]]]]) -> None:
        """samples.json and its pictures: task name -> (prompt, examples of `label` and `text` or `image`)."""
        entries = []
        for task_number, (name, (prompt, examples)) in enumerate(previews.items(), start=1):
            listed = []
            for position, example in enumerate(examples):
                entry = {"label": example["label"]}
                if "image" in example:
                    entry["image"] = f"samples/{task_number:02d}-{position}.png"
                    buffer = io.BytesIO()
                    example["image"].save(buffer, "PNG")
                    files.write_bytes(self.path / entry["image"], buffer.getvalue())
                else:
                    entry["text"] = example["text"]
                listed.append(entry)
            entries.append({"task": name, "prompt": prompt, "examples": listed})
        self.write_json("samples.json", entries)

    def write_labels(self, label_space: str, tasks: Iterable[Task]) -> None:
        """labels.json: the classes and prompts of all tasks, so that a model can be used without the data."""
        entries = [
            {
                "name": task.name,
                "prompt": task.prompt,
                "classes": list(task.class_names),
                "prompts": list(task.prompts),
            }
            for task in tasks
        ]
        self.write_json("labels.json", {"scored_in": label_space, "tasks": entries})

    def write_row(self, name: str | Path, after: str, row: Row, **about: float) -> None:
        """zero_shot.json or a task's scores.json, which marks the task as finished; `about` adds figures."""
        cells = [
            None
            if score is None
            else {
                "name": score.name,
                "examples": score.examples,
                "correct": score.correct,
                "correct_task": score.correct_task,
            }
            for score in row
        ]
        self.write_json(name, {"after": after, **about, "tasks": cells})

    def clear_task(self, task_index: int, name: str) -> None:
        """Remove whatever an interrupted attempt at a task left behind."""
        path = self.path / self.task_folder(task_index, name)
        if path.exists():
            shutil.rmtree(path)

    def write_update(
        self, task_index: int, name: str, update: TaskUpdate, base: str, revision: str | None
    ) -> None:
        """Adapter (or tensors) and ranks.json of a task; `base` and `revision` name the model it belongs to."""
        update.save(self.path / self.task_folder(task_index, name), base, revision)

    def write_matrix(self, name: str, task_names: Sequence[str], rows: Iterable[tuple[str, Cells]]) -> None:
        """accuracy.csv or accuracy_task.csv: full precision, an empty cell where a task was not scored."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["after", *task_names])
        for after, cells in rows:
            writer.writerow([after, *("" if cell is None else repr(cell) for cell in cells)])
        self.write_text(name, buffer.getvalue())

    def write_log(self, task_index: int, name: str, log: Sequence[Mapping[str, Any]]) -> None:
        """train.jsonl of a task, one object per step."""
        lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in log)
        self.write_text(self.task_folder(task_index, name) / "train.jsonl", lines)


def _first_difference(stored: Any, given: Any, path: str = "") -> str | None:
    """Where two configs differ first, as `train.steps is 100 there, 200 here`; None when they are equal."""
    if isinstance(stored, dict) and isinstance(given, dict):
        for key in {**stored, **given}:
            if difference := _first_difference(
                stored.get(key), given.get(key), f"{path}.{key}" if path else key
            ):
                return difference
        return None
    if stored == given:
        return None
    return f"{path} is {stored!r} there, {given!r} here"
