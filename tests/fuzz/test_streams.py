"""Damaged data: a stream is built, or one line says what is wrong where."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from hypothesis import given, note
from hypothesis import strategies as st
from PIL import Image

from codyra.errors import UserError
from codyra.streams import StreamSpec, build_stream, check_images
from mutations import byte_edits, fuzz, replaced

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::RuntimeWarning"
)  # Pillow about damage

ROWS = [
    {"text": f'text {n}, "quoted" and\nbroken, été {n}', "label": ("yes", "no", "maybe")[n % 3]}
    for n in range(24)
]


RECORDS = [{"id": n, "prompt": row["text"], "answer": row["label"]} for n, row in enumerate(ROWS)]
CHATS = [
    {"messages": [{"role": "user", "content": row["text"]}, {"role": "assistant", "content": row["label"]}]}
    for row in ROWS
]


def write_records(kind: str, rows: list[dict], folder: Path) -> None:
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        file = folder / f"{split}.{kind}"
        if kind == "csv":
            with file.open("w", newline="", encoding="utf-8") as out:
                writer = csv.DictWriter(out, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        elif kind == "parquet":
            datasets.Dataset.from_list(rows).to_parquet(file)
        else:
            file.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)))


def write_table(kind: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        if kind == "csv":
            lines = [
                '"{text}","{label}"'.format(**{k: v.replace('"', '""') for k, v in row.items()})
                for row in ROWS
            ]
            (folder / f"{split}.csv").write_text("\n".join(["text,label", *lines]))
        elif kind == "json":
            (folder / f"{split}.json").write_text(json.dumps(ROWS))
        elif kind == "jsonl":
            (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
        else:
            table = datasets.Dataset.from_list(ROWS).class_encode_column("label")
            table.to_parquet(folder / f"{split}.parquet")


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for kind in ("csv", "json", "jsonl", "parquet"):
        write_table(kind, folder / kind)
        write_records(kind, RECORDS, folder / f"records-{kind}")
        if kind != "csv":
            write_records(kind, CHATS, folder / f"chats-{kind}")
    for split in ("train", "test"):
        for colour, ending in (
            ("red", "png"),
            ("blue", "jpg"),
            ("lime", "gif"),
            ("teal", "webp"),
            ("navy", "tif"),
        ):
            place = folder / "imagefolder" / split / colour
            place.mkdir(parents=True)
            Image.new("RGB", (12, 9), colour).save(place / f"1.{ending}")
    return folder


def spec_of(kind: str) -> StreamSpec:
    source = kind.rpartition("-")[2].replace("jsonl", "json")
    return StreamSpec.model_validate({"tasks": [{"name": "task", "data": f"{source}:{kind}", "shots": 1}]})


def check(data: Path, kind: str, which: int, edit: Callable[[bytes], bytes]) -> None:
    files = sorted(file for file in (data / kind).rglob("*") if file.is_file())
    file = files[which % len(files)]
    content = edit(file.read_bytes())
    with replaced(file, content):
        try:
            asked = "answers" if "-" in kind else "classes"
            tasks = build_stream(spec_of(kind), kind=asked, seed=0, default_prompt="{}", root=data)
            check_images([task.train for task in tasks])
        except UserError as error:
            line = str(error)
            assert line.isprintable()
            assert str(data / kind) in line or "'task'" in line


KINDS = st.sampled_from(
    [
        *("csv", "json", "jsonl", "parquet", "imagefolder", "records-csv", "records-json", "records-jsonl"),
        *("records-parquet", "chats-json", "chats-jsonl", "chats-parquet"),
    ]
)


@pytest.mark.parametrize("examples", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_data(data: Path, examples: int) -> None:
    @fuzz(examples)
    @given(KINDS, st.integers(0, 10), byte_edits())
    def damage(kind: str, which: int, edit: Callable[[bytes], bytes]) -> None:
        note(f"{kind}, file {which}")
        check(data, kind, which, edit)

    damage()


# --- inputs that once broke something

REGRESSIONS: dict[str, tuple[str, bytes, str]] = {
    "deep JSON": ("json/train.json", b"[" * 100_000, "is not JSON"),
    "deep JSON lines": ("jsonl/train.jsonl", b"[" * 100_000, "is not JSON"),
    "a number of 10000 digits": ("json/train.json", b"[" + b"9" * 10_000 + b"]", "is not JSON"),
    "half a surrogate pair": (
        "json/train.json",
        b'[{"text": "\\ud800", "label": "yes"}]',
        "not valid Unicode",
    ),
    "half a surrogate pair, label": (
        "json/train.json",
        b'[{"text": "a", "label": "\\ud800"}]',
        "not valid Unicode",
    ),
}


@pytest.mark.parametrize("case", REGRESSIONS)
def test_what_once_broke(data: Path, case: str) -> None:
    name, content, message = REGRESSIONS[case]
    with replaced(data / name, content), pytest.raises(UserError, match=message):
        build_stream(spec_of(name.partition("/")[0]), seed=0, default_prompt="{}", root=data)


@pytest.mark.parametrize(
    "edit", [(b'"names"', b'"names;'), (b'["maybe"', b"[  77777"), (b"ClassLabel", b"ClassTable")]
)
def test_features_that_parquet_declares_wrongly(data: Path, edit: tuple[bytes, bytes]) -> None:
    file = data / "parquet/train.parquet"
    assert edit[0] in file.read_bytes()
    check(data, "parquet", 1, lambda content: content.replace(*edit))


def test_a_pipe_among_the_pictures(data: Path) -> None:
    pipe = data / "imagefolder/train/red/pipe.png"
    os.mkfifo(pipe)
    try:
        with pytest.raises(UserError, match=r"pipe.png is no file"):
            build_stream(spec_of("imagefolder"), seed=0, default_prompt="{}", root=data)
    finally:
        pipe.unlink()


def test_a_class_folder_that_is_no_text(data: Path) -> None:
    folder = os.fsencode(data / "imagefolder/train") + b"/\xff"
    os.mkdir(folder)
    try:
        with pytest.raises(UserError, match="not valid Unicode"):
            build_stream(spec_of("imagefolder"), seed=0, default_prompt="{}", root=data)
    finally:
        os.rmdir(folder)
