"""The machine's cache: what every run would make anew from the same data, kept from one run to the next.

It holds the pixels of test sets (`pixels/<test set>-<key>.npy`) and notes that images were found to be readable
(`checked/<key>`, empty). Deleting any of it, at any time, costs time and nothing else.
"""

import fcntl
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from codyra import files
from codyra.errors import UserError

DEFAULT_GIB = 32
RESERVE_BYTES = 5 * 2**30
"""Of the disk this much stays free, or a twentieth where that is less."""

_ENTRY = re.compile(r"(?P<name>.+)-(?P<key>[0-9a-f]{32})\.npy")
_UNFINISHED = re.compile(r"\..+-(?P<key>[0-9a-f]{32})\.npy\.[a-z0-9_]{8}\.tmp")
_LOCK = re.compile(r"(?P<key>[0-9a-f]{32})\.lock")
_SHAPE = re.compile(rb"\x93NUMPY\x01\x00.*'shape': \((\d+), (\d+), (\d+), (\d+)\)", re.DOTALL)
_UNFIT = re.compile(r"[^\w.-]")
_NOTE = re.compile(r"[0-9a-f]{64}")


class NoCache(Exception):
    """Why something cannot be kept; the run does without."""


@dataclass(frozen=True)
class Entry:
    """The pixels of one test set.

    Attributes:
        name: the test set, as the task is called that used it first.
        size: bytes.
        used: when it was last used, in seconds since 1970.
    """

    path: Path
    name: str
    size: int
    used: float


def cache_folder() -> Path:
    """$CODYRA_CACHE_DIR, else codyra in $XDG_CACHE_HOME, else ~/.cache/codyra; it need not exist.

    Raises:
        UserError: there is no home folder.
    """
    if chosen := os.environ.get("CODYRA_CACHE_DIR"):
        return Path(chosen).absolute()
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(caches):
        return Path(caches) / "codyra"
    try:
        return Path.home() / ".cache" / "codyra"
    except RuntimeError:
        raise UserError("no home folder to keep the cache in; set CODYRA_CACHE_DIR") from None


def pixel_folder() -> Path:
    """Where the entries lie."""
    return cache_folder() / "pixels"


def limit_bytes() -> int:
    """What all entries together may take: $CODYRA_CACHE_GIB, 32 by default; 0 means that nothing is kept.

    Raises:
        UserError: it is no number.
    """
    text = os.environ.get("CODYRA_CACHE_GIB") or str(DEFAULT_GIB)
    try:
        gib = float(text)
    except ValueError:
        gib = math.nan
    if not 0 <= gib < math.inf:
        raise UserError(f"CODYRA_CACHE_GIB is {text!r}; give a number of GiB, or 0 for no cache")
    return int(gib * 2**30)


def entry_name(name: str, key: str) -> str:
    """File name of an entry; `name` is for people, `key` (32 hexadecimal digits) finds it."""
    return f"{_UNFIT.sub('_', name)[:30]}-{key}.npy"


def entries() -> list[Entry]:
    """All entries, the least recently used first.

    Raises:
        OSError: the folder cannot be read.
    """
    found = [Entry(path, match["name"], stat.st_size, stat.st_mtime) for match, path, stat in _files(_ENTRY)]
    return sorted(found, key=lambda entry: entry.used)


def num_images(entry: Entry) -> int | None:
    """How many images an entry holds; None when it is not a complete file of pixels, which a run would replace.

    Raises:
        OSError: it cannot be read.
    """
    with entry.path.open("rb") as file:
        head = file.read(256)
    shape = _SHAPE.match(head)
    if shape is None:
        return None
    lengths = [int(length) for length in shape.groups()]
    size_of_header = 10 + int.from_bytes(head[8:10], "little")
    return lengths[0] if entry.size == size_of_header + math.prod(lengths) else None


