"""A read-only view of a run folder: all that a report or a listing shows, checked once, nothing written.

`read_run(path)` returns a `RunView`. An unfinished run is a normal thing to read: it has fewer rows, fewer
tasks and no metrics. A file that is there and cannot be understood is a `UserError` that names it.
"""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field

from codyra.errors import UserError
from codyra.naming import check_distinct, check_task_name, task_folder
from codyra.reading import (
    MAX_YAML_BYTES,
    checked,
    damaged,
    parse_json,
    parse_yaml,
    read_bytes,
    read_json,
    read_text,
    within,
)

FORMAT = 1
PENDING = "pending.json"
MAX_SAMPLE_BYTES = 1_000_000
"""Largest thumbnail; a report carries them all."""
MAX_TASKS = 1000
MAX_STEPS = 1_000_000
"""Logged steps of one task."""
MAX_FIGURE = 1e30
"""What no measured figure exceeds; larger ones overflow when a report adds them up."""

Figure = Annotated[float, Field(ge=-MAX_FIGURE, le=MAX_FIGURE, allow_inf_nan=False)]
Size = Annotated[float, Field(ge=0, le=MAX_FIGURE, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=10**18)]
TaskName = Annotated[str, AfterValidator(check_task_name)]
ModuleName = Annotated[str, Field(max_length=200)]
PerTask = Field(max_length=MAX_TASKS)
Score = Figure | None
T = TypeVar("T")


@dataclass(frozen=True)
class BaseModelInfo:
    """The pre-trained model that the run started from."""

    name: str
    revision: str | None = None
    sha256: str | None = None
    parameters: Count | None = None
    model_type: str | None = None
    modality: Literal["image", "text", "answers"] | None = None
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReferenceInfo:
    """Texts or images that the user supplied to a method that needs some."""

    fingerprint: str


@dataclass(frozen=True)
class MethodInfo:
    """What the method declares about itself."""

    name: str
    stores: str | bool | Count | None = None
    needs_reference_data: bool | str | None = None
    needs_number_of_tasks: bool | str | None = None
    task_id_at_test: bool | str | None = None
    extra_inference: bool | str | Figure | None = None
    trainable_parameters: Count | None = None


@dataclass(frozen=True)
class DataInfo:
    """Where one task's examples came from; `train` and `test` count examples, `classes` counts classes.

    `metric` is what answers are scored by, a name in `codyra.text_metrics`; None for a task of classes.
    """

    task: TaskName
    source: str
    fingerprint: str
    train: Count
    test: Count
    classes: Count
    metric: str | None = None


@dataclass(frozen=True)
class BenchmarkInfo:
    """The published protocol that the stream of a run comes from.

    `tasks` are all data sets of the benchmark in order, `shots` the training images per class (None: all of them),
    `variant` the training records per task that name a version of its data. `model` is the run's where there are
    published rows of it, else None.
    `marks` say, one line each, what in this run is not the protocol; with none its figures may stand beside others'.
    """

    name: str
    title: str
    order: Count
    shots: Count | None
    prompts: str
    label_space: Literal["all", "task"]
    tasks: Annotated[tuple[TaskName, ...], PerTask]
    marks: tuple[str, ...] = ()
    variant: Count | None = None
    model: str | None = None

    @property
    def caveat(self) -> str | None:
        """One sentence with all marks; None when there are none."""
        return f"Not {self.title} as published: {'; '.join(self.marks)}." if self.marks else None


@dataclass(frozen=True)
class Tie:
    """Classes that share one prompt in the pooled label space."""

    prompt: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class TaskTiming:
    """Wall-clock seconds of one task; `method_seconds` are of what a method does before its first step and after its
    last one, such as a pass over the data, and None in runs of before this was measured."""

    name: str
    train_seconds: Size | None = None
    method_seconds: Size | None = None
    merge_seconds: Size | None = None
    score_seconds: Size | None = None


@dataclass(frozen=True)
class Timing:
    """Wall-clock figures of a run; `started` and `finished` as written by the run."""

    started: str | None = None
    finished: str | None = None
    zero_shot_seconds: Size | None = None
    tasks: Annotated[tuple[TaskTiming, ...], PerTask] = ()


@dataclass(frozen=True)
class Archived:
    """One archive/NN: what `reason` (append or revert) put aside; `tasks` were the run's tasks until then."""

    number: Annotated[int, Field(ge=1, le=MAX_TASKS)]
    reason: Literal["append", "revert"]
    tasks: Annotated[tuple[TaskName, ...], PerTask]


