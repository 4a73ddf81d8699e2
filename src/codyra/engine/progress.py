"""What long work tells the person who waits: a bar with the time left on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 15.0
"""Without a terminal, a line at most this often while one piece of work goes on."""


class Narrator:
    """Speaks on one console; `quiet` says nothing at all."""

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(quiet=quiet, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """One line; square brackets are text, not markup."""
        self.console.print(text, markup=False)

    @contextmanager
    def work(self, label: str, total: int, first: int = 0) -> Iterator[Callable[[int], None]]:
        """Show `label` while the block runs; the yielded function takes how many more of `total` are done.

        Args:
            first: how many were done before, when the work is continued.
        """
        if first:
            self.say(f"  {label}: continuing after {first} of {total}")
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self.console, transient=True) as bar:
                handle = bar.add_task(label, total=total, completed=first)
                yield lambda more: bar.advance(handle, more)
            return
        started = last = time.monotonic()
        done = 0

        def tell(more: int) -> None:
            nonlocal last, done
            now = time.monotonic()
            done += more
            rest = total - first - done
            if now - last >= PLAIN_SECONDS and done and rest:
                last = now
                self.say(
                    f"  {label}: {first + done}/{total}, about {duration((now - started) / done * rest)} left"
                )

        yield tell


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = max(1, round(seconds))
    for unit, size, smaller, smaller_size in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def count(number: int, what: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{number} {what}" + ("s" if number != 1 else "")


def size(num_bytes: float) -> str:
    """`9.3 MB`, `1.2 GB`; decimal units."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{max(num_bytes / 1e3, 0.1):.1f} kB"
