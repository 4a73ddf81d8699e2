"""`hf:`: Hugging Face data sets, by name and revision from the hub or from a local directory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codyra.errors import UserError
from codyra.naming import did_you_mean
from codyra.streams.images import ImageRow
from codyra.streams.records import (
    Records,
    Role,
    Source,
    Table,
    checked_label,
    label_order,
    named_label,
    text_source,
)
from codyra.streams.tables import Rows, check_column


def open_dataset(location: str, root: Path, train: str, test: str) -> tuple[Table, Table]:
    """Open both splits of a directory below `root` when there is one, otherwise of `org/name@revision` from the hub.

    Raises:
        UserError: no revision, or a data set or split is missing.
    """
    of_train, of_test = _load_splits(location, root, train, test)
    return _table(*of_train), _table(*of_test)


def read_dataset(location: str, root: Path, train: str, test: str, columns: Mapping[Role, str]) -> Source:
    """Read texts or images and their labels from where `open_dataset` looks.

    `columns` maps the roles image or text, and label, to columns; by default those of the same names.
    Classes are those of the class-label feature in its order, or the distinct labels of the train split.

    Raises:
        UserError: no revision, a data set, split or column is missing, a text or label is missing.
    """
    splits = _load_splits(location, root, train, test)
    tables = _table(*splits[0]), _table(*splits[1])
    role, column = _input_column(tables[0], columns)
    label = columns.get("label", "label")
    if role == "text":
        return text_source(*tables, column, label)
    of_train, of_test = (
        _image_records(split, table, column, label) for (split, _), table in zip(splits, tables, strict=True)
    )
    names = tables[0].class_names(label) or label_order(of_train.labels)
    return Source("image", names, of_train, of_test)


def _load_splits(location: str, root: Path, train: str, test: str) -> list[tuple[Any, str]]:
    """Each split as `datasets` has it, with its place for messages."""
    folder, names = root / location, (train, test)
    if folder.is_dir():
        splits, place = _load_folder(folder, names), str(folder)
    else:
        splits, place = _load_from_hub(location, folder, names), location
    return [(split, f"{place} [{name}]") for split, name in zip(splits, names, strict=True)]


def _table(split: Any, place: str) -> Table:
    split = split.with_format(None)  # a saved data set remembers a tensor format

    def rows(wanted: Sequence[str], optional: Sequence[str]) -> Rows:
        for name in wanted:
            check_column(place, split.column_names, name)
        absent = [None] * len(split)
        names = (*wanted, *optional)
        return zip(*(split[name][:] if name in split.column_names else absent for name in names), strict=True)

    def class_names(column: str) -> tuple[str, ...]:
        return tuple(getattr(split.features[column], "names", None) or ())

    return Table(place, split.column_names, rows, class_names)


def _load_folder(folder: Path, split_names: tuple[str, str]) -> list[Any]:
    import datasets

    if not any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return _load(str(folder), split_names, None)
    try:
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the data set {folder}: {_first_line(error)}") from error
    if not isinstance(saved, datasets.DatasetDict):
        raise UserError(
            f"{folder} holds a single split; save a DatasetDict with the splits {' and '.join(split_names)}"
        )
    for name in split_names:
        if name not in saved:
            raise UserError(
                f"{folder} has no split '{name}'{did_you_mean(name, saved)}; name the splits with splits:"
            )
    return [saved[name] for name in split_names]


def _load_from_hub(location: str, folder: Path, split_names: tuple[str, str]) -> list[Any]:
    name, _, revision = location.partition("@")
    if not name or not revision:
        raise UserError(
            f"no folder {folder}, and a data set from the hub needs a revision: hf:org/name@revision"
        )
    return _load(name, split_names, revision)


def _load(name: str, split_names: tuple[str, str], revision: str | None) -> list[Any]:
    import datasets

    try:
        loaded: list[Any] = datasets.load_dataset(name, split=list(split_names), revision=revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"cannot load the data set {name}: {_first_line(error)}") from error
    return loaded


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _input_column(table: Table, columns: Mapping[Role, str]) -> tuple[Role, str]:
    """The role, image or text, that the task plays and its column."""
    inputs: tuple[Role, ...] = ("image", "text")
    roles = [role for role in inputs if role in columns] or [role for role in inputs if role in table.names]
    if len(roles) != 1:
        have = ", ".join(table.names)
        raise UserError(
            f"{table.place} has the columns {have}; say with columns: which one is the text or the image"
        )
    return roles[0], columns.get(roles[0], roles[0])


def _image_records(split: Any, table: Table, column: str, label: str) -> Records:
    import datasets

    check_column(table.place, table.names, column)
    values = [value for (value,) in table.rows((label,), ())]
    if not isinstance(split.features[column], datasets.Image):
        raise UserError(
            f"{table.place}: column '{column}' does not hold images; cast it to datasets.Image and save again"
        )
    names = table.class_names(label)
    labels = [named_label(value, names) for value in values] if names else values
    # a row of this reads the encoded image alone; other columns might be images that decode themselves
    encoded = (
        split.with_format(None).select_columns([column]).cast_column(column, datasets.Image(decode=False))
    )
    images = [ImageRow(encoded, column, row, table.place) for row in range(len(encoded))]
    return Records(
        images, [checked_label(value, table.place, n) for n, value in enumerate(labels, 1)], table.place
    )
