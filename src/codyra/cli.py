"""The command `codyra`. Heavy imports wait until a command needs them, so that --help answers at once."""

import shlex
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from codyra.errors import UserError

if TYPE_CHECKING:
    from codyra.engine.loop import Run

EXIT_USER, EXIT_INTERRUPTED = 2, 130

app = typer.Typer(
    help="Keep a pre-trained model learning, task after task, and know what it lost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for the pictures, both runs and the report")] = Path(
        "demo-output"
    ),
    seed: Annotated[int, typer.Option(help="seed of pictures, batches and adapters", min=0)] = 8,
) -> None:
    """Teach the built-in tiny CLIP five tasks, with CoDyRA and with plain LoRA; no download, a few minutes."""
    with _continue_with("codyra", "demo", "--out", str(out), "--seed", str(seed)):
        from codyra.demo.run import run_demo
        from codyra.engine.progress import Narrator

        runs = run_demo(out, seed, Narrator(console))
        _show_comparison(runs)
        console.print(f"report: {out / 'report.html'}", markup=False)


@app.command()
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
    overrides = [word for item in set_ or [] for word in ("--set", item)]
    with _continue_with("codyra", "run", config, *(["--out", str(out)] if out else []), *overrides):
        from accelerate import PartialState

        from codyra.engine import loop
        from codyra.engine.config import load_config
        from codyra.engine.progress import Narrator

        resolved = load_config(config, set_ or [])
        if dry_run:
            loop.dry_run(resolved, out, Narrator(console))
            return
        folder = out if out is not None else loop.default_out(resolved)
        with _continue_with("codyra", "run", config, "--out", str(folder), *overrides):
            finished = loop.run(resolved, folder, narrator=Narrator(console))
        if PartialState().is_main_process:  # one table, however many processes ran
            _show_comparison({finished.folder.name: finished})
            console.print(f"report: {finished.folder / 'report.html'}", markup=False)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders, compared side by side")],
    out: Annotated[
        Path | None, typer.Option(help="HTML file; default report.html in the first run folder")
    ] = None,
) -> None:
    """Write the HTML report of one or several runs."""
    from codyra import files
    from codyra.engine.folder_reader import read_run
    from codyra.report import render

    if len(runs) > 1 and out is None:
        raise UserError(
            "--out: say where the comparison of several runs shall go, for example --out compare.html"
        )
    target = out if out is not None else runs[0] / "report.html"
    files.write_text(target, render([read_run(path) for path in runs]))
    console.print(f"report: {target}", markup=False)


@app.command()
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
            _figure(sum(kept) / len(kept) if kept else None, 1),
            _figure(ranks.norm if ranks else None, 3),
            _figure(ranks.survival_auc if ranks else None, 3),
            _figure(scores.zero_shot[index] if scores.zero_shot else None, 1),
            _figure(learned, 1),
            _figure(scores.rows[-1][index] if learned is not None else None, 1),
        )
    about = f"{run}: {view.manifest.method.name} on {view.manifest.base.name}, {view.manifest.status}"
    console.print(about, markup=False)
    console.print(table)


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _show_comparison(runs: Mapping[str, "Run"]) -> None:
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
        table.add_row(Text(name), *(_figure(figures[key], 1) for key in columns))
    console.print(table)
    console.print("percent; forgetting in points, lower is better; every definition stands in the report")


class Interrupted(Exception):
    """Ctrl-C, with what to do next."""


@contextmanager
def _continue_with(*words: str) -> Iterator[None]:
    """Say on Ctrl-C which command goes on; inside a command, because typer ends on Ctrl-C without a word."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"finished tasks are kept; continue with: {shlex.join(words)}") from None


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, Ctrl-C is 130, anything else is a bug."""
    # peft asks transformers for an attribute that transformers has renamed; nobody who types a command can mend that.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
    try:
        app()
    except UserError as error:
        errors.print(f"codyra: {error}", style="red", markup=False)
        raise SystemExit(EXIT_USER) from None
    except Interrupted as stop:
        errors.print(f"codyra: interrupted; {stop}", markup=False)
        raise SystemExit(EXIT_INTERRUPTED) from None
