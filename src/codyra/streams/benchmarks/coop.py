"""The split files of CoOp's authors, `split_zhou_*.json`: which image is in which split, and of which class."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from codyra.errors import UserError
from codyra.reading import read_json
from codyra.streams.benchmarks.definition import Split
from codyra.streams.benchmarks.image_sets import (
    Images,
    ImageSet,
    Listing,
    check_class_names,
    records,
)
from codyra.streams.records import Records

SPLITS: tuple[Split, ...] = get_args(Split)
WHERE = "the CoOp repository (KaiyangZhou/CoOp, DATASETS.md)"


def rebuilt_name(split_file: str) -> str:
    """Name of the split that `data rebuild-splits` makes in place of a missing `split_file`."""
    return split_file.replace("split_zhou_", "split_codyra_")


def read_coop(
    split_file: str, image_root: Callable[[Path], Path], name: Callable[[str], str] = lambda name: name
) -> Callable[[ImageSet, Path], Listing]:
    """A reader of data sets with this split file.

    Args:
        image_root: where the paths of the split file start, given the data set's folder.
        name: class name of the benchmark for the one in the file.
    """

    def read(data_set: ImageSet, folder: Path) -> Listing:
        file = find_split(split_file, data_set, folder)
        marks: tuple[str, ...] = ()
        if not file.is_file():
            rebuilt = find_split(rebuilt_name(split_file), data_set, folder)
            if not rebuilt.is_file():
                raise UserError(
                    f"{file} is missing; get it from {WHERE}, or make a split of your own (which marks every run on "
                    "it) with: codyra data rebuild-splits"
                )
            file = rebuilt
        content = _load(file)
        if file.name != split_file or "seed" in content:
            marks = (f"rebuilt split, seed {content.get('seed')}",)
        images = Images(image_root(folder))
        names: dict[int, str] = {}
        parts = {
            split: _entries(content[split], data_set, f"{file}, {split}", names)
            for split in SPLITS
            if split in content
        }
        for label in range(data_set.num_classes):
            if label not in names:
                raise UserError(
                    f"{file} has no image of label {label}; labels are 0 to {data_set.num_classes - 1}"
                )
        class_names = [name(names[label]) for label in range(data_set.num_classes)]
        check_class_names(class_names, file)
        splits: dict[Split, Records] = {}
        for split, entries in parts.items():
            place = f"{file}, {split}"
            found = [
                images.find(path, f"{place} entry {number}") for number, (path, _) in enumerate(entries, 1)
            ]
            splits[split] = records(found, [label for _, label in entries], class_names, place)
        return Listing(tuple(class_names), splits, images.absent, marks)

    return read


def find_split(name: str, data_set: ImageSet, folder: Path) -> Path:
    """The split file of a data set whose images are in `folder`; it need not exist.

    It may lie in the other spelling of the folder.
    """
    places = (folder, folder.parent, *(folder.parent / other for other in data_set.folders))
    return next((place / name for place in places if (place / name).is_file()), folder / name)


def _load(file: Path) -> dict[str, Any]:
    content = read_json(file)
    # Nothing but choosing hyper-parameters needs val.
    if not isinstance(content, dict) or not all(
        isinstance(content.get(split, [] if split == "val" else None), list) for split in SPLITS
    ):
        raise UserError(f"{file} has no lists train and test; get it anew from {WHERE}")
    return content


def _entries(
    listed: list[Any], data_set: ImageSet, place: str, names: dict[int, str]
) -> list[tuple[str, int]]:
    """(path, label) of one split; `names` learns the class name of every label."""
    entries = []
    for number, entry in enumerate(listed, start=1):
        if not isinstance(entry, list) or [type(part) for part in entry] != [str, int, str]:
            raise UserError(
                f"{place} entry {number} is not [path, label, class name]; get the file anew from {WHERE}"
            )
        path, label, name = entry
        if not 0 <= label < data_set.num_classes:
            raise UserError(
                f"{place} entry {number} ({path}): label {label} is out of range, {data_set.key} has 0 to "
                f"{data_set.num_classes - 1}"
            )
        if names.setdefault(label, name) != name:
            raise UserError(
                f"{place} entry {number} ({path}): label {label} is called {name!r} here and {names[label]!r} before"
            )
        entries.append((path, label))
    return entries
