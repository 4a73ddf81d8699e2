"""How fuzz tests damage a file, and how long they go on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st


def fuzz(examples: int) -> Callable[..., Any]:
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )


@contextmanager
def replaced(file: Path, content: bytes) -> Iterator[None]:
    before = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(before)


@st.composite
def byte_edits(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Flip, insert, delete, cut off, double or replace bytes."""
    how = draw(st.sampled_from(["flip", "insert", "delete", "cut", "double", "replace"]))
    place, length = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(1, 40))
    new = draw(st.binary(min_size=1, max_size=40))

    def edit(content: bytes) -> bytes:
        note(f"{how} at {place}: {new!r}, {length}")
        at = int(place * len(content))
        match how:
            case "flip":
                return content[:at] + bytes([content[at] ^ (1 << length % 8)]) + content[at + 1 :]
            case "insert":
                return content[:at] + new + content[at:]
            case "delete":
                return content[:at] + content[at + length :]
            case "cut":
                return content[:at]
            case "double":
                return content + content
            case _:
                return new

    return edit
