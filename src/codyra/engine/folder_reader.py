"""A read-only view of a run folder: all that a report or a listing shows, checked once, nothing written.

`read_run(path)` returns a `RunView`. An unfinished run is a normal thing to read: it has fewer rows, fewer
tasks and no metrics. A file that is there and cannot be understood is a `UserError` that names it.
"""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from codyra.errors import UserError
from codyra.reading import damaged, parse_json, parse_yaml, read_bytes, read_json, read_text, within

FORMAT = 1
MAX_SAMPLE_BYTES = 1_000_000
"""Largest thumbnail; a report carries them all."""

Score = float | None
T = TypeVar("T")


@dataclass(frozen=True)
class BaseModelInfo:
    """The pre-trained model that the run started from."""

    name: str
    revision: str | None = None
    sha256: str | None = None
    parameters: int | None = None
    model_type: str | None = None


@dataclass(frozen=True)
class MethodInfo:
    """What the method declares about itself."""

    name: str
    stores: str | bool | int | None = None
    needs_reference_data: bool | str | None = None
    needs_number_of_tasks: bool | str | None = None
    task_id_at_test: bool | str | None = None
    extra_inference: bool | str | float | None = None
    trainable_parameters: int | None = None


@dataclass(frozen=True)
class DataInfo:
    """Where one task's examples came from; `train` and `test` count examples, `classes` counts classes."""

    task: str
    source: str
    fingerprint: str
    train: int
    test: int
    classes: int


@dataclass(frozen=True)
class Tie:
    """Classes that share one prompt in the pooled label space."""

    prompt: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class TaskTiming:
    """Wall-clock seconds of one task."""

    name: str
    train_seconds: float | None = None
    merge_seconds: float | None = None
    score_seconds: float | None = None


@dataclass(frozen=True)
class Timing:
    """Wall-clock figures of a run; `started` and `finished` as written by the run."""

    started: str | None = None
    finished: str | None = None
    zero_shot_seconds: float | None = None
    tasks: tuple[TaskTiming, ...] = ()


@dataclass(frozen=True)
class Archived:
    """One archive/NN: what `reason` (append or revert) put aside; `tasks` were the run's tasks until then."""

    number: int
    reason: str
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """manifest.json: what ran, where, on what.

    `scored_among` are the tasks whose classes made up the pooled label space; after a revert these are more than
    the tasks of the run. `files` has the SHA-256 of every other file.
    """

    format: int
    status: Literal["finished", "unfinished"]
    seed: int
    base: BaseModelInfo
    method: MethodInfo
    data: tuple[DataInfo, ...]
    versions: dict[str, str] = field(default_factory=dict)
    machine: str | None = None
    device: str | None = None
    threads: int | None = None
    processes: int | None = None
    ties: tuple[Tie, ...] = ()
    timing: Timing = Timing()
    peak_memory_bytes: int | None = None
    rounding_loss: tuple[float | None, ...] = ()
    scored_among: tuple[str, ...] = ()
    archive: tuple[Archived, ...] = ()
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AccuracyTable:
    """accuracy.csv or accuracy_task.csv: percent, None where not scored. Rows may be fewer than tasks + 1."""

    tasks: tuple[str, ...]
    zero_shot: tuple[Score, ...] | None
    rows: tuple[tuple[Score, ...], ...]


@dataclass(frozen=True)
class MeasuredScore:
    """One score in percent with its binomial standard error in percentage points."""

    score: Score = None
    standard_error: float | None = None


@dataclass(frozen=True)
class TaskScores:
    """Before the stream, right after learning the task, at the end; None where the task was not scored."""

    examples: int | None = None
    zero_shot: MeasuredScore | None = None
    learned: MeasuredScore | None = None
    last: MeasuredScore | None = None


@dataclass(frozen=True, kw_only=True)
class StreamMetrics:
    """The summary figures of one accuracy matrix under their names in `codyra.metrics`; None: undefined."""

    transfer: Score = None
    average: Score = None
    last: Score = None
    overall_performance: Score = None
    learning_accuracy: Score = None
    forgetting_max: Score = None
    forgetting_diag: Score = None
    bwt: Score = None
    bwt_trace: Score = None
    bwt_clipped: Score = None
    lower_triangle_mean: Score = None
    zero_shot: Score = None


@dataclass(frozen=True, kw_only=True)
class RunMetrics(StreamMetrics):
    """metrics.json: the figures of both label spaces; the lists have one entry per task."""

    own_label_space: StreamMetrics | None = None
    update_norm: tuple[float | None, ...] = ()
    drift: tuple[float | None, ...] = ()
    mean_rank: tuple[float | None, ...] = ()
    survival_auc: tuple[float | None, ...] = ()
    trainable_parameters: int | None = None
    per_task: dict[str, TaskScores] = field(default_factory=dict)


