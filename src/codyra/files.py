"""Atomic writes: a reader sees the old file or the new one, never half of either, even after a power cut."""

import errno
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codyra.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")
_REMEDIES = {
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some of your disk quota",
    errno.EACCES: "make the folder writable or choose another place",
    errno.EPERM: "make the folder writable or choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
}


def write_atomic(path: Path, fill: Callable[[Path], None], durable: bool = True) -> None:
    """Let `fill` write a temporary file beside `path`, flush it to disk, then rename it over `path`.

    Args:
        durable: wait until the disk has it; without, a power cut may lose what can be made again.

    Raises:
        UserError: the file cannot be written (full disk, no permission); the old file is untouched.
    """
    try:
        replace(path, fill, durable)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; {remedy(error)}") from error


def replace(path: Path, fill: Callable[[Path], None], durable: bool = True) -> None:
    """`write_atomic` for a caller that can do without the file.

    Raises:
        OSError: the file cannot be written; the old file is untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        fill(temporary)
        if durable:
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        if durable:
            sync_folder(path.parent)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remedy(error: OSError) -> str:
    """What the user can do about a file that could not be written."""
    return _REMEDIES.get(error.errno or 0, "mend that or choose another place")


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move(source: Path, target: Path) -> None:
    """Rename a file or folder within one file system, atomically.

    Raises:
        UserError: it cannot be moved.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        sync_folder(source.parent)
        sync_folder(target.parent)
    except OSError as error:
        raise UserError(f"cannot move {source} to {target}: {error.strerror or error}; mend that") from error


def sweep(folder: Path) -> None:
    """Remove the unfinished files of processes that were killed while they wrote below `folder`."""
    for place, _, names in os.walk(folder):
        for name in filter(is_temporary, names):
            Path(place, name).unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """True for the name of a file that `write_atomic` had not finished when its process was killed."""
    return _TEMPORARY.fullmatch(name) is not None


def write_bytes(path: Path, content: bytes, durable: bool = True) -> None:
    """Atomically replace `path` by `content`; `durable` as in `write_atomic`."""

    def fill(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomic(path, fill, durable)


def write_text(path: Path, content: str) -> None:
    """Atomically replace `path` by `content`, UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Atomically replace `path` by `content` as indented JSON (no NaN or infinity, which JSON does not have)."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]) -> None:
    """Atomically replace `path` by a safetensors file; the same tensors give the same bytes."""
    import safetensors.torch
    from safetensors import SafetensorError

    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}

    def fill(temporary: Path) -> None:
        try:
            safetensors.torch.save_file(contiguous, temporary, metadata=dict(metadata))
        except SafetensorError as error:  # how safetensors reports a full disk: "... (os error 28)"
            number = re.search(r"os error (\d+)", str(error))
            raise (
                OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))
            ) from error

    write_atomic(path, fill)