def make_room(needed_bytes: int, keep: Collection[Path]) -> None:
    """Remove least recently used entries, and what killed processes left, until so much more can be written.

    Only under the lock `room.lock`, until the new file has its full length: unfinished files count.

    Args:
        keep: entries that are not removed.

    Raises:
        NoCache: there would not be enough room even then; no entry was removed.
        OSError: the folder cannot be read or written.
    """
    _sweep()
    present = entries()
    unfinished = [stat for _, _, stat in _files(_UNFINISHED)]
    limit, disk = limit_bytes(), shutil.disk_usage(pixel_folder())
    used = sum(entry.size for entry in present) + sum(stat.st_size for stat in unfinished)
    promised = sum(max(0, stat.st_size - 512 * stat.st_blocks) for stat in unfinished)
    free = disk.free - promised - min(RESERVE_BYTES, disk.total // 20)
    removable = [entry for entry in present if entry.path not in keep]
    to_gain = sum(entry.size for entry in removable)
    if used - to_gain + needed_bytes > limit:
        raise NoCache(
            f"{needed_bytes / 1e9:.3g} GB more would exceed the limit of {limit / 1e9:.3g} GB (CODYRA_CACHE_GIB)"
        )
    if needed_bytes > free + to_gain:
        raise NoCache(f"{needed_bytes / 1e9:.3g} GB more would fill the disk of {pixel_folder()}")
    excess = max(used + needed_bytes - limit, needed_bytes - free)
    for entry in removable:
        if excess <= 0:
            break
        entry.path.unlink(missing_ok=True)
        excess -= entry.size


def discard(key: str) -> None:
    """Remove the entry `key` and what a killed process had of it; only under its lock.

    Raises:
        OSError: something cannot be removed.
    """
    _remove(_ENTRY, key)
    _remove(_UNFINISHED, key)


def clear() -> None:
    """Remove everything; what another run is just writing it still brings to its end.

    Raises:
        OSError: something cannot be removed.
    """
    for entry in entries():
        entry.path.unlink(missing_ok=True)
    _sweep()
    files.sweep(cache_folder() / "checked")
    for _, path, _ in _files(_NOTE, cache_folder() / "checked"):
        path.unlink(missing_ok=True)


def is_noted(key: str) -> bool:
    """Whether `note(key)` was called before, on this machine."""
    return limit_bytes() > 0 and (cache_folder() / "checked" / key).is_file()


def note(key: str) -> None:
    """Remember `key` (64 hexadecimal digits) where that is possible."""
    if limit_bytes() == 0:
        return
    try:
        files.replace(cache_folder() / "checked" / key, lambda temporary: None, durable=False)
    except OSError:
        return  # it is found out again the next time


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock file `path`, which is removed afterwards; the kernel takes it from a process that dies.

    Args:
        waiting: called once when somebody else holds it.

    Raises:
        OSError: the file system cannot lock.
    """
    handle = _acquire(path, block=False)
    if handle is None:
        if waiting is not None:
            waiting()
        handle = _acquire(path, block=True)
    assert handle is not None
    try:
        yield
    finally:
        _release(path, handle)


def _acquire(path: Path, block: bool) -> int | None:
    """The open and locked file; None when somebody else holds it and `block` is False."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if block else fcntl.LOCK_NB))
            # Whoever let go of the lock has removed the file that was opened here.
            if os.path.samestat(path.stat(), os.fstat(handle)):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _release(path: Path, handle: int) -> None:
    try:
        path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _sweep() -> None:
    """Remove the unfinished files and locks of processes that are gone."""
    for key in {match["key"] for pattern in (_UNFINISHED, _LOCK) for match, _, _ in _files(pattern)}:
        lock = pixel_folder() / f"{key}.lock"
        handle = _acquire(lock, block=False)
        if handle is not None:
            _remove(_UNFINISHED, key)
            _release(lock, handle)


def _remove(pattern: re.Pattern[str], key: str) -> None:
    for match, path, _ in _files(pattern):
        if match["key"] == key:
            path.unlink(missing_ok=True)


def _files(
    pattern: re.Pattern[str], folder: Path | None = None
) -> list[tuple[re.Match[str], Path, os.stat_result]]:
    """The regular files with such a name in a folder, that of the entries by default."""
    found = []
    with suppress(FileNotFoundError), os.scandir(folder or pixel_folder()) as items:
        for item in items:
            match = pattern.fullmatch(item.name)
            with suppress(FileNotFoundError):  # another process removes files here, too
                if match and item.is_file(follow_symlinks=False):
                    found.append((match, Path(item), item.stat()))
    return found
