"""What tests of surviving runs share: all files of a folder, and writes that fail or are cut short."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from codyra import files
from codyra.engine import checksums


class Killed(BaseException):
    """Stands for the end of the process: nothing in the package may catch it."""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but manifest.json, which alone holds wall-clock figures, by its relative name."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / "manifest.json"
    }


class FaultyFiles:
    """In place of `files.write_atomic`: passes writes on until the one numbered `at`, which goes wrong as `mode` says.

    "killed before" and "killed after" the rename; "truncated": half of the file is in the temporary one, as a
    killed process leaves it; "failed": the disk is full.
    """

    MODES = ("killed before", "truncated", "killed after", "failed")

    def __init__(self, at: int, mode: str) -> None:
        self.at, self.mode = at, mode
        self.written: list[Path] = []
        self._real = files.write_atomic

    def __call__(self, path: Path, fill: Callable[[Path], None], durable: bool = True) -> None:
        number = len(self.written)
        self.written.append(path)
        if number != self.at:
            self._real(path, fill)
            return
        if self.mode == "killed after":
            self._real(path, fill)
        elif self.mode == "truncated":
            temporary = path.parent / f".{path.name}.abcdefgh.tmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            fill(temporary)
            os.truncate(temporary, temporary.stat().st_size // 2)
        elif self.mode == "failed":

            def full(temporary: Path) -> None:
                temporary.write_bytes(b"half")
                raise OSError(28, "No space left on device")

            self._real(path, full)
        raise Killed


def reseal(folder: Path) -> None:
    """Take all checksums again, as a forger would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = checksums.take(folder, manifest["files"])
    (folder / "manifest.json").write_text(checksums.seal(manifest))
