"""`imagefolder:DIR`: DIR/train/<class>/... and DIR/test/<class>/..., one folder per class."""

import os
from collections.abc import Iterator
from pathlib import Path

from codyra.errors import UserError
from codyra.streams.images import EXTENSIONS, ImageFile
from codyra.streams.records import Records, Source, checked_label


def read_folder(folder: Path, train: str, test: str) -> Source:
    """List an image folder; nothing is decoded.

    Classes are the folders, in the order of their names; file order is the order of classes, then of paths.
    Hidden entries and files without an image extension are ignored.

    Raises:
        UserError: a split is missing or has no class folders, an image is no file, or a link leads to a folder or
            elsewhere.
    """
    splits = [_read_split(folder, name) for name in (train, test)]
    class_names = sorted({name for _, names in splits for name in names})
    return Source("image", tuple(class_names), splits[0][0], splits[1][0])


def _read_split(folder: Path, split: str) -> tuple[Records, list[str]]:
    place = folder / split
    if not place.is_dir():
        raise UserError(f"no folder {place}; an image folder has one folder per class in it")
    class_names = sorted(entry.name for entry in place.iterdir() if entry.is_dir() and entry.name[0] != ".")
    if not class_names:
        raise UserError(
            f"{place} has no class folders; put the images of each class into a folder of its name"
        )
    inputs, labels = [], []
    for number, class_name in enumerate(class_names, start=1):
        checked_label(class_name, f"{place}, class folder", number)
        for path in images_below(place / class_name, top=Path(os.path.realpath(place))):
            inputs.append(ImageFile(folder, path.relative_to(folder).as_posix()))
            labels.append(class_name)
    return Records(inputs, labels, str(place)), class_names


def images_below(folder: Path, top: Path) -> Iterator[Path]:
    """The images in a folder and those below it, in the order of their paths.

    Hidden entries and files without an image extension are left out.

    Args:
        top: the real folder that links may not lead out of.

    Raises:
        UserError: an image is no file, or a link leads to a folder or elsewhere.
    """
    _refuse_link(folder, top)
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from images_below(path, top)
        elif path.suffix.lower() in EXTENSIONS:
            _refuse_link(path, top)
            if not path.is_file():  # a pipe would be read for ever
                raise UserError(f"{path} is no file, or a link to none; replace or remove it")
            yield path


def _refuse_link(path: Path, top: Path) -> None:
    if path.is_symlink() and (path.is_dir() or not Path(os.path.realpath(path)).is_relative_to(top)):
        raise UserError(
            f"{path} links to {os.readlink(path)}; copy the data, only links within the split are followed"
        )
