"""What lm-evaluation-harness measured before and after a run, as rows and as a part of the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from codyra.engine.folder_reader import HarnessResult, HarnessScore
from codyra.report.markup import Markup, breakable, join, scroll_box, tag
from codyra.report.numbers import DASH, MINUS
from codyra.report.runs import LabelledRun

NOTE = (
    "Figures of lm-evaluation-harness in its own units, plus or minus one standard error. The change is that from the "
    "first to the last state; its standard error takes both for independent, although they answer the same questions, "
    "and is rather too large."
)


@dataclass(frozen=True)
class AbilityRow:
    """One metric of one task: its score at every state (None: not taken) and the change from the first to the last.

    `direction` is an arrow to where the metric is better, empty where that is not known.
    """

    task: str
    settings: str
    metric: str
    direction: str
    scores: dict[int, HarnessScore]
    change: HarnessScore | None


def ability_rows(results: Sequence[HarnessResult]) -> list[AbilityRow]:
    """The rows of these results, task by task and metric by metric."""
    rows = []
    for result in results:
        metrics = dict.fromkeys(metric for state in result.states for metric in state.scores)
        for metric in metrics:
            scores = {state.after: state.scores[metric] for state in result.states if metric in state.scores}
            rows.append(
                AbilityRow(
                    result.task,
                    settings(result),
                    metric,
                    {True: "↑", False: "↓", None: ""}[result.higher_is_better.get(metric)],
                    scores,
                    _change(list(scores.values())),
                )
            )
    return rows


def settings(result: HarnessResult) -> str:
    """`5-shot, 100 of the examples`."""
    shots = "" if result.num_fewshot is None else f"{result.num_fewshot}-shot, "
    return f"{shots}{'first ' if result.limit is not None else ''}{result.examples} examples"


def states(results: Sequence[HarnessResult]) -> list[int]:
    """Every state that any of these results knows, ascending."""
    return sorted({state.after for result in results for state in result.states})


def written(score: HarnessScore | None, sign: str = "") -> str:
    """`0.6000 ± 0.0490`; a dash for none. `sign` is that of Python's format: "+" writes it always."""
    if score is None or score.value is None:
        return DASH
    value = f"{score.value + 0.0:{sign}.4f}".replace("-", MINUS)
    return value if score.standard_error is None else f"{value} ± {score.standard_error:.4f}"


def general_ability(group: Sequence[LabelledRun]) -> Markup:
    """A table for every run that was measured."""
    measured = [run for run in group if run.view.harness]
    return join(
        [
            tag("p", NOTE, class_="note"),
            *(
                tag(
                    "section",
                    tag("h3", run.heading, class_="run"),
                    scroll_box(_table(run), f"{run.label}: general ability"),
                )
                for run in measured
            ),
        ]
    )


def _table(run: LabelledRun) -> Markup:
    results, names = run.view.harness, run.view.accuracy.tasks
    columns = states(results)
    titles = ["base model" if after == 0 else f"after {after} ({names[after - 1]})" for after in columns]
    rows = []
    for row in ability_rows(results):
        cells = (tag("td", written(row.scores.get(after))) for after in columns)
        rows.append(
            tag(
                "tr",
                tag("th", breakable(row.task), scope="row"),
                tag("td", row.settings),
                tag("td", f"{row.metric} {row.direction}".rstrip()),
                *cells,
                tag("td", written(row.change, "+")),
            )
        )
    head = (tag("th", title, scope="col") for title in ("task", "asked", "metric", *titles, "change"))
    return tag("table", tag("thead", tag("tr", *head)), tag("tbody", *rows), class_="plain")


def _change(scores: Sequence[HarnessScore]) -> HarnessScore | None:
    first, last = scores[0], scores[-1]
    if len(scores) < 2 or first.value is None or last.value is None:
        return None
    errors = (first.standard_error, last.standard_error)
    error = None if None in errors else math.hypot(*(one for one in errors if one is not None))
    return HarnessScore(last.value - first.value, error)
