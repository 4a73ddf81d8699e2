"""One writer per run folder: a lock that names its holder and that a dead process cannot keep."""

import errno
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from codyra.errors import UserError

LOCK = "lock.json"
_UNSUPPORTED = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EBADF)
_MAX_BYTES = 4096


@contextmanager
def only_writer(folder: Path) -> Iterator[str | None]:
    """Hold the lock of `folder`, which is made when it does not exist and removed again when it stays empty.

    The kernel keeps the lock (flock) and drops it with the process, however that ends. It is taken on the folder
    itself, which nobody can delete by mistake, and on lock.json, for network file systems that lock files only. The
    content of lock.json, pid and host, is for people; it decides alone where nothing can be locked.

    Yields:
        Who held the lock and is gone, when it was taken over; else None.

    Raises:
        UserError: somebody else holds it (pid and host are named), or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handles, held_before = _acquire(folder)
    except OSError as error:
        raise UserError(
            f"cannot write {folder / LOCK}: {error.strerror or error}; mend that or choose another place"
        ) from None
    try:
        yield held_before
    finally:
        with suppress(OSError):  # the folder may have been moved in the meantime
            if os.path.samestat((folder / LOCK).stat(), os.fstat(handles[-1])):
                (folder / LOCK).unlink()
        with suppress(OSError):  # not empty, as a rule
            folder.rmdir()
        _close(handles)


def _acquire(folder: Path) -> tuple[list[int], str | None]:
    """The open and locked folder and file, and who held them before."""
    path = folder / LOCK
    while True:
        handles: list[int] = []
        try:
            handles.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            free = [_try_lock(handles[0])]
            if free == [False]:
                raise UserError(_held(folder, _content(path)))
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            handles.append(os.open(path, flags, 0o644))
            free.append(_try_lock(handles[1]))
            content = os.pread(handles[1], _MAX_BYTES, 0)
            lockable = any(state is not None for state in free)
            if False in free or (not lockable and not _is_gone(content)):
                doubt = "" if lockable else f" (if it is surely gone, delete {path})"
                raise UserError(_held(folder, content) + doubt)
            # Whoever let go of the lock may have removed what was opened here.
            if _is_still(folder, handles[0]) and _is_still(path, handles[1]):
                mine = {
                    "pid": os.getpid(),
                    "host": platform.node(),
                    "since": datetime.now(UTC).isoformat(timespec="seconds"),
                }
                os.ftruncate(handles[1], 0)
                os.pwrite(handles[1], json.dumps(mine).encode(), 0)
                return handles, _named(content) if content else None
        except BaseException:
            _close(handles)
            raise
        _close(handles)
        folder.mkdir(parents=True, exist_ok=True)


def _held(folder: Path, content: bytes) -> str:
    return f"{folder}: {_named(content)} is writing to this run; wait until it is done or stop it"


def _content(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with os.fdopen(handle, "rb") as file:
        return file.read(_MAX_BYTES)


def _close(handles: list[int]) -> None:
    for handle in handles:
        os.close(handle)


def _try_lock(handle: int) -> bool | None:
    """True when locked, False when somebody else has it, None where this cannot be locked."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return None
    return True


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _parsed(content: bytes) -> tuple[int, str] | None:
    try:
        holder = json.loads(content)
        return int(holder["pid"]), str(holder["host"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _named(content: bytes) -> str:
    holder = _parsed(content)
    return f"process {holder[0]} on {holder[1]}" if holder else "another process"


def _is_gone(content: bytes) -> bool:
    """Without flock: nobody is named, or a process of this machine that no longer runs."""
    holder = _parsed(content)
    if holder is None:
        return not content
    pid, host = holder
    if host != platform.node():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False
