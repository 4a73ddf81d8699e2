"""Which runs stand side by side: a label and a line style for each, and groups that may be compared."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from codyra.engine.folder_reader import RunView
from codyra.report.charts import NUM_STYLES, line_key
from codyra.report.markup import Markup, join, tag

_SCORING = (
    "label_space", "ties", "only", "score_split",
    "truncation", "generation", "accuracy", "max_prompt_tokens", "max_answer_tokens", "chat_template",
)  # fmt: skip
_SCORING_OF_A_TASK = ("prompt", "classes", "metric", "choices", "max_new_tokens", "frame")
"""Keys under `stream` and under each of its tasks that say how a run is scored."""


@dataclass(frozen=True)
class LabelledRun:
    """A run with the name the page gives it, unique on the page, and its line style."""

    view: RunView
    label: str
    style: int

    @property
    def heading(self) -> Markup:
        """The label behind a sample of the run's line."""
        return join([line_key(self.label, self.style), tag("span", self.label)])

    @property
    def num_learned(self) -> int:
        """Tasks that were learnt and scored."""
        return len(self.view.accuracy.rows)

    def setting(self, section: str, key: str) -> Any:
        """A value of config.yaml, None where it has none."""
        part = self.view.config.get(section)
        return part.get(key) if isinstance(part, dict) else None

    @property
    def trains(self) -> bool:
        """False for a method without gradient steps."""
        return self.view.manifest.method.trainable_parameters != 0

    @property
    def learns(self) -> bool:
        """False for a reference such as zero-shot, which changes nothing and so forgets nothing."""
        return self.trains or any(task.ranks is not None and task.ranks.head for task in self.view.tasks)

    @property
    def incomplete(self) -> str | None:
        """In words, why this run is not a whole stream; None when it is."""
        num_tasks = len(self.view.accuracy.tasks)
        reasons = []
        if not self.view.finished:
            reasons.append(f"unfinished: {self.num_learned} of {num_tasks} tasks learnt")
        if self.setting("stream", "only") is not None:
            reasons.append(f"partial stream: only {_words(self.setting('stream', 'only'))}")
        if self.view.taken_back:
            reasons.append(
                f"scored among the classes of {_words(list(self.view.taken_back))} too, which were taken back"
            )
        return "; ".join(reasons) or None

    @property
    def pooled(self) -> bool:
        """True when a score is taken among the classes of all tasks."""
        return not self.view.manifest.of_answers and self.setting("stream", "label_space") != "task"

    @property
    def epochs(self) -> str | None:
        """Epochs of each task, as 2/1/3, or of all of them; None where the budget is in steps."""
        epochs = self.setting("train", "epochs")
        if not isinstance(epochs, dict):
            return None if epochs is None else _plain(epochs)
        return "/".join(_plain(epochs.get(name, epochs.get("others"))) for name in self.view.accuracy.tasks)


def label_runs(views: Sequence[RunView]) -> list[LabelledRun]:
    """The method's name where that tells runs apart, else the folder's too, else a number as well."""
    methods = Counter(view.manifest.method.name for view in views)
    labels = []
    for view in views:
        method = view.manifest.method.name
        if methods[method] > 1:
            labels.append(view.name if method in view.name else f"{method} ({view.name})")
        else:
            labels.append(method)
    repeated, seen = Counter(labels), Counter[str]()
    runs = []
    for index, (view, label) in enumerate(zip(views, labels, strict=True)):
        seen[label] += 1
        unique = label if repeated[label] == 1 else f"{label} no. {seen[label]}"
        runs.append(LabelledRun(view, unique, index % NUM_STYLES))
    return runs


def comparable_groups(runs: Sequence[LabelledRun]) -> list[list[LabelledRun]]:
    """Runs over the same tasks and data in the same order, scored alike, with the same distance from a benchmark;
    only these are compared."""
    groups: dict[str, list[LabelledRun]] = {}
    for run in runs:
        data = [
            (entry.task, entry.fingerprint, entry.test, entry.classes, entry.metric)
            for entry in run.view.manifest.data
        ]
        rules = [run.setting("stream", key) for key in _SCORING]
        listed = run.setting("stream", "tasks")
        tasks = [task for task in listed if isinstance(task, dict)] if isinstance(listed, list) else []
        wording = [[task.get(key) for key in _SCORING_OF_A_TASK] for task in tasks]
        benchmark = run.view.manifest.benchmark
        groups.setdefault(repr((data, rules, wording, run.view.taken_back, benchmark)), []).append(run)
    return list(groups.values())


def differences(group: Sequence[LabelledRun]) -> list[str]:
    """What, beside the method, is not the same for all runs of a group."""
    compared: list[tuple[str, Callable[[LabelledRun], Any]]] = [
        ("base model", lambda run: (run.view.manifest.base.name, run.view.manifest.base.sha256)),
        ("training examples", lambda run: [entry.train for entry in run.view.manifest.data]),
        ("seed", lambda run: run.view.manifest.seed),
    ]
    of_steps: list[tuple[str, Callable[[LabelledRun], Any]]] = [
        ("steps per task", lambda run: (run.setting("train", "steps"), run.setting("train", "epochs"))),
        ("batch size", lambda run: run.setting("train", "batch_size")),
        ("learning rate", lambda run: run.setting("train", "lr")),
    ]
    found = []
    for runs, values in ((group, compared), ([run for run in group if run.trains], of_steps)):
        found += [name for name, value in values if any(value(run) != value(runs[0]) for run in runs)]
    return found


def legend(group: Sequence[LabelledRun]) -> Markup:
    """The lines of a group of charts and whose they are."""
    return tag("p", *(tag("span", run.heading, class_="run-name") for run in group), class_="legend")


def _plain(number: Any) -> str:
    """2 for 2.0."""
    return f"{number:g}" if isinstance(number, float) else str(number)


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
