"""What all commands share: where they print, how they print a number, what they say on Ctrl-C."""

import shlex
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

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
    """Say on Ctrl-C which command goes on; inside a command, because typer ends on Ctrl-C without a word.

    Libraries in C may swallow the interrupt and report what it broke: torch, asked by safetensors how long a storage
    is, "could not determine the shape". So any error after Ctrl-C counts as Ctrl-C; a true one comes again.
    """
    pressed = False
    before = signal.getsignal(signal.SIGINT)

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        if callable(before):
            before(number, frame)

    if callable(before):  # it is not where a shell has its background jobs ignore Ctrl-C
        signal.signal(signal.SIGINT, press)
    try:
        yield
    except Interrupted:
        raise
    except (KeyboardInterrupt, Exception) as error:
        if not pressed and not isinstance(error, KeyboardInterrupt):
            raise
        raise Interrupted(f"{kept}; continue with: {shlex.join(words)}") from None
    finally:
        if callable(before):
            signal.signal(signal.SIGINT, before)