@dataclass(frozen=True)
class PendingRevert:
    """pending.json: the task to go back to and the number of the archive."""

    to: Annotated[int, Field(ge=1, le=MAX_TASKS)]
    archive: Annotated[int, Field(ge=1, le=MAX_TASKS)]


@dataclass(frozen=True)
class Session:
    """One stretch of work on a run, from start or continuation to whatever ended it."""

    started: str
    machine: str
    device: str
    threads: Count
    processes: Count
    versions: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """manifest.json: what ran, where, on what.

    `scored_among` are the tasks whose classes made up the pooled label space; after a revert these are more than
    the tasks of the run. `benchmark` is None for a stream of one's own.
    """

    format: int
    status: Literal["finished", "unfinished"]
    seed: Count
    base: BaseModelInfo
    method: MethodInfo
    data: Annotated[tuple[DataInfo, ...], Field(min_length=1, max_length=MAX_TASKS)]
    versions: dict[str, str] = field(default_factory=dict)
    machine: str | None = None
    device: str | None = None
    threads: Count | None = None
    processes: Count | None = None
    ties: tuple[Tie, ...] = ()
    timing: Timing = Timing()
    peak_memory_bytes: Count | None = None
    rounding_loss: Annotated[tuple[Score, ...], PerTask] = ()
    scored_among: Annotated[tuple[TaskName, ...], PerTask] = ()
    archive: Annotated[tuple[Archived, ...], PerTask] = ()
    benchmark: BenchmarkInfo | None = None
    reference: dict[Literal["texts", "images"], ReferenceInfo] | None = None
    sessions: tuple[Session, ...] = ()

    @property
    def of_answers(self) -> bool:
        """True when the tasks are prompts to be answered, each scored by its own metric and without classes."""
        return self.base.modality == "answers"


@dataclass(frozen=True)
class AccuracyTable:
    """accuracy.csv or accuracy_task.csv: percent, None where not scored. Rows may be fewer than tasks + 1."""

    tasks: tuple[str, ...]
    zero_shot: tuple[Score, ...] | None
    rows: tuple[tuple[Score, ...], ...]


@dataclass(frozen=True)
class MeasuredScore:
    """One score in percent with its standard error in percentage points, binomial for a task of classes."""

    score: Score = None
    standard_error: Score = None


@dataclass(frozen=True)
class TaskScores:
    """Before the stream, right after learning the task, at the end; None where the task was not scored.

    Of the answers at the end, `metric` is what they are scored by, `cut` counts prompts that were longer than
    allowed, `unfinished` answers that had not ended when they were as long as allowed.
    """

    examples: Count | None = None
    metric: str | None = None
    cut: Count | None = None
    unfinished: Count | None = None
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
    update_norm: Annotated[tuple[Score, ...], PerTask] = ()
    drift: Annotated[tuple[Score, ...], PerTask] = ()
    mean_rank: Annotated[tuple[Score, ...], PerTask] = ()
    survival_auc: Annotated[tuple[Score, ...], PerTask] = ()
    trainable_parameters: Count | None = None
    memory_bytes: Annotated[tuple[Count, ...], PerTask] = ()
    extra_parameters: Annotated[tuple[Count, ...], PerTask] = ()
    per_task: dict[str, TaskScores] = field(default_factory=dict)


@dataclass(frozen=True)
class ModuleUpdate:
    """One module's share of an update: ranks kept out of `r` (None when dense) and its Frobenius norm."""

    kept: Count | None = None
    r: Count | None = None
    norm: Size | None = None


@dataclass(frozen=True)
class HeadInfo:
    """A classifier beside the network: the classes it knows, and the numbers that scoring reads."""

    classes: Count
    parameters: Count


@dataclass(frozen=True)
class RankTable:
    """ranks.json of one task; `head` where the task left one behind."""

    kind: str
    modules: dict[ModuleName, ModuleUpdate]
    no_change: bool = False
    survival_auc: Score = None
    norm: Size | None = None
    head: HeadInfo | None = None


@dataclass(frozen=True)
class TrainStep:
    """One logged training step.

    `examples` is the size of its batch, `kappa` the proximal threshold, `kept` the mean of surviving ranks.
    """

    step: Count
    examples: Count = 0
    loss: Score = None
    kappa: Score = None
    kept: Score = None


