"""The command that prints what a paper prints: table."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from codyra.cli.console import console
from codyra.errors import UserError

_ENDINGS = {".txt": "text", ".csv": "csv", ".md": "markdown", ".tex": "latex"}


def table(
    runs: Annotated[
        list[Path], typer.Argument(help="run folders; those that differ in their seed alone become one row")
    ],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", help="text, csv, markdown or latex; default by the ending of --out, else text"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="file; default standard output")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="a block of this metric only, as in transfer; may be repeated")
    ] = None,
    published: Annotated[
        bool, typer.Option(help="show published rows beside a run of X-TAIL, MTIL or TRACE")
    ] = True,
) -> None:
    """Scores of every data set and their means, as a paper prints them; mean and deviation over seeds."""
    from codyra import files
    from codyra.engine.folder_reader import check_not_pending, read_run
    from codyra.metrics import PER_TASK
    from codyra.naming import did_you_mean
    from codyra.report.table import build_tables
    from codyra.report.table_formats import WRITERS

    if format_ is None and out is not None and out.suffix.lower() not in _ENDINGS:
        raise UserError(f"--out {out}: end it in {', '.join(_ENDINGS)}, or say --format")
    chosen = format_ or (_ENDINGS[out.suffix.lower()] if out else "text")
    if chosen not in WRITERS:
        raise UserError(f"--format: there is no {chosen!r}; there are {', '.join(WRITERS)}")
    if len({path.resolve() for path in runs}) < len(runs):
        raise UserError("a run folder is given twice; give each once")
    for name in metric or ():
        if name not in PER_TASK:
            raise UserError(f"--metric: {name!r} has no value per data set{did_you_mean(name, PER_TASK)}")
    for path in runs:
        check_not_pending(path)
        if out is not None and out.resolve().is_relative_to(path.resolve()):
            raise UserError(
                f"--out {out}: the run folder {path} holds the run's own files; choose another place"
            )
    text = WRITERS[chosen](build_tables([read_run(path) for path in runs], metric or (), published))
    if out is None:
        console.print(Text(text), end="")
    else:
        files.write_text(out, text)
        console.print(f"table: {out}", markup=False)
