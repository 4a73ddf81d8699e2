"""RunFolder: the only code that writes into a run folder (layout: docs/run-folder.md).

A task is learnt when its ranks.json exists, which is written last of its update, and scored when its scores.json
holds a row for the tasks of the config. Everything else is derived from these and can be written again at any
time, so a run that was stopped anywhere continues from the files that are there. Everything is written atomically.
"""

import csv
import io
import json
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from codyra import files
from codyra.engine import checksums
from codyra.engine.checkpoint import Keeper, Record
from codyra.engine.config import RunConfig, parse_config
from codyra.engine.folder_reader import HarnessResult, check_not_pending, read_config
from codyra.engine.lock import LOCK, only_writer
from codyra.errors import UserError
from codyra.families import AnswerScore, Score, TaskScore
from codyra.methods import Memory
from codyra.naming import task_folder
from codyra.reading import (
    checked,
    damaged,
    parse_json,
    read_bytes,
    read_json,
    read_tensors,
    read_text,
    sha256,
    within,
)
from codyra.streams import InstructionTask, StreamSpec, Task
from codyra.update import TaskUpdate

Cells = Sequence[float | None]
Row = list[Score | None]
"""Scores of all tasks at one moment of the stream; None where a task was not scored."""

WHERE_IS_IT = ("root", "data_dir", "name")
"""Config keys that say where things lie, not what is run: a run may be continued from another place."""
MAX_EXAMPLES = 10**12
CHECKPOINT, CANDIDATE = "checkpoint", "candidate"
MEMORY = "memory.safetensors"
DERIVED = ("accuracy.csv", "accuracy_task.csv", "metrics.json", "report.html")
"""Files that follow from the scores and updates of the tasks."""
TASK_LISTS = ("labels.json", "answers.json")
"""Of which a run has one: its classes, or how its prompts are answered."""
ZERO_SHOT = "zero-shot"
MAX_SQUARE = 10_000.0


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # --- state -----------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """True when a run was started here."""
        return (self.path / "config.yaml").is_file()

    @property
    def run_command(self) -> str:
        """What a user types to go on with this run."""
        return shlex.join(["codyra", "run", str(self.path / "config.yaml"), "--out", str(self.path)])

    def stored_config(self) -> RunConfig:
        """The config of the run that is here.

        Raises:
            UserError: there is none, or it is damaged.
        """
        file = self.path / "config.yaml"
        if not self.exists():
            raise UserError(f"{self.path} is no run folder (no config.yaml in it); give the folder of a run")
        raw, _ = read_config(file)
        return parse_config(raw, str(file))

    def check_config(self, config: RunConfig) -> None:
        """Refuse to mix two runs in one folder; how much a guard tolerates may change on the way.

        Raises:
            UserError: the folder holds another config (the first differing key is named), files that are no run, or
                what an interrupted `codyra revert` left.
        """
        if not self.exists():
            # These are left by a run whose very first writes were cut short.
            harmless = {"manifest.json", LOCK}
            if self.path.exists() and (
                not self.path.is_dir()
                or any(
                    file.name not in harmless and not files.is_temporary(file.name)
                    for file in self.path.iterdir()
                )
            ):
                raise UserError(f"{self.path}: exists and is no run folder; choose another --out")
            return
        check_not_pending(self.path)
        difference = first_difference(comparable(self.stored_config()), comparable(config))
        if difference:
            grown = self.read_json("manifest.json").get("archive")
            go_on = f"tasks were appended or taken back since; go on with: {self.run_command}, or choose another --out"
            remedy = go_on if grown else "choose another --out"
            raise UserError(f"{self.path}: holds another run ({difference}); {remedy}")

    def is_learnt(self, task_index: int, name: str) -> bool:
        """True when the task's update is committed."""
        return self._task_file(task_index, name, "ranks.json").is_file()

    def finished_tasks(self, task_names: Sequence[str]) -> int:
        """How many tasks, from the first on, are learnt and were scored."""
        for task_index, name in enumerate(task_names):
            if not (
                self.is_learnt(task_index, name)
                and self._task_file(task_index, name, "scores.json").is_file()
            ):
                return task_index
        return len(task_names)

    def is_finished(self) -> bool:
        """True once everything of a run is written, its report included."""
        finished = self.exists() and self.read_json("manifest.json").get("status") == "finished"
        return finished and all(
            (self.path / name).is_file()
            for name in DERIVED
            if name != "accuracy_task.csv" or (self.path / "labels.json").is_file()
        )

    def task_folder(self, task_index: int, name: str) -> Path:
        """Folder of a task, relative to the run's; people count from 01, code from 0."""
        return Path("tasks") / task_folder(task_index, name)

    def row_file(self, num_tasks: int, names: Sequence[str]) -> Path:
        """Where the scores after the first `num_tasks` tasks are, relative to the run's folder."""
        if not num_tasks:
            return Path("zero_shot.json")
        return self.task_folder(num_tasks - 1, names[num_tasks - 1]) / "scores.json"

    def row_files(self, num_tasks: int, names: Sequence[str]) -> list[str]:
        """All that is written with the scores after the first `num_tasks` tasks."""
        return [
            path.as_posix() for path in (self.row_file(num_tasks, names), self._predictions(num_tasks, names))
        ]

    def _predictions(self, num_tasks: int, names: Sequence[str]) -> Path:
        scores = self.row_file(num_tasks, names)
        return scores.with_name("predictions.jsonl" if num_tasks else "zero_shot_predictions.jsonl")

    def _task_file(self, task_index: int, name: str, file: str) -> Path:
        return within(self.path, self.task_folder(task_index, name)) / file

    def _part(self, task_index: int, name: str, part: str) -> Path:
        """A folder of a task, known to be in the run's."""
        return within(self.path, self.task_folder(task_index, name) / part)

    def _target(self, name: str | Path) -> Path:
        """A file to be written: what is there may be a link, which is replaced; the folder it is in may not."""
        return within(self.path, Path(name).parent) / Path(name).name

    # --- reading ---------------------------------------------------------------------------------------------

    def read_json(self, name: str | Path, kind: type = dict) -> Any:
        """Content of a JSON file of the folder, an empty `kind` where it was not written yet.

        Raises:
            UserError: the file is damaged.
        """
        path = within(self.path, name)
        if not path.is_file():
            return kind()
        content = read_json(path)
        if not isinstance(content, kind):
            damaged(path, f"it holds no {kind.__name__}")
        return content

    def read_row(self, name: str | Path, names: Sequence[str], among: Sequence[str]) -> Row | None:
        """The scores of these tasks; None where they were not taken yet, or among the classes of others.

        Raises:
            UserError: the file is damaged.
        """
        if not (self.path / name).is_file():
            return None
        row = self._read_scores(name)
        scored_among = checked(list[str], self.read_json(name).get("among"), self.path / name)
        return row if len(row) == len(names) and scored_among == list(among) else None

    def read_scores(self, num_tasks: int, names: Sequence[str]) -> dict[str, Score]:
        """By task, what scores there are after the first `num_tasks` tasks, whatever tasks the run had then.

        Raises:
            UserError: the file is damaged.
        """
        name = self.row_file(num_tasks, names)
        row = self._read_scores(name) if (self.path / name).is_file() else []
        return {score.name: score for score in row if score is not None}

    def _read_scores(self, name: str | Path) -> Row:
        row: Row = checked(
            list[TaskScore | AnswerScore | None], self.read_json(name).get("tasks"), self.path / name
        )
        for score in row:
            if score is not None and not _is_possible(score):
                damaged(self.path / name, f"{score} is no score")
        return row

    def read_figure(self, name: str | Path, key: str) -> float:
        """A number of a JSON file, such as `drift` of a task's scores.json.

        Raises:
            UserError: the file or the number is missing or damaged.
        """
        value = self.read_json(name).get(key)
        if not isinstance(value, int | float):
            damaged(self.path / name, f"its {key} is no number")
        return float(value)

    def read_update(self, task_index: int, name: str) -> TaskUpdate:
        """What a learnt task left behind.

        Raises:
            UserError: it is damaged.
        """
        return TaskUpdate.load(within(self.path, self.task_folder(task_index, name)))

    def check_files(self, manifest: Mapping[str, Any], parts: Sequence[str] = ("",)) -> None:
        """Make sure that the files listed in a manifest are as the run wrote them, derived ones left out.

        Args:
            parts: beginnings of the names that count; all by default.

        Raises:
            UserError: a file changed or is missing; it is named.
        """
        for part in ("tasks", "samples", "archive"):
            within(self.path, part)  # a link out of the run is refused before anything is written
        listed = manifest.get("files", {})
        if not isinstance(listed, dict):
            damaged(self.path / "manifest.json", "its checksums are no mapping")
        for name, expected in listed.items():
            if name in DERIVED or not name.startswith(tuple(parts)):
                continue
            if sha256(within(self.path, name)) != expected:
                damaged(self.path / name, "its checksum is not that of the file which the run wrote")

    # --- writing ---------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Remove the unfinished files of a process that was killed while it wrote."""
        files.sweep(self.path)

    def tidy(self) -> None:
        """Remove what a process left that was killed after all else was done; never mind when that cannot be."""
        left = any(files.is_temporary(file.name) for file in self.path.rglob(".*.tmp"))
        if left or (self.path / LOCK).exists():
            with suppress(UserError), only_writer(self.path):
                self.sweep()

    def start(self, config: RunConfig, manifest: Mapping[str, Any]) -> None:
        """Begin a run: the manifest first, the config (whose presence makes this a run folder) last."""
        files.write_text(self.path / "manifest.json", checksums.seal(manifest))
        self.write_config(config)

    def write_config(self, config: RunConfig) -> None:
        """config.yaml."""
        files.write_text(self.path / "config.yaml", config.to_yaml())

    def archive(self, number: int, task_names: Sequence[str], keep: int) -> None:
        """Put aside what is about to be changed, in archive/NN; does nothing when that was done before.

        The figures of all tasks are copied there with the config, whole folders of tasks beyond the first `keep`
        moved. The copied manifest.json comes last of the copies: it says that these are complete.
        """
        archive = self.archive_folder(number)
        if not (archive / "manifest.json").is_file():
            for name in [*self._copied(task_names, keep), "manifest.json"]:
                if (self.path / name).is_file():
                    target = self._target(archive.relative_to(self.path) / name)
                    files.write_bytes(target, read_bytes(within(self.path, name)))
        for index, name in list(enumerate(task_names))[keep:]:
            folder = self.task_folder(index, name)
            thumbnails = sorted((self.path / "samples").glob(f"{index + 1:02d}-*.png"))
            for source in [self.path / folder, *thumbnails]:
                if source.exists():
                    files.move(
                        source, self._target(archive.relative_to(self.path) / source.relative_to(self.path))
                    )

    def archived_checksums(
        self, listed: Mapping[str, str], number: int, task_names: Sequence[str], keep: int
    ) -> dict[str, str]:
        """The checksums of a manifest after `archive`: what was moved or copied keeps the checksum that it had."""
        prefix = self.archive_folder(number).relative_to(self.path).as_posix()
        later = list(enumerate(task_names))[keep:]
        moved = tuple(f"{self.task_folder(index, name)}/" for index, name in later)
        moved += tuple(f"samples/{index + 1:02d}-" for index, _ in later)
        there = {
            f"{prefix}/{name}": listed[name] for name in self._copied(task_names, keep) if name in listed
        }
        here = {
            f"{prefix}/{name}" if moved and name.startswith(moved) else name: digest
            for name, digest in listed.items()
        }
        return {**there, **here}

    def _copied(self, task_names: Sequence[str], keep: int) -> list[str]:
        scores = [self.row_file(number, task_names).as_posix() for number in range(1, keep + 1)]
        return [*checksums.ROOT_FILES, *scores]

    def drop_archive(self, number: int) -> None:
        """Remove an archive that was begun and is not in use."""
        _remove_folder(within(self.path, self.archive_folder(number).relative_to(self.path)))

    def archive_folder(self, number: int) -> Path:
        """archive/NN, counted from 1."""
        return self.path / "archive" / f"{number:02d}"

    def write_manifest(self, manifest: dict[str, Any], before: Sequence[str] = ()) -> None:
        """manifest.json with the checksums of all settled files that are not listed yet.

        A checksum that is listed stays, so that damage does not become the truth; it goes only when this process
        is about to write the file.

        Args:
            before: names, or beginnings of names that end in /, of what is about to be written or removed.
        """
        kept = {
            name: digest for name, digest in manifest.get("files", {}).items() if not _is_among(name, before)
        }
        new = [
            name
            for name in checksums.own_files(self.path)
            if name not in kept and not _is_among(name, before)
        ]
        manifest["files"] = dict(sorted((kept | checksums.take(self.path, new)).items()))
        files.write_text(self.path / "manifest.json", checksums.seal(manifest))

    def write_json(self, name: str | Path, content: Any) -> None:
        """Any JSON file of the folder."""
        files.write_json(self._target(name), content)

    def write_text(self, name: str | Path, content: str) -> None:
        """Any text file of the folder."""
        files.write_text(self._target(name), content)

    def remove(self, *names: str) -> None:
        """Remove derived files, which will be written again."""
        for name in names:
            self._target(name).unlink(missing_ok=True)

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
                    files.write_bytes(self._target(entry["image"]), buffer.getvalue())
                else:
                    entry["text"] = example["text"]
                listed.append(entry)
            entries.append({"task": name, "prompt": prompt, "examples": listed})
        self.write_json("samples.json", entries)

    def write_tasks(self, stream: StreamSpec, tasks: Iterable[Task | InstructionTask]) -> None:
        """What must be known of all tasks to use a model without the data.

        labels.json: classes and prompts; for tasks of answers answers.json: how prompts become tokens and answers.
        """
        tasks = list(tasks)
        self._write_labels(stream.label_space, [task for task in tasks if isinstance(task, Task)])
        self._write_answer_rules(stream, [task for task in tasks if isinstance(task, InstructionTask)])

    def _write_answer_rules(self, stream: StreamSpec, tasks: Sequence[InstructionTask]) -> None:
        if tasks:
            entries = [
                {
                    "name": task.name,
                    "prompt": task.prompt,
                    "metric": task.metric,
                    "choices": list(task.choices),
                    "max_new_tokens": task.max_new_tokens,
                    "frame": list(task.frame),
                }
                for task in tasks
            ]
            self.write_json("answers.json", {"settings": stream.answer_rules(), "tasks": entries})

    def _write_labels(self, label_space: str, tasks: Sequence[Task]) -> None:
        if not tasks:
            return
        entries = [
            {
                "name": task.name,
                "prompt": task.prompt,
                "classes": list(task.class_names),
                "prompts": list(task.prompts),
                **({"scored_prompts": task.scored_prompts} if task.ensemble else {}),
            }
            for task in tasks
        ]
        self.write_json("labels.json", {"scored_in": label_space, "tasks": entries})

    def write_row(
        self, num_tasks: int, names: Sequence[str], row: Row, unchanged: bool = False, **about: Any
    ) -> None:
        """The scores of all tasks after the first `num_tasks`, with the answers they are of; `about` adds figures.

        Args:
            unchanged: the last task changed nothing, so the answers are those before it.
        """
        if any(isinstance(score, AnswerScore) for score in row):
            self._write_predictions(num_tasks, names, row, num_tasks - 1 if unchanged else num_tasks)
        after = names[num_tasks - 1] if num_tasks else ZERO_SHOT
        content = {"after": after, **about, "among": list(names), "tasks": [_stored(score) for score in row]}
        self.write_json(self.row_file(num_tasks, names), content)

    def _write_predictions(self, num_tasks: int, names: Sequence[str], row: Row, former: int) -> None:
        """One line per test example; of tasks that were not answered anew those after the first `former` tasks."""
        former_path, lines = within(self.path, self._predictions(former, names)), []
        anew = [score for score in row if isinstance(score, AnswerScore) and score.answers]
        if former_path.is_file():
            answered = {score.name for score in anew}
            # An answer may hold what str.splitlines takes for the end of a line.
            for line in read_text(former_path).split("\n")[:-1]:
                if parse_json(line, former_path).get("task") not in answered:
                    lines.append(line)
        for score in anew:
            for position, (prediction, percent) in enumerate(score.answers):
                entry = {"task": score.name, "position": position, "prediction": prediction, "score": percent}
                lines.append(json.dumps(entry, ensure_ascii=False))
        self.write_text(self._predictions(num_tasks, names), "".join(f"{line}\n" for line in lines))

    def write_harness(self, results: Sequence[HarnessResult]) -> None:
        """harness.json and its checksum."""
        manifest = self.read_json("manifest.json")
        self.write_manifest(manifest, before=["harness.json"])
        self.write_json("harness.json", [asdict(result) for result in results])
        self.write_manifest(manifest)

    def begin_task(self, task_index: int, name: str, shots: Mapping[str, Any]) -> None:
        """shots.json of a task; whatever else an interrupted attempt left is continued or written over."""
        self.write_json(self.task_folder(task_index, name) / "shots.json", shots)

    def keeper(self, task_index: int, name: str, **options: Any) -> Keeper:
        """Keeps the checkpoints of a task; `options` are those of `Keeper`."""
        path = self._part(task_index, name, CHECKPOINT) / "state.safetensors"

        def write_log(log: Sequence[Record]) -> None:
            self.write_log(task_index, name, log)

        return Keeper(path, write_log=write_log, log=self.read_log(task_index, name), **options)

    def read_candidate(self, task_index: int, name: str) -> TaskUpdate | None:
        """An update that was trained and is not committed; None where there is none."""
        path = self._part(task_index, name, CANDIDATE)
        return TaskUpdate.load(path) if (path / "ranks.json").is_file() else None

    def write_candidate(
        self, task_index: int, name: str, update: TaskUpdate, base: str, revision: str | None
    ) -> None:
        """An update that waits for its guard."""
        update.save(self._part(task_index, name, CANDIDATE), base, revision)

    def write_update(
        self, task_index: int, name: str, update: TaskUpdate, base: str, revision: str | None
    ) -> None:
        """Commit a task: adapter (or tensors) and, last, ranks.json; `base` and `revision` name its model."""
        update.save(within(self.path, self.task_folder(task_index, name)), base, revision)

    def write_memory(self, task_index: int, name: str, memory: Memory) -> None:
        """What the method keeps of the tasks up to this one; no file where that is nothing."""
        path = within(self.path, self.task_folder(task_index, name)) / MEMORY
        if tensors := memory.to_tensors():
            files.write_tensors(path, tensors, {})
        else:
            path.unlink(missing_ok=True)

    def read_memory(self, task_index: int, name: str) -> Memory:
        """What `write_memory` wrote.

        Raises:
            UserError: the file is damaged.
        """
        path = self._task_file(task_index, name, MEMORY)
        try:
            return Memory.from_tensors(read_tensors(path)) if path.is_file() else Memory()
        except ValueError as error:
            damaged(path, str(error))

    def memory_bytes(self, names: Sequence[str]) -> list[int]:
        """What the method kept after each of these tasks, beside the updates.

        Raises:
            UserError: a file is damaged.
        """
        return [sum(self.read_memory(index, name).num_bytes().values()) for index, name in enumerate(names)]

    def end_training(self, task_index: int, name: str) -> None:
        """Remove the checkpoint of a task whose update is stored."""
        _remove_folder(self._part(task_index, name, CHECKPOINT))

    def drop_candidate(self, task_index: int, name: str, manifest: dict[str, Any]) -> None:
        """Remove the candidate of a task that is committed."""
        path = self._part(task_index, name, CANDIDATE)
        if path.exists():
            self.write_manifest(manifest, before=[f"{self.task_folder(task_index, name)}/{CANDIDATE}/"])
            _remove_folder(path)

    def write_matrix(self, name: str, task_names: Sequence[str], rows: Iterable[tuple[str, Cells]]) -> None:
        """accuracy.csv or accuracy_task.csv: full precision, an empty cell where a task was not scored."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["after", *task_names])
        for after, cells in rows:
            writer.writerow([after, *("" if cell is None else repr(cell) for cell in cells)])
        self.write_text(name, buffer.getvalue())

    def write_log(self, task_index: int, name: str, log: Sequence[Record]) -> None:
        """train.jsonl of a task, one object per step."""
        lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in log)
        self.write_text(self.task_folder(task_index, name) / "train.jsonl", lines)

    def read_log(self, task_index: int, name: str) -> list[Record]:
        """train.jsonl of a task as far as it was written."""
        file = self._task_file(task_index, name, "train.jsonl")
        if not file.is_file():
            return []
        return [parse_json(line, file) for line in read_text(file).splitlines()]


def _is_possible(score: Score) -> bool:
    if not 0 < score.examples < MAX_EXAMPLES:
        return False
    if isinstance(score, TaskScore):
        return 0 <= score.correct <= score.examples and 0 <= score.correct_task <= score.examples
    counts = 0 <= score.cut <= score.examples and 0 <= score.unfinished <= score.examples
    return (
        counts
        and 0 <= score.total <= 100 * score.examples
        and 0 <= score.squares <= MAX_SQUARE * score.examples
    )


def _stored(score: Score | None) -> dict[str, Any] | None:
    if score is None:
        return None
    return {field.name: getattr(score, field.name) for field in fields(score) if field.name != "answers"}


def _remove_folder(path: Path) -> None:
    try:
        if path.exists():
            shutil.rmtree(path)
    except OSError as error:
        raise UserError(f"cannot remove {path}: {error.strerror or error}; {files.remedy(error)}") from error


def _is_among(name: str, names: Sequence[str]) -> bool:
    return any(name == other or (other.endswith("/") and name.startswith(other)) for other in names)


def comparable(config: RunConfig) -> dict[str, Any]:
    """What must be equal for two configs to be one run."""
    content = config.model_dump(mode="json", exclude=set(WHERE_IS_IT))
    if content["guard"] is not None:
        for key in ("tolerance", "against", "on_violation"):
            del content["guard"][key]
    return content


def first_difference(stored: Any, given: Any, path: str = "") -> str | None:
    """Where two configs differ first, as `train.steps is 100 there, 200 here`; None when they are equal."""
    if isinstance(stored, dict) and isinstance(given, dict):
        for key in {**stored, **given}:
            if difference := first_difference(
                stored.get(key), given.get(key), f"{path}.{key}" if path else key
            ):
                return difference
        return None
    if stored == given:
        return None
    if isinstance(stored, list) and isinstance(given, list):
        if len(stored) != len(given):
            return f"{path} has {len(stored)} entries there, {len(given)} here"
        pairs = enumerate(zip(stored, given, strict=True))
        return next(
            found
            for place, pair in pairs
            if (found := first_difference(*pair, f"{path}.{place}")) is not None
        )
    there, here = ("set" if isinstance(value, dict) else repr(value) for value in (stored, given))
    return f"{path} is {there} there, {here} here"
