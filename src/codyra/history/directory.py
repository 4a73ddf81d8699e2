"""A directory that is there as a whole or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codyra.errors import UserError
from codyra.files import remedy


@contextmanager
def whole_directory(target: Path) -> Iterator[Path]:
    """Yield an empty hidden directory beside `target`, which takes its name when the block ends.

    It vanishes when the block fails; what a killed process left of it is replaced by the next attempt.

    Raises:
        UserError: `target` holds something, cannot be written, or another process is making it.
    """
    target = target.resolve()
    if not target.name:
        raise UserError(f"{target} is no place for a new folder; choose another --out")
    partial = target.with_name(f".{target.name}.partial")
    try:
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise UserError(f"{target} exists and is not an empty folder; choose another --out")
        handle = _claim(partial)
        try:
            yield partial
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            os.close(handle)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}; {remedy(error)}") from error


def _claim(partial: Path) -> int:
    """Make or take over the directory and empty it; the open descriptor keeps others away until it is closed."""
    partial.mkdir(parents=True, exist_ok=True)
    handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The one who held it may just have renamed or removed what was opened here.
        if not partial.exists() or not os.path.samestat(os.fstat(handle), partial.stat()):
            raise BlockingIOError
        for leftover in partial.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()
    except BaseException as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise UserError(
                f"another process is writing {partial}; wait for it or choose another --out"
            ) from None
        raise
    return handle
