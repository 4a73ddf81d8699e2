"""The command that sets methods side by side: compare."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from codyra.cli.console import console, continue_with
from codyra.errors import UserError


def compare(
    config: Annotated[str, typer.Argument(help="a YAML file or the name of a preset")],
    methods: Annotated[
        str | None,
        typer.Option(
            help="names with commas between them, options as in codyra,lora:r=4,full:train.lr=1e-5; may be left out "
            "where a comparison goes on"
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="seeds of every method, with commas between them; a new one has 0,1,2")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder; default runs/<config name>-compare")] = None,
    reference: Annotated[
        str | None, typer.Option(help="the method that the others are subtracted from; default codyra")
    ] = None,
    jobs: Annotated[int, typer.Option(help="runs at the same time, each in a process of its own", min=1)] = 1,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="override one key for all, as in train.steps=100")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check every method, estimate the cost, stop")
    ] = False,
) -> None:
    """Several methods on one stream with one budget: a table and a page; continues and extends what is there."""
    overrides = [word for item in set_ or [] for word in ("--set", item)]
    words = ["codyra", "compare", config, *(["--methods", methods] if methods else [])]
    words += [*(["--seeds", seeds] if seeds else [])]
    words += [*(["--out", str(out)] if out else []), *(["--reference", reference] if reference else [])]
    words += [*(["--jobs", str(jobs)] if jobs > 1 else []), *overrides]
    with continue_with(*words, kept="finished runs and checkpoints are kept"):
        from codyra.compare.compare import compare as run
        from codyra.compare.plan import PAGE
        from codyra.engine.progress import Narrator
        from codyra.report.table_formats import as_text

        results, failed = run(
            config,
            methods,
            _seeds(seeds) if seeds is not None else (),
            out,
            overrides=set_ or [],
            reference=reference,
            at_once=jobs,
            dry_run=dry_run,
            narrator=Narrator(console),
        )
    table = None if dry_run else results.table()
    if table is not None:
        console.print(Text(as_text([table])), end="")
        console.print(f"page: {results.comparison.folder / PAGE}", markup=False)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(results.comparison.jobs)} runs failed ({', '.join(failed)}); the others are kept; "
            f"mend what is said above and continue with: {shlex.join(words)}"
        )


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(word) for word in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UserError(
            f"--seeds {text}: give whole numbers from 0, each once, with commas between them, as in 0,1,2"
        )
    return seeds
