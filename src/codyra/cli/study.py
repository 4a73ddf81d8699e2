"""Commands that look closer at a model and its updates: probe, ablate, analyse."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from codyra.cli.console import console, continue_with, figure
from codyra.errors import UserError


class By(StrEnum):
    """What `ablate` takes out at a time."""

    kind = "kind"
    layer = "layer"
    both = "both"


def probe(
    config: Annotated[str, typer.Argument(help="a YAML file or the name of a preset")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="override one key, as in train.steps=100")
    ] = None,
    task: Annotated[str | None, typer.Option(help="the task to learn; default the first")] = None,
    ranks: Annotated[str, typer.Option(help="fixed ranks")] = "1,2,4,8,16",
    placements: Annotated[
        str, typer.Option(help="where adapters go, each in turn")
    ] = "attention,mlp,vision,text,all",
    out: Annotated[Path | None, typer.Option(help="folder; default runs/<config name>-probe")] = None,
) -> None:
    """Learn one task with LoRA at every rank and placement: what it gains, and what all other tasks lose."""
    words = ["probe", config, *(word for item in set_ or [] for word in ("--set", item))]
    words += ["--task", task] if task else []
    words += ["--ranks", ranks, "--placements", placements, *(["--out", str(out)] if out else [])]
    with continue_with("codyra", *words, kept="measured points are kept"):
        from codyra.analysis.probe import probe as measure
        from codyra.engine.progress import Narrator
        from codyra.report.numbers import signed

        found, folder = measure(
            config,
            out,
            overrides=set_ or [],
            task=task,
            ranks=_ranks(ranks),
            placements=[word.strip() for word in placements.split(",")],
            narrator=Narrator(console),
        )
    table = Table(
        "placement", "rank", "parameters", "|dW|", "learnt", "adaptation", "retention", "change",
        box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for point in (found.zero_shot, *found.points):
        trained = point.rank > 0
        table.add_row(
            point.placement,
            str(point.rank) if trained else "-",
            f"{point.trainable_parameters:,}" if trained else "-",
            figure(point.update_norm if trained else None, 3),
            figure(point.accuracy[found.task], 1),
            signed(found.adaptation(point)) if trained else "-",
            figure(found.retention(point), 1),
            signed(found.retention_change(point)) if trained else "-",
        )
    console.print(table)
    others = [name for name in found.zero_shot.accuracy if name != found.task]
    console.print(
        f"learnt: {found.task}, percent; adaptation: points gained on it; retention: mean of {', '.join(others)}, "
        "which are not learnt, percent",
        markup=False,
    )
    console.print(f"{folder}: probe.csv, probe.svg", markup=False)


def ablate(
    run: Annotated[Path, typer.Argument(help="run folder")],
    after: Annotated[
        int | None, typer.Option(help="the model after this many tasks; default all that are learnt", min=1)
    ] = None,
    by: Annotated[By, typer.Option(help="what is taken out at a time")] = By.both,
    out: Annotated[
        Path | None, typer.Option(help="folder; default RUN-ablation, with --after RUN-ablation-after-N")
    ] = None,
) -> None:
    """Take the updates of one module kind or one layer at a time out of a run's model: what each was good for."""
    with continue_with("codyra", *sys.argv[1:], kept="measured removals are kept"):
        from codyra.analysis.ablation import ablate as measure
        from codyra.engine.progress import Narrator
        from codyra.report.numbers import signed

        found, folder = measure(run, out, after=after, by=by.value, narrator=Narrator(console))
    guarded = found.whole.held_out is not None
    shown = ("adaptation", "retention", "held out") if guarded else ("adaptation", "retention")
    table = Table("without", "modules", "|dW|", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in shown:
        table.add_column(title, no_wrap=True)
        table.add_column("change", no_wrap=True)
    whole = found.scores(found.whole)[: len(shown)]
    table.add_row("nothing", "-", "-", *(cell for score in whole for cell in (figure(score, 1), "-")))
    for unit, state in found.without:
        pairs = zip(found.scores(state), found.changes(state), strict=True)
        cells = [(figure(score, 1), "-" if change is None else signed(change)) for score, change in pairs]
        flat = [cell for pair in cells[: len(shown)] for cell in pair]
        table.add_row(Text(unit.name), str(unit.num_modules), figure(state.update_norm, 3), *flat)
    console.print(table)
    console.print(
        "adaptation: mean of the learnt tasks, retention: mean of those not learnt yet"
        + (", held out: the guard's set" if guarded else "")
        + "; percent, each with its change against the whole model in points"
    )
    if found.retention(found.whole) is None:
        console.print(
            "every task of the stream is learnt; --after N leaves some unseen, on which to see retention"
        )
    console.print(f"{folder}: ablate.csv, ablate.svg", markup=False)


def analyse(
    run: Annotated[Path, typer.Argument(help="run folder")],
    out: Annotated[Path | None, typer.Option(help="folder; default RUN-analysis")] = None,
) -> None:
    """Ranks, sizes and drift of a run's updates as CSV and pictures; no model is loaded."""
    from codyra.analysis.sizes import analyse as measure

    tasks, folder = measure(run, out)
    table = Table(
        "task", "name", "mean rank", "|dW|", "bound", "drift", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for task in tasks:
        table.add_row(
            str(task.number),
            Text(task.task),
            figure(task.mean_rank, 1),
            figure(task.norm, 3),
            figure(task.bound, 3),
            figure(task.drift, 3),
        )
    console.print(table)
    console.print(
        "bound: |dW| <= sqrt(rank) |B| |A| of every module, spectral norms; drift: |dW| of all tasks together"
    )
    ranked = any(task.mean_rank is not None for task in tasks)
    written = [
        *(["ranks.csv", "rank-heatmap.svg"] if ranked else []),
        "magnitude.csv",
        "drift.csv",
        "drift.svg",
    ]
    console.print(f"{folder}: {', '.join(written)}", markup=False)
    if not ranked:
        console.print("no ranks.csv, no rank-heatmap.svg: these updates have a size but no ranks")


def _ranks(text: str) -> list[int]:
    try:
        ranks = [int(word) for word in text.split(",")]
    except ValueError:
        ranks = []
    if not ranks or min(ranks) < 1:
        raise UserError(f"--ranks {text}: give whole numbers from 1 with commas between them, as in 1,4,16")
    return ranks
