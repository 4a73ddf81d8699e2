"""What ran: model, method, data, machine, versions, time, memory, configuration."""

from collections.abc import Callable, Sequence

from codyra.engine.folder_reader import RunView
from codyra.report.markup import Markup, folded, join, scroll_box, tag
from codyra.report.numbers import DASH, count, duration, memory, yes_no
from codyra.report.runs import LabelledRun
from codyra.report.scoring import metric_title

Row = tuple[str, list[str]]


def run_overview(runs: Sequence[LabelledRun]) -> Markup:
    """The runs of the page, one line each."""
    head = ("Run", "Base model", "Seed", "Tasks learnt", "Steps per task", "Trainable parameters", "State")
    rows = []
    for run in runs:
        manifest, state = run.view.manifest, run.incomplete
        cells = (
            _short_name(manifest.base.name),
            str(manifest.seed),
            f"{run.num_learned} of {len(run.view.accuracy.tasks)}",
            _steps(run),
            count(manifest.method.trainable_parameters),
        )
        rows.append(
            tag(
                "tr",
                tag("th", run.heading, scope="row", class_="run"),
                *(tag("td", cell) for cell in cells),
                tag("td", tag("span", state or "finished", class_="state open" if state else "state")),
            )
        )
    table = tag(
        "table",
        tag("caption", "The runs on this page"),
        tag("thead", tag("tr", *(tag("th", name, scope="col") for name in head))),
        tag("tbody", *rows),
        class_="plain",
    )
    return scroll_box(table, "The runs on this page")


def what_ran(runs: Sequence[LabelledRun], times: bool) -> Markup:
    """The manifest of every run side by side; a value that all share is printed once."""
    once = "A value that stands there once is the same for all runs."
    parts = [
        tag("p", once, class_="note") if len(runs) > 1 else Markup(),
        _side_by_side("Model and method", runs, _method_rows(runs)),
        _side_by_side("Machine and versions", runs, _machine_rows(runs)),
        _side_by_side("Time and memory", runs, _time_rows(runs)) if times else Markup(),
        tag("h3", "Data"),
    ]
    seen: list[object] = []
    for run in runs:
        if run.view.manifest.data not in seen:
            seen.append(run.view.manifest.data)
            parts.append(_data_table(run.view))
    parts.append(_ties(runs))
    parts.append(tag("h3", "Configuration"))
    parts += [folded(f"config.yaml of {run.label}", tag("pre", run.view.config_text)) for run in runs]
    return join(parts)


def _short_name(base: str) -> str:
    """A hub id as it is, a directory by its last two parts; What ran prints the whole."""
    return "/".join(base.replace("\\", "/").rstrip("/").split("/")[-2:])


def _steps(run: LabelledRun) -> str:
    steps = run.setting("train", "steps")
    if steps is None and run.epochs is not None:
        return f"{run.epochs} epochs"
    return count(steps) if isinstance(steps, int) else DASH


def _rows(
    runs: Sequence[LabelledRun], values: Sequence[tuple[str, Callable[[LabelledRun], str]]]
) -> list[Row]:
    return [(name, [value(run) for run in runs]) for name, value in values]


def _method_rows(runs: Sequence[LabelledRun]) -> list[Row]:
    return _rows(
        runs,
        (
            ("base model", lambda run: run.view.manifest.base.name),
            ("revision", lambda run: run.view.manifest.base.revision or DASH),
            ("SHA-256 of its weights", lambda run: run.view.manifest.base.sha256 or DASH),
            ("model type", lambda run: run.view.manifest.base.model_type or DASH),
            ("parameters", lambda run: count(run.view.manifest.base.parameters)),
            ("quantised while learning and scoring", lambda run: yes_no(run.setting("model", "quantize"))),
            ("method", lambda run: run.view.manifest.method.name),
            ("trainable parameters", lambda run: count(run.view.manifest.method.trainable_parameters)),
            ("stores between tasks", lambda run: yes_no(run.view.manifest.method.stores)),
            ("needs reference data", lambda run: yes_no(run.view.manifest.method.needs_reference_data)),
            ("needs the number of tasks", lambda run: yes_no(run.view.manifest.method.needs_number_of_tasks)),
            (
                "needs the task's name at test time",
                lambda run: yes_no(run.view.manifest.method.task_id_at_test),
            ),
            ("extra work at inference", lambda run: yes_no(run.view.manifest.method.extra_inference)),
            ("steps per task", _steps),
            ("batch size", lambda run: yes_no(run.setting("train", "batch_size"))),
            ("learning rate", lambda run: yes_no(run.setting("train", "lr"))),
            ("seed", lambda run: str(run.view.manifest.seed)),
        ),
    )


