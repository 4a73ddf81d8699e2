"""The page of a comparison: one self-contained HTML file in the style of the report."""

from collections.abc import Sequence

from codyra.compare.frontier import Spot, frontier
from codyra.compare.statistics import over_seeds
from codyra.compare.table import OWN_CLASSES_TITLE, Rows, budget_marks, every_run
from codyra.engine.progress import count
from codyra.report.beside import block_table
from codyra.report.charts import marker
from codyra.report.markup import Markup, folded, scroll_box, tag
from codyra.report.numbers import duration
from codyra.report.page import document
from codyra.report.provenance import what_ran
from codyra.report.runs import differences
from codyra.report.table import Table
from codyra.report.table_formats import NOT_THE_BENCHMARK, letters

_PLOTS = (
    ("forgetting_max", "forgetting from the best (points)", "Learnt against forgotten"),
    ("drift", "drift: |change of all weights| at the end", "Learnt against moved"),
)
_UP = "mean score right after learning (%)"


def render(table: Table, rows: Rows, reference: str, missing: Sequence[str]) -> str:
    """The page as HTML text.

    Args:
        table: of `codyra.compare.table.build_table`.
        rows: as for it.
        reference: label of the row that the others are compared with.
        missing: names of the runs that are not finished.
    """
    letter = letters(table.notes)
    blocks = {block.title: block for block in table.blocks}
    seeds = sorted({run.seed for runs in rows.values() for run in runs})
    sections = [
        tag("section", tag("h2", "Frontier"), *_frontiers(rows)),
        *(
            tag(
                "section",
                tag("h2", title),
                *_explained(title, reference),
                scroll_box(block_table(block, letter, captioned=False), title),
                *([folded("Every run", _all_runs(rows))] if title == "Scores" else []),
            )
            for title, block in blocks.items()
        ),
        tag("section", tag("h2", "What was equal, and what was not"), *_equality(rows)),
        tag(
            "section",
            tag("h2", "Notes"),
            *(tag("p", remark, class_="note") for remark in table.remarks),
            *(tag("p", tag("sup", letter[note]), " ", note, class_="note") for note in table.notes),
        ),
        tag(
            "section",
            tag("h2", "What ran"),
            *_machines(rows),
            what_ran([runs[0].run for runs in rows.values()], False),
        ),
    ]
    title = f"{len(rows)} methods, one stream, one budget"
    header = tag(
        "header",
        tag("h1", title),
        tag("p", f"{table.title}; seeds {', '.join(map(str, seeds))}.", class_="lead"),
        tag("p", f"{NOT_THE_BENCHMARK}: {'; '.join(table.marks)}.", class_="warning")
        if table.marks
        else None,
        tag("p", f"Not finished: {'; '.join(missing)}.", class_="warning") if missing else None,
        tag(
            "p",
            "One seed: no figure here has an error, and no difference can be told from chance.",
            class_="warning",
        )
        if len(seeds) == 1
        else None,
    )
    footer = tag("footer", tag("p", "Written by codyra from the run folders alone; this file loads nothing."))
    return document(title, header, tag("main", *sections), footer)


def _frontiers(rows: Rows) -> list[Markup]:
    note = (
        "Each marker is a method: the mean over seeds, bars of \N{PLUS-MINUS SIGN}1 standard error. Up is better, left "
        "is better; the thin line joins the methods that no other beats in one mean while it is as good in the other."
    )
    figures = []
    for figure, x_name, title in _PLOTS:
        spots = [
            Spot(
                number,
                label,
                runs[0].run.style,
                over_seeds(runs, figure),
                over_seeds(runs, "learning_accuracy"),
            )
            for number, (label, runs) in enumerate(rows.items(), start=1)
        ]
        drawn = frontier(spots, title=title, x_name=x_name, y_name=_UP)
        figures.append(tag("figure", tag("figcaption", title), drawn))
    key = [
        tag(
            "li",
            tag("b", number, class_="index"),
            tag(
                "svg",
                marker(runs[0].run.style, 7, 7, label),
                class_="key",
                viewBox="0 0 14 14",
                aria_hidden="true",
            ),
            tag("span", label),
        )
        for number, (label, runs) in enumerate(rows.items(), start=1)
    ]
    return [
        tag("p", note, class_="note"),
        tag("ol", *key, class_="frontier-key"),
        tag("div", *figures, class_="frontiers"),
    ]


