"""The page: one self-contained HTML file from one or several runs."""

from collections.abc import Callable, Sequence
from importlib import resources

from codyra.engine.folder_reader import RunView
from codyra.report.beside import beside_published
from codyra.report.general_ability import general_ability
from codyra.report.markup import Markup, join, sentence, tag
from codyra.report.provenance import run_overview, what_ran
from codyra.report.runs import LabelledRun, comparable_groups, differences, label_runs
from codyra.report.scores import matrices, matrix_key, summary_tables, task_curves
from codyra.report.tasks import task_samples
from codyra.report.training import training_charts
from codyra.report.updates import module_maps, size_charts

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The browser itself refuses to load anything or to run any script."""


def render(runs: Sequence[RunView], title: str | None = None, times: bool = True) -> str:
    """The report as HTML text. The same runs give the same bytes; nothing is loaded from anywhere.

    Args:
        runs: one run, or several to stand side by side in this order.
        title: heading of the page; by default it names the methods.
        times: show wall-clock times and memory, which no two runs share; the page in a run folder has none.

    Raises:
        ValueError: `runs` is empty.
    """
    if not runs:
        raise ValueError("a report needs at least one run")
    labelled = label_runs(runs)
    groups = comparable_groups(labelled)
    heading = title or f"{_methods(labelled)}: what was learnt, what was kept"
    several = len(groups) > 1
    streams = [
        tag("section", _stream_heading(number, group) if several else None, *_stream(group, f"s{number}-"))
        for number, group in enumerate(groups, start=1)
    ]
    body = [
        tag(
            "header",
            tag("h1", heading),
            tag("p", _introduction(labelled), class_="lead"),
            run_overview(labelled),
            _different_streams(groups) if several else None,
            _contents(groups),
        ),
        tag(
            "main", *streams, tag("section", tag("h2", "What ran", id="what-ran"), what_ran(labelled, times))
        ),
        tag("footer", tag("p", "Written by codyra from the run folders alone; this file loads nothing.")),
    ]
    return document(heading, *body)


def document(title: str, *body: Markup) -> str:
    """A whole HTML file in the style of the report, which loads nothing and runs nothing."""
    style = Markup(resources.files("codyra.report").joinpath("style.css").read_text("utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", title),
        tag("style", style),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", *body), lang="en") + "\n"


_SECTIONS = (
    ("summary", "Summary"),
    ("beside", "Beside published figures"),
    ("tasks", "The tasks"),
    ("matrix", "Scores after each task"),
    ("curves", "Forgetting, task by task"),
    ("general", "General ability"),
    ("ranks", "Ranks"),
    ("size", "Size of the updates"),
    ("training", "Training"),
)


def _is_benchmark(group: Sequence[LabelledRun]) -> bool:
    return group[0].view.manifest.benchmark is not None


def _caveat(group: Sequence[LabelledRun]) -> Markup:
    """Why these runs are not the benchmark they are called after; nothing when they are, or are called after none."""
    benchmark = group[0].view.manifest.benchmark
    caveat = benchmark.caveat if benchmark is not None else None
    return tag("p", caveat, class_="warning") if caveat else Markup()


def _sections(group: Sequence[LabelledRun]) -> list[tuple[str, str]]:
    """Key and name of each section of a stream; only a benchmark has published figures."""
    empty = {"beside": not _is_benchmark(group), "general": not any(run.view.harness for run in group)}
    return [(key, name) for key, name in _SECTIONS if not empty.get(key)]


def _stream(group: Sequence[LabelledRun], prefix: str) -> list[Markup]:
    """All sections that compare the runs of one stream."""
    unlike = differences(group)
    curve_note = (
        "Score of each task in percent over the stream: 0 is zero-shot, n is after task n. Grey ground: "
        "the task is not learnt yet. All charts share one scale."
    )
    rank_note = (
        "Module kind by layer, numbered as in the model's module names. A cell is the number of ranks kept."
    )
    size_note = (
        "Frobenius norms over all adapted weights: what one task adds, and how far the model has moved."
    )
    loss_note = "Over the steps of each task; long curves are averaged down to at most 100 points."
    contents: dict[str, list[Markup]] = {
        "summary": [
            _caveat(group),
            summary_tables(group),
            tag("p", f"Not the same for all runs: {', '.join(unlike)}.", class_="warning")
            if unlike
            else Markup(),
        ],
        "beside": [beside_published(group)] if _is_benchmark(group) else [],
        "tasks": [tag("div", task_samples(group), class_="task-grid")],
        "matrix": [matrix_key(group), *_per_run(group, matrices)],
        "curves": [tag("p", curve_note, class_="note"), task_curves(group)],
        "general": [general_ability(group)],
        "ranks": [tag("p", rank_note, class_="note"), *_per_run(group, module_maps)],
        "size": [tag("p", size_note, class_="note"), size_charts(group)],
        "training": [tag("p", loss_note, class_="note"), training_charts(group)],
    }
    return [
        tag("section", tag("h2", name, id=f"{prefix}{key}"), *contents[key], class_=f"part {key}")
        for key, name in _sections(group)
    ]


def _per_run(group: Sequence[LabelledRun], show: Callable[[LabelledRun], Markup]) -> list[Markup]:
    return [
        tag(
            "section",
            tag("h3", run.heading, class_="run"),
            tag("p", sentence(run.incomplete), class_="warning") if run.incomplete else None,
            show(run),
        )
        for run in group
    ]


def _methods(runs: Sequence[LabelledRun]) -> str:
    return _listed(list(dict.fromkeys(run.view.manifest.method.name for run in runs)))


def _introduction(runs: Sequence[LabelledRun]) -> str:
    numbers = {len(run.view.accuracy.tasks) for run in runs}
    tasks = "one task" if numbers == {1} else "tasks one after another"
    if len(numbers) == 1 and numbers != {1}:
        tasks = f"{numbers.pop()} {tasks}"
    return (
        f"A pre-trained model learns {tasks} with {_methods(runs)}; this page shows what it learnt, what it "
        "forgot and what that took."
    )


def _different_streams(groups: Sequence[Sequence[LabelledRun]]) -> Markup:
    words = (
        f"These runs belong to {len(groups)} different streams: other tasks, other data or another way of "
        "scoring. Figures of different streams do not compare, so each stream has its own part below."
    )
    return tag("p", words, class_="warning")


def _stream_heading(number: int, group: Sequence[LabelledRun]) -> Markup:
    names = " → ".join(group[0].view.accuracy.tasks)
    return join([tag("h2", f"Stream {number}", class_="stream"), tag("p", names, class_="lead")])


def _contents(groups: Sequence[Sequence[LabelledRun]]) -> Markup:
    lists = [
        tag(
            "p",
            tag("b", f"Stream {number}") if len(groups) > 1 else None,
            *(tag("a", name, href=f"#s{number}-{key}") for key, name in _sections(group)),
            tag("a", "What ran", href="#what-ran") if number == len(groups) else None,
        )
        for number, group in enumerate(groups, start=1)
    ]
    return tag("nav", *lists, aria_label="Contents")


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
