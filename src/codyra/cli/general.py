"""The command that scores a run's models on tasks they never learnt: eval."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from codyra.cli.console import console, continue_with
from codyra.errors import UserError


def evaluate(
    run: Annotated[Path, typer.Argument(help="run folder")],
    harness: Annotated[
        str, typer.Option(help="tasks of lm-evaluation-harness, with commas between them", metavar="TASKS")
    ],
    after: Annotated[
        list[int] | None,
        typer.Option(
            help="the model after so many tasks, 0 for the base model; may be given several times; default 0 and all "
            "that are learnt",
            min=0,
        ),
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option(help="folder with YAML files of tasks; Python that they name is executed")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="only the first so many examples of each task", min=1)
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(help="solved examples before each question; default as the task says", min=0)
    ] = None,
    batch_size: Annotated[int, typer.Option(help="examples computed together", min=1)] = 8,
) -> None:
    """Score a language model before and after its run with lm-evaluation-harness: what became of the rest?"""
    tasks = [word.strip() for word in harness.split(",")]
    if not all(tasks):
        raise UserError(
            f"--harness {harness}: give names of tasks with commas between them, as in arc_easy,piqa"
        )
    with continue_with("codyra", *sys.argv[1:], kept="scores are kept"):
        from codyra.analysis.harness import score_general_ability
        from codyra.engine.folder_reader import read_run
        from codyra.engine.progress import Narrator
        from codyra.report.general_ability import NOTE, ability_rows, states, written

        results = score_general_ability(
            run,
            tasks,
            after=after,
            num_fewshot=num_fewshot,
            limit=limit,
            include_path=include_path,
            batch_size=batch_size,
            narrator=Narrator(console),
        )
    names, columns = read_run(run).accuracy.tasks, states(results)
    table = Table("task", "metric", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for state in columns:
        table.add_column(Text(f"after {state} ({names[state - 1]})" if state else "base model"))
    table.add_column("change", no_wrap=True)
    for row in ability_rows(results):
        cells = [written(row.scores.get(state)) for state in columns]
        table.add_row(Text(row.task), Text(f"{row.metric} {row.direction}"), *cells, written(row.change, "+"))
    console.print(table)
    console.print(NOTE)
    console.print(f"{run}: harness.json, report.html", markup=False)
