"""Damaged and hostile run folders: every loader returns or raises one line that names the file, nothing else."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from codyra import run
from codyra.engine.config import load_config
from codyra.engine.folder_reader import read_run
from codyra.errors import UserError
from codyra.report import render
from codyra.update import TaskUpdate

SLOW = pytest.mark.slow


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory, pictures) -> Path:
    """A small finished run; a test puts back what it damages."""
    tasks = [{"name": name, "data": f"imagefolder:{pictures / name}", "shots": 4} for name in ("warm", "cool")]
    config = {
        "model": {"name": "builtin:tiny-clip"},
        "method": {"name": "codyra", "r": 2, "targets": ["layers.0.self_attn.q_proj"]},
        "train": {"steps": 6, "batch_size": 4},
        "stream": {"tasks": tasks},
    }
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    run(config, out=folder)
    return folder


def files_of(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


@contextmanager
def replaced(file: Path, content: bytes) -> Iterator[None]:
    before = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(before)


def survive(folder: Path) -> None:
    """Load the folder in every way there is."""
    loaders: list[Callable[[], Any]] = [
        lambda: render([read_run(folder)]).encode(),
        lambda: load_config(folder / "config.yaml"),
        *(lambda task=task: TaskUpdate.load(task) for task in sorted((folder / "tasks").iterdir())),
    ]
    for load in loaders:
        try:
            load()
        except UserError as error:
            line = str(error)
            assert line.isprintable(), line
            assert str(folder) in line


# --- bytes


@st.composite
def byte_edits(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Flip, insert, delete, cut off, double or replace bytes."""
    how = draw(st.sampled_from(["flip", "insert", "delete", "cut", "double", "replace"]))
    place, length = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(1, 40))
    new = draw(st.binary(min_size=1, max_size=40))

    def edit(content: bytes) -> bytes:
        at = int(place * len(content))
        match how:
            case "flip":
                return content[:at] + bytes([content[at] ^ (1 << length % 8)]) + content[at + 1 :]
            case "insert":
                return content[:at] + new + content[at:]
            case "delete":
                return content[:at] + content[at + length :]
            case "cut":
                return content[:at]
            case "double":
                return content + content
            case _:
                return new

    return edit


def check_bytes(folder: Path, name: str, edit: Callable[[bytes], bytes]) -> None:
    file = folder / name
    content = edit(file.read_bytes())
    note(f"{name}: {content[:200]!r}")
    with replaced(file, content):
        survive(folder)


# --- values

HOSTILE = [
    None,
    True,
    -1,
    0,
    2**63,
    10**400,
    1e308,
    -1e308,
    5e-324,
    1e-320,
    [],
    {},
    [[]],
    [{}],
    [None] * 50,
    [1, 2] * 2000,
    "",
    " ",
    "\x00",
    "\x1b[31mred\x1b[0m",
    "new\nline\r\ttab",
    "\u202egnp.exe",
    "\ud800",
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    "C:\\windows",
    "x" * 100_000,
    "(((((a+)+)+)+)+)$",
    "nan",
    "inf",
    "1e999",
    "__class__",
    "zero-shot",
    {"__proto__": 1},
    {"": ""},
    {"a.b.c": {"kept": 1, "r": 1, "norm": 1}},
]
values = st.one_of(
    st.sampled_from(HOSTILE),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=8,
    ),
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a value stands in nested lists and mappings."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


def put(content: Any, place: tuple[Any, ...], value: Any, how: str) -> Any:
    if not place:
        return value
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    if how == "remove":
        del parent[place[-1]]
    elif how == "rename" and isinstance(parent, dict) and isinstance(value, str):
        parent[value] = parent.pop(place[-1])
    else:
        parent[place[-1]] = value
    return content


def parsed(name: str, text: str) -> Any:
    if name.endswith(".yaml"):
        return yaml.safe_load(text)
    if name.endswith(".csv"):
        return list(csv.reader(io.StringIO(text)))
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text)


def written(name: str, content: Any) -> bytes:
    if name.endswith(".yaml"):
        text = yaml.safe_dump(content)
    elif name.endswith(".csv") and isinstance(content, list):
        buffer = io.StringIO()
        rows = [row if isinstance(row, list) else [row] for row in content]
        csv.writer(buffer).writerows(rows)
        text = buffer.getvalue()
    elif name.endswith(".jsonl") and isinstance(content, list):
        text = "".join(json.dumps(line) + "\n" for line in content)
    else:
        text = json.dumps(content)
    return text.encode("utf-8", "surrogatepass")


def check_values(folder: Path, name: str, where: int, value: Any, how: str) -> None:
    file = folder / name
    content = parsed(name, file.read_text())
    known = places(content)
    place = known[where % len(known)]
    note(f"{name} {place}: {str(value)[:200]!r} ({how})")
    with replaced(file, written(name, put(content, place, value, how))):
        survive(folder)


# --- profiles


def fuzz(examples: int) -> Callable[..., Any]:
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )


@pytest.mark.parametrize("examples", [40, pytest.param(4000, marks=SLOW)])
def test_bytes(run_folder: Path, examples: int) -> None:
    @fuzz(examples)
    @given(st.sampled_from(files_of(run_folder)), byte_edits())
    def check(name: str, edit: Callable[[bytes], bytes]) -> None:
        check_bytes(run_folder, name, edit)

    check()


@pytest.mark.parametrize("examples", [60, pytest.param(6000, marks=SLOW)])
def test_values(run_folder: Path, examples: int) -> None:
    names = [name for name in files_of(run_folder) if Path(name).suffix in (".json", ".jsonl", ".csv", ".yaml")]

    @fuzz(examples)
    @given(
        st.sampled_from(names),
        st.integers(0, 10_000),
        values,
        st.sampled_from(["replace", "replace", "remove", "rename"]),
    )
    def check(name: str, where: int, value: Any, how: str) -> None:
        check_values(run_folder, name, where, value, how)

    check()
