"""Commands that change a run which has learnt: append, revert."""

from pathlib import Path
from typing import Annotated

import typer

from codyra.cli.console import console, continue_with


def append(
    run: Annotated[Path, typer.Argument(help="run folder of a finished run")],
    config: Annotated[Path, typer.Option(help="YAML file with the new tasks under stream: tasks:")],
) -> None:
    """Learn new tasks on top of a finished run; the base model and the earlier data must be as they were."""
    with continue_with("codyra", "append", str(run), "--config", str(config)):
        from codyra.cli.learn import show_comparison
        from codyra.engine.progress import Narrator
        from codyra.history.append import append as append_tasks

        extended = append_tasks(run, config, Narrator(console))
        show_comparison({extended.folder.name: extended})
        console.print(f"report: {extended.folder / 'report.html'}", markup=False)


def revert(
    run: Annotated[Path, typer.Argument(help="run folder")],
    to: Annotated[int, typer.Option(help="the last task to keep, counted from 1")],
) -> None:
    """Take back later tasks; they move to RUN/archive, nothing is deleted."""
    with continue_with("codyra", "revert", str(run), "--to", str(to)):
        from codyra.history.revert import revert as revert_tasks

        archive = revert_tasks(run, to)
        console.print(f"{run}: back to task {to}; what came later is in {archive}", markup=False)
