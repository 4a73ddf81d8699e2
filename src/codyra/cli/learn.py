"""Commands that learn and show what was learnt: demo, run, report."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from codyra.cli.console import console, continue_with, figure
from codyra.cli.launched import start_all_processes
from codyra.errors import UserError

if TYPE_CHECKING:
    from codyra.engine.run import Run


def demo(
    out: Annotated[Path, typer.Option(help="folder for the pictures, both runs and the report")] = Path(
        "demo-output"
    ),
    seed: Annotated[int, typer.Option(help="seed of pictures, batches and adapters", min=0)] = 8,
) -> None:
    """Teach the built-in tiny CLIP five tasks, with CoDyRA and with plain LoRA; no download, a few minutes."""
    with continue_with("codyra", "demo", "--out", str(out), "--seed", str(seed)):
        from codyra.demo.run import run_demo
        from codyra.engine.progress import Narrator

        runs = run_demo(out, seed, Narrator(console))
        show_comparison(runs)
        console.print(f"report: {out / 'report.html'}", markup=False)


def run(
    config: Annotated[str, typer.Argument(help="a YAML file or the name of a preset")],
    out: Annotated[Path | None, typer.Option(help="run folder; default runs/<config name>-<n>")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="override one key, as in train.steps=100")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check everything, estimate the cost, stop")
    ] = False,
) -> None:
    """Learn a stream of tasks; continues when the run folder holds the same unfinished run."""
    start_all_processes()
    overrides = [word for item in set_ or [] for word in ("--set", item)]
    with continue_with("codyra", "run", config, *(["--out", str(out)] if out else []), *overrides):
        from codyra.engine import run as engine
        from codyra.engine.config import load_config
        from codyra.engine.progress import Narrator

        resolved = load_config(config, set_ or [])
        if dry_run:
            engine.dry_run(resolved, out, Narrator(console))
            return
        folder = out if out is not None else engine.default_out(resolved)
        with continue_with("codyra", "run", config, "--out", str(folder), *overrides):
            finished = engine.run(resolved, folder, narrator=Narrator(console))
        if engine.is_first_process():  # one table, however many processes ran
            show_comparison({finished.folder.name: finished})
            console.print(f"report: {finished.folder / 'report.html'}", markup=False)


def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders, compared side by side")],
    out: Annotated[
        Path | None, typer.Option(help="HTML file; default report.html in the first run folder")
    ] = None,
) -> None:
    """Write the HTML report of one or several runs."""
    from codyra import files
    from codyra.engine.folder_reader import check_not_pending, read_run
    from codyra.report import render

    if len(runs) > 1 and out is None:
        raise UserError(
            "--out: say where the comparison of several runs shall go, for example --out compare.html"
        )
    for path in runs:
        check_not_pending(path)
    views = [read_run(path) for path in runs]
    own = runs[0] / "report.html"
    if out is None or out.absolute() == own.absolute():
        from codyra.engine.derive import rewrite_report
        from codyra.engine.folder import RunFolder
        from codyra.engine.lock import only_writer

        with only_writer(runs[0]):
            rewrite_report(RunFolder(runs[0]))
    else:
        files.write_text(out, render(views))
    console.print(f"report: {own if out is None else out}", markup=False)


def show_comparison(runs: Mapping[str, "Run"]) -> None:
    """The summary figures of finished runs, side by side."""
    columns = {
        "zero_shot": "zero-shot",
        "transfer": "Transfer",
        "average": "Average",
        "last": "Last",
        "learning_accuracy": "learned",
        "forgetting_max": "forget max",
        "forgetting_diag": "forget diag",
    }
    table = Table("run", *columns.values(), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name, run in runs.items():
        figures = run.metrics
        table.add_row(Text(name), *(figure(figures[key], 1) for key in columns))
    console.print(table)
    console.print("percent; forgetting in points, lower is better; every definition stands in the report")
