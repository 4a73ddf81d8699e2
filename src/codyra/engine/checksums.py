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
    "answers.json",
    "samples.json",
    "zero_shot.json",
    "zero_shot_predictions.jsonl",
    "guard.json",
    "accuracy.csv",
    "accuracy_task.csv",
    "metrics.json",
    "report.html",
    "harness.json",
)
TASK_FILES = (
    "shots.json",
    "train.jsonl",
    "adapter_model.safetensors",
    "adapter_config.json",
    "update.safetensors",
    "memory.safetensors",
    "ranks.json",
    "guard.json",
    "predictions.jsonl",
    "scores.json",
)
REWRITTEN = (
    "config.yaml",
    "labels.json",
    "answers.json",
    "samples.json",
    "accuracy.csv",
    "accuracy_task.csv",
    "metrics.json",
    "report.html",
)
"""Root files that every session writes anew from what it knows."""
CANDIDATE_FILES = ("adapter_model.safetensors", "adapter_config.json", "update.safetensors", "ranks.json")

_BLANK = "0" * 64
_OWN = re.compile(r'"sha256": "([0-9a-f]{64})"\n\}\n$')


def own_files(folder: Path) -> list[str]:
    """The files of a run that are there and settled, relative to it.

    Left out are manifest.json itself, checkpoints, which carry a checksum of their own, and what a task that is
    underway will write again.
    """
    names = [
        *ROOT_FILES,
        *(f"samples/{file.name}" for file in sorted((folder / "samples").glob("*.png"))),
    ]
    for task in sorted((folder / "tasks").glob("*")):
        learnt = (task / "ranks.json").is_file()
        names += [f"tasks/{task.name}/{name}" for name in (TASK_FILES if learnt else ("shots.json",))]
        if (task / "candidate/ranks.json").is_file():
            names += [f"tasks/{task.name}/candidate/{name}" for name in CANDIDATE_FILES]
    names += sorted(
        file.relative_to(folder).as_posix() for file in (folder / "archive").rglob("*") if file.is_file()
    )
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
