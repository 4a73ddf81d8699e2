"""Names that people give: which ones a task may have, and the nearest legal one for a mistyped one."""

import difflib
import unicodedata
from collections.abc import Iterable

from codyra.errors import UserError

MAX_TASK_NAME = 64
MAX_TASK_NAME_BYTES = 200
"""A file system's 255, less the number of the task and what a temporary name adds."""
_MAX_COMPARED = 100
"""Longer words are never the mistyped form of a name, and comparing them takes the square of their length."""


def check_task_name(name: str) -> str:
    """Return `name`, which a folder of a run and a column of accuracy.csv can have.

    Raises:
        UserError: it is empty, too long, or would not stay inside the run folder.
    """
    if not name or name != name.strip():
        raise UserError("a task name must not be empty, nor begin or end with a space")
    if len(name) > MAX_TASK_NAME:
        raise UserError(f"a task name has at most {MAX_TASK_NAME} characters, this one has {len(name)}")
    if len(name.encode("utf-8", "replace")) > MAX_TASK_NAME_BYTES:
        raise UserError(
            f"task name {name!r} takes more than {MAX_TASK_NAME_BYTES} bytes, which file systems refuse"
        )
    if name[0] == "." or ".." in name or not name.isprintable() or set(name) & set("/\\"):
        raise UserError(
            f"task name {name!r} cannot name a folder; no / or \\, '..', leading dot or control character"
        )
    if name.casefold() == "zero-shot":
        raise UserError("'zero-shot' is the first row of every accuracy table; choose another task name")
    return name


def check_distinct(names: Iterable[str]) -> None:
    """Raise UserError for two task names that some file system would give one folder."""
    by_folder: dict[str, str] = {}
    for name in names:
        # Some file systems ignore case or normalise accents.
        folder = unicodedata.normalize("NFC", name).casefold()
        if folder in by_folder:
            raise UserError(f"two tasks are named {name!r} and {by_folder[folder]!r}; rename one of them")
        by_folder[folder] = name


def task_folder(task_index: int, name: str) -> str:
    """Folder of a task below tasks/; people count from 01, code from 0."""
    return f"{task_index + 1:02d}-{name}"


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `word` is probably a mistyped form of."""
    if len(word) > _MAX_COMPARED:
        return None
    near = difflib.get_close_matches(word, [name for name in names if len(name) <= _MAX_COMPARED], n=1)
    return near[0] if near else None


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Half a sentence to append to an error: the nearest of `names`, or a short list of what there is."""
    names = list(names)
    near = nearest(word, names)
    if near:
        return f", did you mean '{near}'?"
    return f" (there are {', '.join(names[:8])}{', ...' if len(names) > 8 else ''})" if names else ""
