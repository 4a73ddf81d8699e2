"""Commands about the data on this machine: data cache."""

from datetime import datetime
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from codyra.cli.console import console
from codyra.errors import UserError

app = typer.Typer(help="Data sets on this machine.", no_args_is_help=True, rich_markup_mode=None)


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
