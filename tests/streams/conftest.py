"""Small data sets on disk, and a builder that needs only what a test is about."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from codyra.streams import StreamSpec, Task, build_stream

Rows = list[tuple[Any, Any]]


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., list[Task]]:
    """build(task, task, ..., stream={...}, **options): a stream whose config lies in tmp_path."""

    def call(*tasks: dict[str, Any], stream: dict[str, Any] | None = None, **options: Any) -> list[Task]:
        spec = StreamSpec.model_validate({"tasks": list(tasks)} | (stream or {}))
        defaults = {"seed": 8, "default_prompt": "a photo of a {}.", "root": tmp_path}
        return build_stream(spec, **defaults | options)

    return call


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """pets/{train,test,val}/{cat,dog,red_fox}: 4, 5, 6 training images, 2 each elsewhere, all different."""
    sizes = {"train": (4, 5, 6), "test": (2, 2, 2), "val": (2, 2, 2)}
    for split, counts in sizes.items():
        for class_number, name in enumerate(("cat", "dog", "red_fox")):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for number in range(counts[class_number]):
                colour = (60 * class_number, 9 * number, 50 * len(split))
                Image.new("RGB", (4, 3), colour).save(folder / f"{number}.png")
    return tmp_path / "pets"


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """table(train, test, kind="csv"): write (text, label) pairs as mail/train.* and mail/test.*."""

    def write(train: Rows, test: Rows, kind: str = "csv") -> Path:
        folder = tmp_path / "mail"
        folder.mkdir(exist_ok=True)
        for split, rows in (("train", train), ("test", test)):
            write_rows(folder / f"{split}.{kind}", rows)
        return folder

    return write


def write_rows(path: Path, rows: Rows) -> None:
    records = [{"text": text, "label": label} for text, label in rows]
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    elif path.suffix == ".json":
        path.write_text(json.dumps(records), encoding="utf-8")
    elif path.suffix == ".jsonl":
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(records), path)
