"""What all commands share: where they print, how they print a number, what they say on Ctrl-C."""

import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from codyra.errors import visible


class _Terminal(Console):
    """A console that shows names and texts from files and never obeys them: their escape sequences are escaped."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                text = "\n".join(visible(line) for line in segment.text.split("\n"))
                yield Segment(text, segment.style)


console = _Terminal(highlight=False, soft_wrap=True)
errors = _Terminal(stderr=True, highlight=False, soft_wrap=True)


def figure(value: float | None, digits: int) -> str:
    """A number with this many digits, a dash for none."""
    return "-" if value is None else f"{value:.{digits}f}"


class Interrupted(Exception):
    """Ctrl-C, with what to do next."""


@contextmanager
def continue_with(*words: str, kept: str = "finished tasks are kept") -> Iterator[None]:
    """Say on Ctrl-C which command goes on; inside a command, because typer ends on Ctrl-C without a word."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"{kept}; continue with: {shlex.join(words)}") from None
