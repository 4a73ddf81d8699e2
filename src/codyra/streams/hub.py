"""`hf:`: Hugging Face data sets, by name and revision from the hub or from a local directory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codyra.errors import UserError
from codyra.naming import did_you_mean
from codyra.streams.images import ImageRow
from codyra.streams.records import Records, Source, checked_label, label_order, named_labels, text_records
from codyra.streams.spec import Role


def read_dataset(location: str, root: Path, train: str, test: str, columns: Mapping[Role, str]) -> Source:
    """Read a directory below `root` when there is one, otherwise `org/name@revision` from the hub.

    `columns` maps the roles image or text, and label, to columns; by default those of the same names.
    Classes are those of the class-label feature in its order, or the distinct labels of the train split.

    Raises:
        UserError: no revision, a data set, split or column is missing, a text or label is missing.
    """
    folder = root / location
    place = str(folder) if folder.is_dir() else location
    split_names = (train, test)
    splits = (
        _load_folder(folder, split_names)
        if folder.is_dir()
        else _load_from_hub(location, folder, split_names)
    )
    role, column = _input_column(splits[0], columns, place)
    label = columns.get("label", "label")
    of_train, of_test = (
        _read_split(split, role, column, label, f"{place} [{name}]")
        for split, name in zip(splits, split_names, strict=True)
    )
    names = tuple(getattr(splits[0].features[label], "names", ())) or label_order(of_train.labels)
    return Source("image" if role == "image" else "text", names, of_train, of_test)


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


def _input_column(split: Any, columns: Mapping[Role, str], place: str) -> tuple[Role, str]:
    """The role, image or text, that the task plays and its column."""
    inputs: tuple[Role, ...] = ("image", "text")
    roles = [role for role in inputs if role in columns]
    if not roles:
        roles = [role for role in inputs if role in split.column_names]
    if len(roles) != 1:
        have = ", ".join(split.column_names)
        raise UserError(
            f"{place} has the columns {have}; say with columns: which one is the text or the image"
        )
    return roles[0], columns.get(roles[0], roles[0])


def _read_split(split: Any, role: str, column: str, label: str, place: str) -> Records:
    import datasets

    for name in (column, label):
        if name not in split.column_names:
            raise UserError(
                f"{place} has no column '{name}'{did_you_mean(name, split.column_names)}; "
                "name the columns with columns:"
            )
    split = split.with_format(None)  # a saved data set remembers a tensor format
    labels = split[label][:]
    names = getattr(split.features[label], "names", None)
    if names:
        labels = named_labels(labels, names)
    if role == "text":
        return text_records(zip(split[column][:], labels, strict=True), place)
    if not isinstance(split.features[column], datasets.Image):
        raise UserError(
            f"{place}: column '{column}' does not hold images; cast it to datasets.Image and save again"
        )
    # a row of this reads the encoded image alone; other columns might be images that decode themselves
    encoded = split.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    images = [ImageRow(encoded, column, row, place) for row in range(len(encoded))]
    return Records(images, [checked_label(value, place, n) for n, value in enumerate(labels, 1)], place)