@dataclass(frozen=True)
class GuardVerdict:
    """guard.json of one task: scores on the held-out set in percent, and what the update was multiplied by."""

    before: Figure
    candidate: Figure
    after: Figure
    tolerance: Size
    factor: Annotated[float, Field(ge=0, le=1)]
    accepted: bool


@dataclass(frozen=True)
class TaskView:
    """One task that was begun; `number` counts from 1, `ranks` is None while it is unfinished."""

    number: int
    name: str
    ranks: RankTable | None
    steps: tuple[TrainStep, ...]
    guard: GuardVerdict | None


@dataclass(frozen=True)
class Sample:
    """One example shown to people: its text, or the bytes of a PNG or JPEG file; neither when the file is gone."""

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
    """The classes of one task in label order, the prompt of each, and the template they come from.

    `scored_prompts` holds for each class the prompts that score together; () when those of `prompts` score alone.
    """

    name: str
    prompt: str
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    scored_prompts: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class LabelSpace:
    """labels.json: every class of every task; `scored_in` is stream.label_space of the run."""

    scored_in: Literal["all", "task"]
    tasks: tuple[TaskLabels, ...]


@dataclass(frozen=True)
class AnswerRules:
    """How prompts become tokens and how they are answered, for all tasks of a run; docs/config.md, `stream`."""

    max_prompt_tokens: Annotated[int, Field(ge=1)]
    max_answer_tokens: Annotated[int, Field(ge=1)]
    truncation: Literal["keep_instruction", "treelora"]
    generation: Literal["greedy", "treelora", "likelihood"]
    chat_template: bool


@dataclass(frozen=True)
class TaskAnswers:
    """How one task is answered and scored: the template of its prompts, what of them is never cut (head, tail)."""

    name: str
    prompt: str
    metric: str
    choices: tuple[str, ...]
    max_new_tokens: Annotated[int, Field(ge=1)]
    frame: tuple[str, str]


@dataclass(frozen=True)
class AnswerSpace:
    """answers.json: what labels.json is to classes."""

    settings: AnswerRules
    tasks: tuple[TaskAnswers, ...]


@dataclass(frozen=True)
class HarnessScore:
    """A figure as lm-evaluation-harness gives it, in its own unit; None where it gives no number."""

    value: Score = None
    standard_error: Size | None = None


@dataclass(frozen=True)
class HarnessState:
    """The figures of the model after so many tasks of the run (0: the base model), by metric."""

    after: Annotated[int, Field(ge=0, le=MAX_TASKS)]
    scores: dict[str, HarnessScore]


@dataclass(frozen=True)
class HarnessResult:
    """One task of lm-evaluation-harness, always asked in the same way.

    Attributes:
        version, harness: of the task and of lm-evaluation-harness.
        fingerprint: SHA-256 over the task's definition and test examples.
        num_fewshot, limit: as asked for; None leaves the former to the task and takes all examples.
        examples: how many were scored.
        higher_is_better: by metric; None where the harness does not say.
        states: ascending.
    """

    task: str
    version: str
    harness: str
    fingerprint: str
    num_fewshot: Count | None
    limit: Count | None
    examples: Count
    higher_is_better: dict[str, bool | None] = field(default_factory=dict)
    states: Annotated[tuple[HarnessState, ...], PerTask] = ()


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
    answers: AnswerSpace | None = None
    harness: tuple[HarnessResult, ...] = ()

    @property
    def taken_back(self) -> tuple[str, ...]:
        """Tasks that are no longer in the run, but whose classes were in the label space when it was scored."""
        if self.manifest.of_answers:
            return ()
        return tuple(name for name in self.manifest.scored_among if name not in self.accuracy.tasks)

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
    manifest = read_manifest(folder)
    names = tuple(entry.task for entry in manifest.data)
    metrics_file = _file(folder, "metrics.json")
    config, config_text = read_config(within(folder, "config.yaml"))
    view = RunView(
        name=os.fsencode(folder.resolve().name).decode("utf-8", "replace"),
        manifest=manifest,
        config=config,
        config_text=config_text,
        accuracy=_read_accuracy(folder, "accuracy.csv", names) or AccuracyTable(names, None, ()),
        accuracy_task=_read_accuracy(folder, "accuracy_task.csv", names),
        metrics=checked(RunMetrics, read_json(metrics_file), metrics_file) if metrics_file else None,
        tasks=_read_tasks(folder, names),
        samples=_read_samples(folder),
        labels=_read_labels(folder, names),
        answers=_read_answers(folder, names),
        harness=_read_harness(folder, len(names)),
    )
    if manifest.status == "finished":
        _check_complete(folder, view)
    return view


