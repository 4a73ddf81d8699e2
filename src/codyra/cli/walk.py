"""Commands that walk through what a run has learnt: history."""

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from codyra.cli.console import console, figure


def history(run: Annotated[Path, typer.Argument(help="run folder")]) -> None:
    """Tasks of a run in order: ranks kept, size of the update, scores right after learning and now."""
    from codyra.engine.folder_reader import read_run

    view = read_run(run)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("task", "name", "ranks kept", "|dW|", "survival AUC", "zero-shot %", "learned %", "now %"):
        table.add_column(title, no_wrap=True)
    scores = view.accuracy
    for index, name in enumerate(scores.tasks):
        ranks = view.tasks[index].ranks if index < len(view.tasks) else None
        kept = [module.kept for module in ranks.modules.values() if module.kept is not None] if ranks else []
        learned = scores.rows[index][index] if index < len(scores.rows) else None
        table.add_row(
            str(index + 1),
            Text(name),
            figure(sum(kept) / len(kept) if kept else None, 1),
            figure(ranks.norm if ranks else None, 3),
            figure(ranks.survival_auc if ranks else None, 3),
            figure(scores.zero_shot[index] if scores.zero_shot else None, 1),
            figure(learned, 1),
            figure(scores.rows[-1][index] if learned is not None else None, 1),
        )
    about = f"{run}: {view.manifest.method.name} on {view.manifest.base.name}, {view.manifest.status}"
    console.print(about, markup=False)
    console.print(table)
