"""Damaged and hostile run folders: every loader returns or raises one line that names the file, nothing else."""

import csv
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, note
from hypothesis import strategies as st

from codyra.engine.config import load_config
from codyra.engine.folder_reader import read_run
from codyra.errors import UserError
from codyra.report import render
from codyra.update import TaskUpdate
from mutations import byte_edits, fuzz, replaced

SLOW = pytest.mark.slow


def files_of(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


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
    items = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
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


@pytest.mark.parametrize("examples", [40, pytest.param(4000, marks=SLOW)])
def test_bytes(run_folder: Path, examples: int) -> None:
    @fuzz(examples)
    @given(st.sampled_from(files_of(run_folder)), byte_edits())
    def check(name: str, edit: Callable[[bytes], bytes]) -> None:
        check_bytes(run_folder, name, edit)

    check()


@pytest.mark.parametrize("examples", [60, pytest.param(6000, marks=SLOW)])
def test_values(run_folder: Path, examples: int) -> None:
    names = [
        name for name in files_of(run_folder) if Path(name).suffix in (".json", ".jsonl", ".csv", ".yaml")
    ]

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


# --- inputs that once broke something


def modules(names: list[str]) -> dict[str, Any]:
    return {"kind": "low_rank", "modules": {name: {"kept": 1, "r": 2, "norm": 1.0} for name in names}}


REGRESSIONS: dict[str, tuple[str, Any]] = {
    "scores that differ by less than a tick": (
        "accuracy.csv",
        [["after", "warm", "cool"], ["zero-shot", "0", "5e-324"], ["warm", "0", "0"], ["cool", "0", "0"]],
    ),
    "stream.tasks is a number": ("config.yaml", {"stream": {"tasks": 5}}),
    "a norm per no norm": (
        "tasks/01-warm/ranks.json",
        {"kind": "dense", "modules": {"a": {"norm": -1e30}, "b": {"norm": 5e-324}}},
    ),
    "names that clash in a grid": (
        "tasks/01-warm/ranks.json",
        modules(["x.vision.0.q", "vision.0.q", " vision.0.q"]),
    ),
    "a grid of gaps": ("tasks/01-warm/ranks.json", modules([f"m.{n}.k{n}" for n in range(10_000)])),
    "a tower per module": ("tasks/01-warm/ranks.json", modules([f"m{n}.0.k" for n in range(10_000)])),
    "names of dots": ("tasks/01-warm/ranks.json", modules(["." * 900 + str(n) for n in range(1000)])),
    "a layer of 10000 digits": ("tasks/01-warm/ranks.json", modules([f"m.{'9' * 10_000}.k"])),
    "steps beyond all sense": ("tasks/01-warm/train.jsonl", [{"step": 10**400, "loss": 1e308}]),
    "a number beyond repr": ("config.yaml", {"method": {"name": "codyra", "r": 10**5000}}),
    "method without a name": ("config.yaml", {"method": {"name": None}}),
    "surrogate in a name": ("config.yaml", {"name": "\ud800"}),
}


@pytest.mark.parametrize("case", REGRESSIONS)
def test_what_once_broke(run_folder: Path, case: str) -> None:
    name, content = REGRESSIONS[case]
    sys.set_int_max_str_digits(0)
    try:
        damage = written(name, content)
    finally:
        sys.set_int_max_str_digits(4300)
    started = time.perf_counter()
    with replaced(run_folder / name, damage):
        survive(run_folder)
    assert time.perf_counter() - started < 5
