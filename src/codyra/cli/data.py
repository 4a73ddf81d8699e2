"""Commands about the data on this machine: data verify, data rebuild-splits, data cache."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from codyra.cli.console import console
from codyra.errors import UserError

if TYPE_CHECKING:
    from codyra.streams.benchmarks import Benchmark

SHOWN_FAULTS = 5

Preset = Annotated[str, typer.Argument(help="a preset or YAML file with stream: benchmark:")]
DataDir = Annotated[Path, typer.Option("--data-dir", help="folder that holds the data sets")]

app = typer.Typer(
    help="What lies on this machine: the data sets of a benchmark, the cache of test images.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def verify(
    preset: Preset,
    data_dir: DataDir,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="override one key, as in stream.only=[dtd,eurosat]")
    ] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="decode every image as well; takes minutes")
    ] = False,
    all_faults: Annotated[
        bool, typer.Option("--all", help="list every file at fault, not the first few")
    ] = False,
) -> None:
    """Say of every data set whether it is present, partial or missing, and what to get; writes nothing."""
    from codyra.streams.benchmarks.survey import survey

    benchmark, keys, elsewhere = _data_sets(preset, set_ or [])
    if not data_dir.is_dir():
        raise UserError(f"--data-dir: there is no folder {data_dir}")
    if not keys:
        raise UserError(
            f"{preset}: every data set is read from elsewhere; `codyra run --dry-run` looks at those"
        )
    with console.status("") as status:
        findings = survey(benchmark, keys, data_dir, decode, lambda key: status.update(f"looking at {key}"))
    table = Table("data set", "state", "train", "val", "test", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for finding in findings:
        cells = []
        for split in ("train", "val", "test"):
            found, expected = finding.counts.get(split), finding.expected.get(split)
            shown = "-" if found is None else f"{found:,}"
            cells.append(shown if expected in (None, found) else f"{shown} of {expected:,}")
        table.add_row(finding.key, finding.state, *cells)
    console.print(table)
    for key, place in elsewhere.items():
        console.print(f"{key}: read from {place}, not looked at", markup=False)
    for finding in findings:
        shown_faults = finding.faults if all_faults else finding.faults[:SHOWN_FAULTS]
        for line in (*shown_faults, *finding.marks):
            console.print(f"{finding.key}: {line}", markup=False)
        if len(finding.faults) > len(shown_faults):
            more = len(finding.faults) - len(shown_faults)
            console.print(f"{finding.key}: and {more:,} more; --all lists them", markup=False)
    complete = sum(finding.state == "present" for finding in findings)
    title = benchmark.title
    if complete < len(findings):
        raise UserError(
            f"{complete} of {len(findings)} data sets of {title} are complete; a partial stream runs with "
            "--set stream.only=[...]"
        )
    console.print(f"all {complete} data sets of {title} are complete", markup=False)


@app.command("rebuild-splits")
def rebuild_splits(
    preset: Preset,
    data_dir: DataDir,
    seed: Annotated[int, typer.Option(help="seed of the split", min=0)],
    only: Annotated[
        list[str] | None,
        typer.Option(help="a data set, several times for several; default: all without a split"),
    ] = None,
) -> None:
    """Make split files of your own where those of CoOp's authors are missing; marks every run made with them."""
    from codyra.naming import did_you_mean
    from codyra.streams.benchmarks.coop import WHERE
    from codyra.streams.benchmarks.rebuild import rebuild_split, without_split

    benchmark, keys, _ = _data_sets(preset, [])
    if benchmark.name != "xtail":
        raise UserError(
            f"{preset}: only X-TAIL has split files to make; the splits of {benchmark.title} need none"
        )
    for key in only or []:
        if key not in keys:
            raise UserError(f"--only {key}: no such data set{did_you_mean(key, keys)}")
    chosen = only or [key for key in without_split(data_dir) if key in keys]
    for key in chosen:
        path = rebuild_split(key, data_dir, seed)
        console.print(f"{key}: wrote {path}", markup=False)
    if not chosen:
        console.print(f"no data set below {data_dir} lacks its split file; nothing to do", markup=False)
    else:
        console.print(
            f"runs on these splits are marked; figures comparable with published ones need the files of {WHERE}",
            markup=False,
        )


@app.command("cache")
def show_cache(
    clear: Annotated[bool, typer.Option("--clear", help="remove all of it; running runs go on")] = False,
) -> None:
    """Show what the cache of test images holds; runs fill it and remove what was not used for longest."""
    from codyra import cache

    try:
        if clear:
            cache.clear()
        entries = cache.entries()
        counts = [cache.num_images(entry) for entry in entries]
    except OSError as error:
        place = error.filename or cache.pixel_folder()
        raise UserError(f"{place}: {error.strerror or error}; mend that or set CODYRA_CACHE_DIR") from None
    if entries:
        table = Table("test set", "images", "MB", "last used", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for entry, count in zip(entries, counts, strict=True):
            used = datetime.fromtimestamp(entry.used).isoformat(" ", "minutes")
            images = "damaged" if count is None else str(count)
            table.add_row(Text(entry.name), images, f"{entry.size / 1e6:.1f}", used)
        console.print(table)
    gib = cache.limit_bytes() / 2**30
    console.print(
        f"{sum(entry.size for entry in entries) / 2**30:.2f} GiB of at most {gib:g} GiB (CODYRA_CACHE_GIB) "
        f"in {cache.pixel_folder()}",
        markup=False,
    )


def _data_sets(preset: str, overrides: list[str]) -> tuple["Benchmark", list[str], dict[str, str]]:
    """Benchmark of a config, the data sets that are read from its files, and where the others come from."""
    from codyra.engine.config import load_config
    from codyra.streams.spec import benchmark_of

    stream = load_config(preset, overrides).stream
    if stream.benchmark is None:
        raise UserError(
            f"{preset} is no benchmark; `codyra run {preset} --dry-run` checks the data of any other stream"
        )
    benchmark = benchmark_of(stream.model_dump())
    own = [task for task in stream.chosen() if task.data.startswith(f"{benchmark.name}:")]
    others = {task.name: task.data for task in stream.chosen() if task not in own}
    return benchmark, [Path(task.data).name for task in own], others
