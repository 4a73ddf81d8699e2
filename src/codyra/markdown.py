"""The little Markdown that cards and tables are made of."""

import re
from collections.abc import Iterable, Sequence

import yaml

from codyra.errors import visible

DASH = "-"
_SIGNS = r"[|<>&`*~$\[\]\\]|(?<![^\W_])_|_(?![^\W_])"
"""What Markdown, GitHub's included, takes for its own. An underscore inside a word is only an underscore."""


def front_matter(**entries: object) -> str:
    """The metadata block at the head of a card; entries that are None are left out."""
    known = {key: entry for key, entry in entries.items() if entry is not None}
    return f"---\n{yaml.safe_dump(known, sort_keys=False, allow_unicode=True)}---"


def code_block(language: str, code: str) -> str:
    """Fenced code; the fence is longer than any in the code."""
    fence = "`" * max([3, *(1 + len(ticks) for ticks in re.findall("`+", code))])
    return f"{fence}{language}\n{code.rstrip()}\n{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A table of cells that are Markdown already; the last `numbers` columns are aligned to the right."""
    lines = [head, ["---"] * (len(head) - numbers) + ["---:"] * numbers, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(content: str) -> str:
    """`content` on one line, with nothing in it that Markdown, HTML or a table would read as its own."""
    flat = visible(" ".join(content.split()))
    return re.sub(_SIGNS, lambda sign: f"&#{ord(sign[0])};", flat)


def figure(value: object, digits: int) -> str:
    """A number with this many digits, a dash for anything else."""
    return f"{value:.{digits}f}" if isinstance(value, int | float) else DASH


def numbered(tasks: Sequence[int]) -> str:
    """`task 2`, `tasks 1, 2, 5`."""
    return f"task{'s' if len(tasks) > 1 else ''} {', '.join(map(str, tasks))}"
