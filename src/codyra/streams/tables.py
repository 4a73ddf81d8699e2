"""`csv:|json:|parquet:DIR`: DIR/train.* and DIR/test.*, one record per row."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codyra.errors import UserError
from codyra.naming import did_you_mean
from codyra.streams.records import Table, checked_label

EXTENSIONS = {"csv": (".csv",), "json": (".json", ".jsonl"), "parquet": (".parquet",)}
Rows = Iterator[Sequence[object]]


def open_tables(kind: str, folder: Path, train: str, test: str) -> tuple[Table, Table]:
    """The tables of both splits.

    Raises:
        UserError: a file is missing, damaged or not UTF-8.
    """
    train_path, test_path = (_find(kind, folder, split) for split in (train, test))
    return open_table(train_path), open_table(test_path)


def open_table(path: Path) -> Table:
    """The table in a file, told by its extension.

    Raises:
        UserError: the file is damaged or not UTF-8.
    """
    return _OPENERS[path.suffix](path)


def check_column(place: object, names: Sequence[str], wanted: str) -> None:
    """Raise UserError unless there is exactly one column of that name."""
    if names.count(wanted) != 1:
        problem = f"two columns '{wanted}'" if wanted in names else f"no column '{wanted}'"
        raise UserError(f"{place} has {problem}{did_you_mean(wanted, names)}; name the columns with columns:")


def _find(kind: str, folder: Path, split: str) -> Path:
    names = [f"{split}{extension}" for extension in EXTENSIONS[kind]]
    paths = [folder / name for name in names if (folder / name).is_file()]
    if len(paths) != 1:
        found = f"both {' and '.join(names)}" if paths else f"no {' or '.join(names)}"
        raise UserError(f"{folder} has {found}; {kind}: reads one file per split")
    return paths[0]


@contextmanager
def _utf8(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _open_csv(path: Path) -> Table:
    header = next(_csv_lines(path), [])

    def rows(wanted: Sequence[str], optional: Sequence[str]) -> Rows:
        for name in wanted:
            check_column(path, header, name)
        for name in optional:
            if name in header:
                check_column(path, header, name)
        at = [header.index(name) if name in header else None for name in (*wanted, *optional)]
        lines = _csv_lines(path)
        next(lines, None)
        for line in lines:
            yield [None if position is None else line[position] for position in at]

    return Table(str(path), header, rows)


def _csv_lines(path: Path) -> Iterator[list[str]]:
    """The header and every record under it."""
    # newline="" leaves line ends inside quotes alone, utf-8-sig drops the mark that some spreadsheets write
    with _utf8(path), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            yield header
            for line in reader:
                if not line:
                    continue
                if len(line) != len(header):
                    raise UserError(
                        f"{path}, line {reader.line_num}: {len(line)} fields under a header of {len(header)}; "
                        "put fields that hold commas between double quotes"
                    )
                yield line
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: {error}; mend the file or use json:") from error


def _open_json(path: Path) -> Table:
    with _utf8(path):
        text = path.read_text("utf-8-sig")
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}; one record per line belongs into .jsonl") from error
    if not isinstance(records, list):
        raise UserError(f"{path} must hold a JSON list of records; it holds one {type(records).__name__}")
    return _table_of_objects(path, lambda: enumerate(records, start=1))


def _open_jsonl(path: Path) -> Table:
    def records() -> Iterator[tuple[int, Any]]:
        with _utf8(path), path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    try:
                        record = json.loads(line)
                    except (ValueError, RecursionError) as error:
                        raise UserError(f"{path}, line {number}, is not JSON: {error}") from error
                    yield number, record

    return _table_of_objects(path, records)


def _table_of_objects(path: Path, records: Callable[[], Iterator[tuple[int, Any]]]) -> Table:
    """A table of JSON objects; `records` gives each with its number in the file, from 1."""

    def rows(wanted: Sequence[str], optional: Sequence[str]) -> Rows:
        for number, record in records():
            if not isinstance(record, dict):
                raise UserError(f"{path}, record {number}: expected an object, got {type(record).__name__}")
            for name in wanted:
                if name not in record:
                    raise UserError(
                        f"{path}, record {number}: no field '{name}'{did_you_mean(name, record)}; "
                        "name the fields with columns:"
                    )
            yield [record.get(name) for name in (*wanted, *optional)]

    _, first = next(records(), (0, None))
    return Table(str(path), list(first) if isinstance(first, dict) else [], rows)


def _open_parquet(path: Path) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        names = parquet.read_schema(path).names
    except pyarrow.ArrowException as error:
        raise UserError(f"cannot read {path}: {error}; mend or replace the file") from error

    def rows(wanted: Sequence[str], optional: Sequence[str]) -> Rows:
        there = [*wanted, *(name for name in optional if name in names)]
        for name in there:
            check_column(path, names, name)
        try:
            table = parquet.read_table(path, columns=there)
            values = {name: table.column(name).to_pylist() for name in there}
        # Texts turn out not to be UTF-8 only when they are taken out.
        except (pyarrow.ArrowException, ValueError, OverflowError) as error:
            raise UserError(f"cannot read {path}: {error}; mend or replace the file") from error
        absent = [None] * table.num_rows
        columns = [values.get(name, absent) for name in (*wanted, *optional)]
        return zip(*columns, strict=True)

    return Table(str(path), names, rows, lambda column: _declared_classes(path, column))


def _declared_classes(path: Path, label: str) -> tuple[str, ...]:
    """Names of a class-label column in a file that the `datasets` library wrote; () for every other file."""
    from pyarrow import parquet

    schema = parquet.read_schema(path)
    if b"huggingface" not in (schema.metadata or {}):
        return ()
    import datasets

    try:
        names = tuple(getattr(datasets.Features.from_arrow_schema(schema)[label], "names", ()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"cannot read the features that {path} declares ({error}); mend or replace the file"
        ) from error
    return tuple(checked_label(name, f"{path}, features", n) for n, name in enumerate(names, start=1))


_OPENERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _open_csv,
    ".json": _open_json,
    ".jsonl": _open_jsonl,
    ".parquet": _open_parquet,
}
