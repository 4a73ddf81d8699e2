"""The command that says which methods there are and what each of them does: methods."""

from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from codyra.cli.console import console
from codyra.errors import UserError


def methods(
    name: Annotated[str | None, typer.Argument(help="show the card of this method")] = None,
) -> None:
    """List the continual-learning methods, or show the card of one: what it trains, keeps, needs and costs."""
    from codyra.methods import method_names, read_declaration
    from codyra.methods.card import card
    from codyra.naming import did_you_mean

    if name is not None:
        if name not in method_names():
            raise UserError(f"there is no method {name!r}{did_you_mean(name, method_names())}")
        console.print(card(name), markup=False, end="")
        return
    table = Table("method", "what it does", "stores", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for each in method_names():
        declared = read_declaration(each)
        table.add_row(each, declared.summary, declared.stores)
    console.print(table)
    console.print("one of them with its options: codyra methods NAME")
