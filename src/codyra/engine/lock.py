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
_UNSUPPORTED = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS)
_MAX_BYTES = 4096


@contextmanager
def only_writer(folder: Path) -> Iterator[str | None]:
    """Hold the lock of `folder`, which is made when it does not exist and removed again when it stays empty.

    The kernel keeps the lock (flock) and drops it with the process, however that ends; network file systems of
    today pass it on to other machines. The file's content, pid and host, is for people; it decides alone only
    where the file system does not know flock.

    Yields:
        Who held the lock and is gone, when it was taken over; else None.

    Raises:
        UserError: somebody else holds it (pid and host are named), or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, held_before = _acquire(folder)
    except OSError as error:
        raise UserError(
            f"cannot write into {folder}: {error.strerror or error}; mend that or choose another place"
        ) from None
    try:
        yield held_before
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        os.close(handle)
        with suppress(OSError):  # not empty, as a rule
            folder.rmdir()


def _acquire(folder: Path) -> tuple[int, str | None]:
    """The open and locked file, and who held it before."""
    path = folder / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            free = _try_lock(handle)
            content = os.pread(handle, _MAX_BYTES, 0)
            if not free:
                raise UserError(
                    f"{folder}: {_named(content)} is writing to this run; wait until it is done or stop it "
                    f"(if it is surely gone, delete {path})"
                )
            # Whoever let go of the lock also removed the file: what was opened may be no longer there.
            if _is_still(path, handle):
                mine = {
                    "pid": os.getpid(),
                    "host": platform.node(),
                    "since": datetime.now(UTC).isoformat(timespec="seconds"),
                }
                os.ftruncate(handle, 0)
                os.pwrite(handle, json.dumps(mine).encode(), 0)
                return handle, _named(content) if content else None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return _is_gone(os.pread(handle, _MAX_BYTES, 0))
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
    except (ValueError, KeyError, TypeError):
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
