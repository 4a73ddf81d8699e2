"""Atomic writes: a reader sees the old file or the new one, never half of either."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codyra.errors import UserError


def write_atomic(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a temporary file beside `path`, flush it to disk, then rename it over `path`.

    Raises:
        UserError: the file cannot be written (full disk, no permission); the old file is untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        fill(temporary)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free the disk or choose another --out"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Atomically replace `path` by `content`."""

    def fill(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomic(path, fill)


def write_text(path: Path, content: str) -> None:
    """Atomically replace `path` by `content`, UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Atomically replace `path` by `content` as indented JSON (no NaN or infinity, which JSON does not have)."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