@dataclass(frozen=True)
class ModuleUpdate:
    """One module's share of an update: ranks kept out of `r` (None when dense) and its Frobenius norm."""

    kept: int | None = None
    r: int | None = None
    norm: float | None = None


@dataclass(frozen=True)
class RankTable:
    """ranks.json of one task."""

    kind: str
    modules: dict[str, ModuleUpdate]
    no_change: bool = False
    survival_auc: float | None = None
    norm: float | None = None


@dataclass(frozen=True)
class TrainStep:
    """One logged training step; `kappa` is the proximal threshold, `kept` the mean surviving ranks."""

    step: int
    loss: float | None = None
    kappa: float | None = None
    kept: float | None = None


@dataclass(frozen=True)
class TaskView:
    """One folder under tasks/; `number` counts from 1, `ranks` is None while the task is unfinished."""

    number: int
    name: str
    ranks: RankTable | None
    steps: tuple[TrainStep, ...]


@dataclass(frozen=True)
class Sample:
    """One example shown to people: `image` holds the bytes of a PNG or JPEG file, or `text` is set."""

    label: str
    text: str | None = None
    image: bytes | None = None


@dataclass(frozen=True)
class TaskSamples:
    """A few examples of one task and its prompt."""

    task: str
    prompt: str
    examples: tuple[Sample, ...]


@dataclass(frozen=True)
class TaskLabels:
    """The classes of one task in label order, the prompt of each, and the template they come from."""

    name: str
    prompt: str
    classes: tuple[str, ...]
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class LabelSpace:
    """labels.json: every class of every task; `scored_in` is stream.label_space of the run."""

    scored_in: Literal["all", "task"]
    tasks: tuple[TaskLabels, ...]


@dataclass(frozen=True)
class RunView:
    """One run folder. `name` is the folder's own name; `config_text` is config.yaml as written."""

    name: str
    manifest: Manifest
    config: Mapping[str, Any]
    config_text: str
    accuracy: AccuracyTable
    accuracy_task: AccuracyTable | None
    metrics: RunMetrics | None
    tasks: tuple[TaskView, ...]
    samples: tuple[TaskSamples, ...]
    labels: LabelSpace | None

    @property
    def finished(self) -> bool:
        """True when every task of the stream was learnt and scored and the figures were summed up."""
        return self.metrics is not None and len(self.accuracy.rows) == len(self.accuracy.tasks)


def read_run(path: str | Path) -> RunView:
    """Read the run folder `path`.

    Raises:
        UserError: `path` is no run folder, or a file in it is missing or damaged; one line that names it.
    """
    folder = Path(path)
    if not (folder / "manifest.json").is_file():
        raise UserError(
            f"{folder} is no run folder (no manifest.json in it); give the folder that `codyra run` wrote"
        )
    content = read_json(folder / "manifest.json")
    if isinstance(content, dict) and content.get("format") != FORMAT:
        found = content.get("format")
        raise UserError(f"{folder} has run-folder format {found}, this codyra reads {FORMAT}; update codyra")
    manifest = _checked(Manifest, content, folder / "manifest.json")
    names = tuple(entry.task for entry in manifest.data)

    accuracy = _read_accuracy(folder / "accuracy.csv", names)
    metrics_file = folder / "metrics.json"
    metrics = _checked(RunMetrics, read_json(metrics_file), metrics_file) if metrics_file.is_file() else None
    if manifest.status == "finished":
        for file, present in (("accuracy.csv", accuracy is not None), ("metrics.json", metrics is not None)):
            if not present:
                damaged(folder / file, "missing although the run is marked finished")
    config, config_text = _read_config(folder / "config.yaml")
    return RunView(
        name=folder.resolve().name,
        manifest=manifest,
        config=config,
        config_text=config_text,
        accuracy=accuracy or AccuracyTable(tasks=names, zero_shot=None, rows=()),
        accuracy_task=_read_accuracy(folder / "accuracy_task.csv", names),
        metrics=metrics,
        tasks=_read_tasks(folder / "tasks", names),
        samples=_read_samples(folder),
        labels=_read_labels(folder / "labels.json", names),
    )


def _checked(kind: type[T], content: Any, file: Path) -> T:
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        damaged(file, f"{where}: {first['msg']}")


