"""Checksums of a run folder: manifest.json lists those of all other files and ends with its own."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from codyra.reading import sha256

ROOT_FILES = (
    "config.yaml",
    "labels.json",
    "samples.json",
    "zero_shot.json",
    "guard.json",
    "accuracy.csv",
    "accuracy_task.csv",
    "metrics.json",
    "report.html",
)
TASK_FILES = (
    "shots.json",
    "train.jsonl",
    "adapter_model.safetensors",
    "adapter_config.json",
    "update.safetensors",
    "ranks.json",
    "guard.json",
    "scores.json",
)
LEARNT_FILES = frozenset(TASK_FILES) - {"guard.json", "scores.json"}
"""Files of a task that nothing touches once it is learnt; scores may be taken again."""

_BLANK = "0" * 64
_OWN = re.compile(r'"sha256": "([0-9a-f]{64})"\n\}\n$')


def own_files(folder: Path, task_folders: Iterable[str]) -> list[str]:
    """The files of a run that are there, relative to it, checkpoints and manifest.json left out."""
    names = [
        *ROOT_FILES,
        *(f"samples/{file.name}" for file in sorted((folder / "samples").glob("*.png"))),
        *(f"{task}/{name}" for task in task_folders for name in TASK_FILES),
    ]
    return [name for name in names if (folder / name).is_file()]


def take(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of these files."""
    return {name: sha256(folder / name) for name in names}


def seal(manifest: Mapping[str, Any]) -> str:
    """The text of manifest.json, with the SHA-256 of itself as its last entry (computed with 64 zeros there)."""
    content = {key: value for key, value in manifest.items() if key != "sha256"} | {"sha256": _BLANK}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    head, _, tail = text.rpartition(_BLANK)
    return head + hashlib.sha256(text.encode()).hexdigest() + tail


def is_sealed(text: str) -> bool:
    """True when not a byte of a manifest.json changed since `seal`."""
    found = _OWN.search(text)
    if found is None:
        return False
    blank = text[: found.start(1)] + _BLANK + text[found.end(1) :]
    return hashlib.sha256(blank.encode()).hexdigest() == found.group(1)
