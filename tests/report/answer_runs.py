"""Run folders of answers, made of what `write_run` writes for classes."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codyra import metrics


def make_answers(
    folder: Path,
    scored_by: Sequence[str],
    *,
    seen: bool = False,
    cut: Mapping[str, int] | None = None,
    unfinished: Mapping[str, int] | None = None,
    examples: Sequence[tuple[str, str]] = (("What is 2 + 2?", "4"),),
    prompt: str = "{}",
) -> Path:
    """Turn a finished or unfinished run folder into one whose tasks are prompts to be answered.

    Args:
        scored_by: the metric of every task.
        seen: leave the scores of tasks that were not learnt yet out.
        cut: prompts of a task that were cut; others had none.
        unfinished: answers of a task that did not end; others had none.
        examples: (prompt, answer) shown of every task.
    """
    (folder / "accuracy_task.csv").unlink()
    rows = list(csv.reader((folder / "accuracy.csv").open()))
    if seen:
        rows[2:] = [[*row[: i + 2], *[""] * len(row[i + 2 :])] for i, row in enumerate(rows[2:])]
        (folder / "accuracy.csv").write_text("".join(",".join(row) + "\n" for row in rows))

    manifest = _read(folder / "manifest.json")
    manifest["base"]["modality"] = "answers"
    for entry, metric in zip(manifest["data"], scored_by, strict=True):
        entry |= {"metric": metric, "classes": 0}
    manifest["ties"] = []
    _write(folder / "manifest.json", manifest)

    if (folder / "metrics.json").is_file():
        figures = _read(folder / "metrics.json")
        R = [[float(cell) if cell else None for cell in row[1:]] for row in rows[2:]]
        figures |= {**metrics.all_metrics(R), "label_space": None, "own_label_space": None}
        for (name, scores), metric in zip(figures["per_task"].items(), scored_by, strict=True):
            scores |= {"metric": metric, "cut": (cut or {}).get(name, 0)}
            scores["unfinished"] = (unfinished or {}).get(name, 0)
        _write(folder / "metrics.json", figures)

    shown = [{"text": text, "label": answer} for text, answer in examples]
    samples = [{"task": row["task"], "prompt": prompt, "examples": shown} for row in manifest["data"]]
    _write(folder / "samples.json", samples)
    return folder


def _read(file: Path) -> Any:
    return json.loads(file.read_text())


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content))