def _read_config(file: Path) -> tuple[Mapping[str, Any], str]:
    text = read_text(file)
    try:
        config = parse_yaml(text)
    except ValueError as error:
        damaged(file, f"not YAML ({error})")
    if not isinstance(config, dict):
        damaged(file, "not a mapping")
    return config, text


def _read_accuracy(file: Path, names: Sequence[str]) -> AccuracyTable | None:
    """The table, or None when there is no such file. Its tasks must be those of the manifest, in order."""
    if not file.is_file():
        return None
    try:
        header, *lines = list(csv.reader(io.StringIO(read_text(file), newline=""))) or [[]]
    except csv.Error as error:
        damaged(file, f"not CSV ({error})")
    if header != ["after", *names]:
        damaged(file, "its header does not name the tasks of manifest.json in their order")
    labels, rows = [], []
    for line in lines:
        if len(line) != len(header):
            damaged(file, f"a row has {len(line)} cells, the header {len(header)}")
        labels.append(line[0])
        try:
            rows.append(tuple(_score(cell) for cell in line[1:]))
        except ValueError as error:
            damaged(file, f"row {line[0]!r}: {error}")
    # By position, because a task may itself be called zero-shot.
    if labels != ["zero-shot", *names][: len(labels)]:
        damaged(file, "its rows are not zero-shot and then the learnt tasks in their order")
    return AccuracyTable(tasks=tuple(names), zero_shot=rows[0] if rows else None, rows=tuple(rows[1:]))


def _score(cell: str) -> Score:
    if cell == "":
        return None
    score = float(cell)
    if not math.isfinite(score):
        raise ValueError(f"{cell} is not a finite score")
    return score


def _read_tasks(directory: Path, names: Sequence[str]) -> tuple[TaskView, ...]:
    tasks = {}
    for folder in directory.glob("[0-9]*-*"):
        found = re.match(r"\d+", folder.name)
        assert found is not None
        number = int(found.group())
        if not 1 <= number <= len(names) or number in tasks:
            damaged(folder, f"manifest.json lists {len(names)} tasks, and each has one folder")
        ranks_file = folder / "ranks.json"
        tasks[number] = TaskView(
            number=number,
            name=names[number - 1],
            ranks=_checked(RankTable, read_json(ranks_file), ranks_file) if ranks_file.is_file() else None,
            steps=_read_steps(folder / "train.jsonl", complete=ranks_file.is_file()),
        )
    return tuple(tasks[number] for number in sorted(tasks))


def _read_steps(file: Path, *, complete: bool) -> tuple[TrainStep, ...]:
    """The log of one task. The last line of an unfinished task may be half written; it is left out then."""
    if not file.is_file():
        return ()
    text = read_text(file)
    lines = text.splitlines()
    if not complete and lines and not text.endswith("\n"):
        lines.pop()
    return _checked(tuple[TrainStep, ...], [parse_json(line, file) for line in lines], file)


@dataclass(frozen=True)
class _StoredExample:
    label: str
    text: str | None = None
    image: str | None = None


@dataclass(frozen=True)
class _StoredSamples:
    task: str
    prompt: str
    examples: tuple[_StoredExample, ...]


def _read_samples(folder: Path) -> tuple[TaskSamples, ...]:
    file = folder / "samples.json"
    if not file.is_file():
        return ()
    stored = _checked(tuple[_StoredSamples, ...], read_json(file), file)
    return tuple(
        TaskSamples(
            task=entry.task,
            prompt=entry.prompt,
            examples=tuple(
                Sample(label=one.label, text=one.text, image=_read_image(folder, one.image))
                for one in entry.examples
            ),
        )
        for entry in stored
    )


def _read_labels(file: Path, names: Sequence[str]) -> LabelSpace | None:
    """The classes of all tasks, None when the run stopped before it wrote them."""
    if not file.is_file():
        return None
    labels = _checked(LabelSpace, read_json(file), file)
    if [task.name for task in labels.tasks] != list(names):
        damaged(file, "its tasks are not those of manifest.json in their order")
    for task in labels.tasks:
        if not task.classes or len(task.classes) != len(task.prompts):
            damaged(file, f"task {task.name} has {len(task.classes)} classes and {len(task.prompts)} prompts")
    return labels


def _read_image(folder: Path, name: str | None) -> bytes | None:
    """The bytes of a sample picture. A report is passed on: nothing from outside the run folder gets in."""
    if name is None:
        return None
    file = within(folder, name)
    content = read_bytes(file, MAX_SAMPLE_BYTES)
    if not content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        damaged(file, "neither PNG nor JPEG")
    return content
