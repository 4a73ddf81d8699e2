"""Writing a model directory so that every file in it is complete or absent."""

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from codyra.errors import UserError
from codyra.families.hush import hush
from codyra.files import remedy, write_atomic, write_bytes


def save_directory(directory: Path, *parts: Any, files: Mapping[str, bytes] | None = None) -> None:
    """Let every part (model, tokenizer, processor) save itself, then move the files into `directory` one by
    one.

    Args:
        directory: made when missing; files of other names in it stay.
        parts: objects with transformers' `save_pretrained`.
        files: further files by their relative names.

    Raises:
        UserError: the disk is full or the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with hush(), tempfile.TemporaryDirectory(dir=directory, prefix=".saving-") as temporary:
            for part in parts:
                part.save_pretrained(temporary)
            for source in sorted(Path(temporary).rglob("*")):
                if source.is_file():
                    write_atomic(directory / source.relative_to(temporary), partial(_move, source))
    except (OSError, SafetensorError) as error:
        mend = remedy(error) if isinstance(error, OSError) else "free some disk space"
        raise UserError(f"cannot write the model to {directory}: {error}; {mend}") from error
    for name, content in (files or {}).items():
        write_bytes(directory / name, content)


def _move(source: Path, target: Path) -> None:
    source.replace(target)