def _all_runs(rows: Rows) -> Markup:
    return scroll_box(block_table(every_run(rows), {}, captioned=False), "Every run")


def _explained(title: str, reference: str) -> list[Markup]:
    """What a reader must know to read one of the tables."""
    words = {
        OWN_CLASSES_TITLE: "Scored among the class names of the task alone, which has to be known for that.",
        "Size of the updates": "Norms are Frobenius norms over all weights; drift is the distance from the base model. "
        "Survival AUC: how well a rank's first gate alone tells whether it is kept; near 1 the draw chose the ranks.",
        "Properties, declared and measured": "What a method says of itself, and the bytes and parameters that its runs "
        "really kept; the updates themselves, of which every state is made again, are not counted.",
        "Cost": "Wall clock of this machine. Runs that ran beside each other, or beside other programs, took longer "
        "than they would alone. Pictures were decoded before the first of them.",
        "Budget": "Counted in the training logs: steps, and the examples in their batches. What a method looks at "
        "beside them, in a step or around a task, is not in it; it is in the seconds of work.",
    }
    if "Minus" in title:
        words[title] = (
            f"Runs of one seed share shots, batches and crops: each is compared with that of {reference} "
            "before the mean is taken. A difference below two standard errors may well be chance; with three seeds or "
            "fewer, a larger one too."
        )
    return [tag("p", words[title], class_="note")] if title in words else []


def _equality(rows: Rows) -> list[Markup]:
    """In words, what all rows share and where they differ."""
    trained = [run for runs in rows.values() for run in runs if run.budget.trains]
    unlike = [name for name in differences([run.run for run in trained]) if name != "seed"] if trained else []
    marks = budget_marks(rows)
    parts = [
        tag(
            "p",
            "The same for all rows: the stream with its data, task order and shots, the base model, and everything in "
            "the config but the method, its options and its learning rate.",
        )
    ]
    seeds = {tuple(sorted(run.seed for run in runs)) for runs in rows.values()}
    if len(seeds) > 1:
        words = "; ".join(
            f"{label}: {', '.join(map(str, sorted(run.seed for run in runs)))}"
            for label, runs in rows.items()
        )
        parts.append(tag("p", f"Seeds are not the same for all rows: {words}.", class_="warning"))
    if unlike:
        parts.append(tag("p", f"Not the same for all rows that train: {', '.join(unlike)}."))
    parts += [
        tag("p", f"{label} {note}.", class_="warning") for label, notes in marks.items() for note in notes
    ]
    return parts


def _machines(rows: Rows) -> list[Markup | None]:
    """Where and when: every machine that took part."""
    every = [run.run.view.manifest for runs in rows.values() for run in runs]
    sessions = [session for manifest in every for session in manifest.sessions]
    places = dict.fromkeys(
        f"{session.machine}, on {session.device}, {count(session.threads, 'thread')}" for session in sessions
    )
    versions: dict[str, list[str]] = {}
    for session in sessions:
        for library, version in session.versions.items():
            if version not in versions.setdefault(library, []):
                versions[library].append(version)
    mixed = [f"{library} {' and '.join(of)}" for library, of in versions.items() if len(of) > 1]
    started = [manifest.timing.started for manifest in every if manifest.timing.started]
    finished = [manifest.timing.finished for manifest in every if manifest.timing.finished]
    seconds = [run.figures["seconds"] for runs in rows.values() for run in runs]
    known = [one for one in seconds if one is not None]
    when = (
        f"from {min(started)} to {max(finished)}" if started and finished else "at a time that is not known"
    )
    words = (
        f"{len(every)} runs, {when}; {duration(sum(known))} of work in all. Machines: {'; '.join(places)}."
    )
    first = "The columns below are the first seed of every method."
    return [
        tag("p", words, class_="note"),
        tag("p", f"Not all runs had the same versions: {'; '.join(mixed)}.", class_="warning")
        if mixed
        else None,
        tag("p", first, class_="note"),
    ]
