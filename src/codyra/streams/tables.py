"""`csv:|json:|parquet:DIR`: texts and labels in DIR/train.* and DIR/test.*, one record per row."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from codyra.errors import UserError
from codyra.naming import did_you_mean
from codyra.streams.records import Records, Source, checked_label, label_order, named_labels, text_records

EXTENSIONS = {"csv": (".csv",), "json": (".json", ".jsonl"), "parquet": (".parquet",)}
Rows = Iterator[tuple[object, object]]


def read_table(kind: str, folder: Path, train: str, test: str, text: str, label: str) -> Source:
    """Read both splits; classes are the distinct labels of the train file, or those its schema declares.

    Raises:
        UserError: a file or column is missing, a file is damaged or not UTF-8, a text or label is missing.
    """
    train_path, test_path = (_find(kind, folder, split) for split in (train, test))
    train_records, test_records = (_read(path, text, label) for path in (train_path, test_path))
    names = _declared_classes(train_path, label) if kind == "parquet" else ()
    return Source("text", names or label_order(train_records.labels), train_records, test_records)


def _find(kind: str, folder: Path, split: str) -> Path:
    names = [f"{split}{extension}" for extension in EXTENSIONS[kind]]
    paths = [folder / name for name in names if (folder / name).is_file()]
    if len(paths) != 1:
        found = f"both {' and '.join(names)}" if paths else f"no {' or '.join(names)}"
        raise UserError(f"{folder} has {found}; {kind}: reads one file per split")
    return paths[0]


def _read(path: Path, text: str, label: str) -> Records:
    try:
        return text_records(_READERS[path.suffix](path, text, label), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _rows_of_csv(path: Path, text: str, label: str) -> Rows:
    # newline="" leaves line ends inside quotes alone, utf-8-sig drops the mark that some spreadsheets write
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            header = next(rows, [])
            at_text, at_label = (_column(path, header, name) for name in (text, label))
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise UserError(
                        f"{path}, line {rows.line_num}: {len(row)} fields under a header of {len(header)}; "
                        "put fields that hold commas between double quotes"
                    )
                yield row[at_text], row[at_label]
        except csv.Error as error:
            raise UserError(f"{path}, line {rows.line_num}: {error}; mend the file or use json:") from error


def _column(path: Path, names: list[str], wanted: str) -> int:
    if names.count(wanted) != 1:
        problem = f"two columns '{wanted}'" if wanted in names else f"no column '{wanted}'"
        raise UserError(f"{path} has {problem}{did_you_mean(wanted, names)}; name the columns with columns:")
    return names.index(wanted)


def _rows_of_json(path: Path, text: str, label: str) -> Rows:
    text_of_file = path.read_text("utf-8-sig")
    try:
        records = json.loads(text_of_file)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}; one record per line belongs into .jsonl") from error
    if not isinstance(records, list):
        raise UserError(f"{path} must hold a JSON list of records; it holds one {type(records).__name__}")
    for number, record in enumerate(records, start=1):
        yield _fields(path, number, record, text, label)


def _rows_of_jsonl(path: Path, text: str, label: str) -> Rows:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{path}, line {number}, is not JSON: {error}") from error
                yield _fields(path, number, record, text, label)


def _fields(path: Path, number: int, record: object, text: str, label: str) -> tuple[object, object]:
    if not isinstance(record, dict):
        raise UserError(f"{path}, record {number}: expected an object, got {type(record).__name__}")
    for name in (text, label):
        if name not in record:
            raise UserError(
                f"{path}, record {number}: no field '{name}'{did_you_mean(name, record)}; "
                "name the fields with columns:"
            )
    return record[text], record[label]


def _rows_of_parquet(path: Path, text: str, label: str) -> Rows:
    import pyarrow
    from pyarrow import parquet

    try:
        for name in (text, label):
            _column(path, parquet.read_schema(path).names, name)
        table = parquet.read_table(path, columns=[text, label])
    except pyarrow.ArrowException as error:
        raise UserError(f"cannot read {path}: {error}; mend or replace the file") from error
    labels = table.column(label).to_pylist()
    names = _declared_classes(path, label)
    return zip(table.column(text).to_pylist(), named_labels(labels, names) if names else labels, strict=True)


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


_READERS: dict[str, Callable[[Path, str, str], Rows]] = {
    ".csv": _rows_of_csv,
    ".json": _rows_of_json,
    ".jsonl": _rows_of_jsonl,
    ".parquet": _rows_of_parquet,
}