def read_manifest(folder: Path) -> Manifest:
    """manifest.json of a run folder.

    Raises:
        UserError: `folder` is no run folder, or the file is damaged.
    """
    file = _file(folder, "manifest.json")
    if file is None:
        raise UserError(
            f"{folder} is no run folder (no manifest.json in it); give the folder that `codyra run` wrote"
        )
    return _read_manifest(file)


def pending_revert(folder: Path) -> PendingRevert | None:
    """The revert that was interrupted in this run folder; None where there is none.

    Raises:
        UserError: its file is damaged.
    """
    file = _file(folder, PENDING)
    return checked(PendingRevert, read_json(file), file) if file else None


def check_not_pending(folder: Path) -> None:
    """Raise UserError when a revert was interrupted; its own command finishes it."""
    if pending := pending_revert(folder):
        raise UserError(
            f"{folder}: a revert was interrupted; finish it with: codyra revert {folder} --to {pending.to}"
        )


def _file(folder: Path, name: str) -> Path | None:
    """A file of the run folder, None where nothing has that name."""
    file = within(folder, name)
    return file if os.path.lexists(file) else None


def _check_complete(folder: Path, view: RunView) -> None:
    names = view.accuracy.tasks
    if view.metrics is None:
        damaged(folder / "metrics.json", "missing although the run is marked finished")
    if len(view.accuracy.rows) < len(names):
        damaged(folder / "accuracy.csv", "rows are missing although the run is marked finished")
    for task_index, name in enumerate(names):
        if task_index >= len(view.tasks) or view.tasks[task_index].ranks is None:
            file = folder / "tasks" / task_folder(task_index, name) / "ranks.json"
            damaged(file, "missing although the run is marked finished")


def _read_manifest(file: Path) -> Manifest:
    content = read_json(file)
    if isinstance(content, dict) and content.get("format") != FORMAT:
        found = content.get("format")
        raise UserError(f"{file} has run-folder format {found!r}, this codyra reads {FORMAT}; update codyra")
    manifest = checked(Manifest, content, file)
    try:
        check_distinct(entry.task for entry in manifest.data)
    except UserError as error:
        damaged(file, str(error))
    return manifest


def read_config(file: Path) -> tuple[Mapping[str, Any], str]:
    """config.yaml of a run folder, parsed and as it is written.

    Raises:
        UserError: it is missing or damaged.
    """
    text = read_text(file, MAX_YAML_BYTES)
    try:
        config = parse_yaml(text)
    except ValueError as error:
        damaged(file, f"not YAML ({error})")
    if not isinstance(config, dict):
        damaged(file, "not a mapping")
    return config, text


def _read_accuracy(folder: Path, name: str, names: Sequence[str]) -> AccuracyTable | None:
    """The table, or None when there is no such file. Its tasks must be those of the manifest, in order."""
    file = _file(folder, name)
    if file is None:
        return None
    rows = []
    try:
        lines = csv.reader(io.StringIO(read_text(file), newline=""))
        if next(lines, []) != ["after", *names]:
            damaged(file, "its header does not name the tasks of manifest.json in their order")
        # By position, because there may be fewer rows than tasks.
        for after, line in zip(["zero-shot", *names], lines, strict=False):
            rows.append(_read_row(file, after, line, len(names)))
        if next(lines, None) is not None:
            damaged(file, "it has more rows than the run has tasks")
    except csv.Error as error:
        damaged(file, f"not CSV ({error})")
    return AccuracyTable(tasks=tuple(names), zero_shot=rows[0] if rows else None, rows=tuple(rows[1:]))


def _read_row(file: Path, after: str, line: Sequence[str], num_tasks: int) -> tuple[Score, ...]:
    if not line or line[0] != after:
        damaged(file, "its rows are not zero-shot and then the learnt tasks in their order")
    if len(line) != num_tasks + 1:
        damaged(file, f"row {after!r} has {len(line)} cells, the header {num_tasks + 1}")
    try:
        return tuple(_score(cell) for cell in line[1:])
    except ValueError as error:
        damaged(file, f"row {after!r}: {error}")