def _machine_rows(runs: Sequence[LabelledRun]) -> list[Row]:
    packages = dict.fromkeys(name for run in runs for name in run.view.manifest.versions)
    return [
        *_rows(
            runs,
            (
                ("machine", lambda run: run.view.manifest.machine or DASH),
                ("device", lambda run: run.view.manifest.device or DASH),
                ("threads", lambda run: count(run.view.manifest.threads)),
                ("processes", lambda run: count(run.view.manifest.processes)),
            ),
        ),
        *((name, [run.view.manifest.versions.get(name, DASH) for run in runs]) for name in packages),
    ]


def _time_rows(runs: Sequence[LabelledRun]) -> list[Row]:
    def total(run: LabelledRun, key: str) -> str:
        seconds = [getattr(task, key) for task in run.view.manifest.timing.tasks]
        known = [one for one in seconds if one is not None]
        return duration(sum(known)) if known else DASH

    rows = _rows(
        runs,
        (
            ("started", lambda run: run.view.manifest.timing.started or DASH),
            ("finished", lambda run: run.view.manifest.timing.finished or DASH),
            ("zero-shot scoring", lambda run: duration(run.view.manifest.timing.zero_shot_seconds)),
            ("training, all tasks", lambda run: total(run, "train_seconds")),
            ("the method before and after training, all tasks", lambda run: total(run, "method_seconds")),
            ("merging, all tasks", lambda run: total(run, "merge_seconds")),
            ("scoring, all tasks", lambda run: total(run, "score_seconds")),
            ("peak memory", lambda run: memory(run.view.manifest.peak_memory_bytes)),
            ("update lost in rounding, worst task", lambda run: _rounding(run.view)),
        ),
    )
    numbers = max((len(run.view.manifest.timing.tasks) for run in runs), default=0)
    for index in range(numbers):
        of_task = []
        for run in runs:
            tasks = run.view.manifest.timing.tasks
            of_task.append(duration(tasks[index].train_seconds) if index < len(tasks) else DASH)
        rows.append((f"training, task {index + 1}", of_task))
    return rows


def _rounding(view: RunView) -> str:
    losses = [loss for loss in view.manifest.rounding_loss if loss is not None]
    return f"{100 * max(losses):.2g} %" if losses else DASH


def _side_by_side(title: str, runs: Sequence[LabelledRun], rows: Sequence[Row]) -> Markup:
    head = tag("tr", tag("td"), *(tag("th", run.heading, scope="col", class_="run") for run in runs))
    body = []
    for name, values in rows:
        if len(set(values)) == 1:
            cells = [tag("td", values[0], colspan=len(values) if len(values) > 1 else None)]
        else:
            cells = [tag("td", value) for value in values]
        body.append(tag("tr", tag("th", name, scope="row"), *cells))
    table = tag("table", tag("thead", head), tag("tbody", *body), class_="facts")
    return join([tag("h3", title), scroll_box(table, title)])


def _data_table(view: RunView) -> Markup:
    of_answers = view.manifest.of_answers
    head = ("Task", "Source", "Training", "Test", "Metric" if of_answers else "Classes", "Fingerprint")
    rows = [
        tag(
            "tr",
            tag("th", entry.task, scope="row"),
            tag("td", entry.source),
            tag("td", count(entry.train), class_="number"),
            tag("td", count(entry.test), class_="number"),
            tag("td", metric_title(entry))
            if of_answers
            else tag("td", count(entry.classes), class_="number"),
            tag("td", tag("code", entry.fingerprint), class_="hash"),
        )
        for entry in view.manifest.data
    ]
    head_row = tag("tr", *(tag("th", name, scope="col") for name in head))
    table = tag("table", tag("thead", head_row), tag("tbody", *rows), class_="plain")
    return scroll_box(table, "Data of the tasks")


def _ties(runs: Sequence[LabelledRun]) -> Markup:
    """Classes that no model could tell apart by their prompts; nothing where no run has classes."""
    if all(run.view.manifest.of_answers for run in runs):
        return Markup()
    ties = dict.fromkeys(tie for run in runs for tie in run.view.manifest.ties)
    if not ties:
        return tag("p", "No two classes share a prompt.", class_="note")
    rule = (
        "the first of them"
        if any(run.setting("stream", "ties") == "first" for run in runs)
        else "any of them"
    )
    items = [tag("li", tag("q", tie.prompt), ": ", ", ".join(tie.classes)) for tie in ties]
    return join(
        [
            tag("p", f"Classes that share a prompt; a prediction of {rule} counts:", class_="note"),
            tag("ul", *items, class_="ties"),
        ]
    )