def _score(cell: str) -> Score:
    if cell == "":
        return None
    score = float(cell)
    if not abs(score) <= MAX_FIGURE:
        raise ValueError(f"{cell} is no score")
    return score


def _read_tasks(folder: Path, names: Sequence[str]) -> tuple[TaskView, ...]:
    """The tasks that were begun. Tasks are learnt in order; other folders are none of the run's."""
    tasks = []
    for task_index, name in enumerate(names):
        directory = Path("tasks") / task_folder(task_index, name)
        if not os.path.isdir(within(folder, directory)):
            break
        ranks_file, log, guard = (
            _file(folder, str(directory / file)) for file in ("ranks.json", "train.jsonl", "guard.json")
        )
        tasks.append(
            TaskView(
                number=task_index + 1,
                name=name,
                ranks=checked(RankTable, read_json(ranks_file), ranks_file) if ranks_file else None,
                steps=_read_steps(log, complete=ranks_file is not None) if log else (),
                guard=checked(GuardVerdict, read_json(guard), guard) if guard else None,
            )
        )
    return tuple(tasks)


def _read_steps(file: Path, *, complete: bool) -> tuple[TrainStep, ...]:
    """The log of one task. The last line of an unfinished task may be half written; it is left out then."""
    text = read_text(file)
    if text.count("\n") > MAX_STEPS:
        damaged(file, f"more than {MAX_STEPS} steps")
    *lines, last = text.split("\n")
    if last and complete:
        lines.append(last)
    return checked(tuple[TrainStep, ...], [parse_json(line, file) for line in lines], file)


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
    file = _file(folder, "samples.json")
    if file is None:
        return ()
    stored = checked(tuple[_StoredSamples, ...], read_json(file), file)
    pictures = {one.image for entry in stored for one in entry.examples if one.image is not None}
    images = {name: _read_image(folder, name) for name in pictures}
    return tuple(
        TaskSamples(
            task=entry.task,
            prompt=entry.prompt,
            examples=tuple(
                Sample(label=one.label, text=one.text, image=images.get(one.image or ""))
                for one in entry.examples
            ),
        )
        for entry in stored
    )


def _read_image(folder: Path, name: str) -> bytes | None:
    """The bytes of a sample picture. A report is passed on: nothing from outside the run folder gets in."""
    file = _file(folder, name)
    if file is None:
        return None
    content = read_bytes(file, MAX_SAMPLE_BYTES)
    if not content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        damaged(file, "neither PNG nor JPEG")
    return content


def _read_answers(folder: Path, names: Sequence[str]) -> AnswerSpace | None:
    """How all tasks are answered, None for a run of classes and one that stopped before it wrote this."""
    file = _file(folder, "answers.json")
    if file is None:
        return None
    answers = checked(AnswerSpace, read_json(file), file)
    if [task.name for task in answers.tasks] != list(names):
        damaged(file, "its tasks are not those of manifest.json in their order")
    return answers


def _read_harness(folder: Path, num_tasks: int) -> tuple[HarnessResult, ...]:
    """What lm-evaluation-harness measured on states of the run."""
    file = _file(folder, "harness.json")
    if file is None:
        return ()
    results = checked(tuple[HarnessResult, ...], read_json(file), file)
    for result in results:
        numbers = [state.after for state in result.states]
        if not numbers or numbers != sorted(set(numbers)) or numbers[-1] > num_tasks:
            damaged(
                file, f"the states of {result.task!r} are not those of a run of {num_tasks} tasks, in order"
            )
    return results


def _read_labels(folder: Path, names: Sequence[str]) -> LabelSpace | None:
    """The classes of all tasks, None when the run stopped before it wrote them."""
    file = _file(folder, "labels.json")
    if file is None:
        return None
    labels = checked(LabelSpace, read_json(file), file)
    if [task.name for task in labels.tasks] != list(names):
        damaged(file, "its tasks are not those of manifest.json in their order")
    for task in labels.tasks:
        if not task.classes or len(task.classes) != len(task.prompts):
            damaged(file, f"task {task.name} has {len(task.classes)} classes and {len(task.prompts)} prompts")
        if task.scored_prompts and [*map(bool, task.scored_prompts)] != [True] * len(task.classes):
            damaged(file, f"task {task.name} has not one or more scored prompts for each class")
    return labels
