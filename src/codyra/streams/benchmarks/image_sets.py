"""A benchmark of images and classes: its data sets as their own files describe them, and how one is read."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from codyra.errors import UserError
from codyra.streams.benchmarks.definition import Benchmark, DataSet, Split
from codyra.streams.images import ImageFile, ImageInput
from codyra.streams.records import Records


@dataclass
class Listing:
    """A data set as its own files describe it; nothing is decoded.

    Attributes:
        class_names: in label order.
        splits: images and class names of each split that the data set has.
        absent: of each image that its files name and that is not there, by its path: a line that says so.
        faults: what else is wrong with it, one line each; a run on it is marked.
        marks: what the run must say of itself because of this, such as "rebuilt split, seed 1".
    """

    class_names: tuple[str, ...]
    splits: dict[Split, Records]
    absent: dict[str, str] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImageSet(DataSet):
    """One data set of images.

    Attributes:
        read: lists a folder that `find` returned.
        rename: class name of the benchmark for a name of the data set's original form.
        left_out: classes of the data set's original form that the benchmark has not.
        empty_classes: a class may be without an image in a split, because the benchmark splits at random.
    """

    num_classes: int
    read: Callable[["ImageSet", Path], Listing]
    rename: Callable[[str], str] = lambda name: name
    left_out: tuple[str, ...] = ()
    empty_classes: bool = False

    def list(self, data_dir: Path) -> Listing:
        """List the data set below `data_dir`, once its class names are known to be what they should.

        Raises:
            UserError: a file is missing or damaged, or there are more or fewer classes than the benchmark has.
        """
        folder = self.find(data_dir)
        try:
            listing = self.read(self, folder)
        except OSError as error:
            raise UserError(f"cannot read {error.filename or folder}: {error.strerror or error}") from error
        if len(listing.class_names) != self.num_classes:
            raise UserError(
                f"{folder} has {len(listing.class_names)} classes, {self.key} has {self.num_classes}; "
                "complete or replace the data set"
            )
        listing.faults = (*_repeated(listing), *(() if self.empty_classes else _without_images(listing)))
        return listing


@dataclass(frozen=True, kw_only=True)
class ImageBenchmark(Benchmark):
    """A benchmark that is scored by class names.

    Attributes:
        wording: prompts mode -> the prompt keys of a task (`prompt`, `ensemble`, `underscores`) by data set.
    """

    data_sets: Mapping[str, ImageSet]
    wording: Mapping[str, Callable[[str], dict[str, Any]]]

    def task_keys(self, section: Mapping[str, Any], key: str) -> dict[str, Any]:
        prompts = section["prompts"]
        if prompts not in self.wording:
            raise ValueError(f"prompts: {self.title} has {', '.join(self.wording)}, not {prompts}")
        # A class with fewer images than shots contributes all of them, as the protocol says.
        return {
            "shots": section["shots"],
            "allow_fewer": True,
            "test_examples": section.get("test_examples"),
            **self.wording[prompts](key),
        }


def _repeated(listing: Listing) -> list[str]:
    """Of every two parts, and of every part, how many images are in both or in it twice."""
    keys = {
        split: [image.key for image in part.inputs if isinstance(image, ImageFile)]
        for split, part in listing.splits.items()
    }
    lines = []
    for split, listed in keys.items():
        if twice := [key for key, times in Counter(listed).items() if times > 1]:
            lines.append(f"images listed twice in {split}: {len(twice):,}, such as {twice[0]}")
    for one, other in combinations(keys, 2):
        if both := sorted(set(keys[one]) & set(keys[other])):
            lines.append(f"images in both {one} and {other}: {len(both):,}, such as {both[0]}")
    return lines


def _without_images(listing: Listing) -> list[str]:
    lines = []
    for split, part in listing.splits.items():
        present = set(part.labels)
        empty = [name for name in listing.class_names if name not in present]
        if empty and split != "val":  # which nothing learns from
            lines.append(f"classes without an image in {split}: {len(empty):,}, such as {empty[0]!r}")
    return lines


def check_class_names(names: Sequence[str], place: object) -> None:
    """Raise UserError for a name that is no name, or two labels of one, whose images could not be told apart."""
    for label, name in enumerate(names):
        if not name.strip() or not name.isprintable():
            raise UserError(f"{place} calls label {label} {name!r}, which is no class name; mend the file")
        first = names.index(name)
        if first < label:
            raise UserError(f"{place} calls both label {first} and label {label} {name!r}; mend the file")


def first_there(folder: Path, *names: str) -> Path:
    """The first of these folders that exists in `folder`, or the first of all."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder / names[0])


class Images:
    """Collects the images of one folder by the names that annotation files give them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.absent: dict[str, str] = {}

    def find(self, name: str, said_by: object) -> ImageInput:
        """The image called `name`; one whose extension is in the other case on disk is that one too.

        Raises:
            UserError: the name leads out of the folder.
        """
        if os.path.isabs(name) or "\\" in name or "\0" in name or ".." in name.split("/"):
            raise UserError(f"{said_by} names {name!r}, which is no path below {self.folder}; mend the file")
        stem, dot, extension = name.rpartition(".")
        for spelling in (name, f"{stem}{dot}{extension.swapcase()}"):
            if os.path.isfile(os.path.join(self.folder, spelling)):
                return ImageFile(self.folder, spelling)
        image = ImageFile(self.folder, name)
        self.absent[image.name] = f"{said_by} names {image.name}, which is not there"
        return image


def records(
    images: Sequence[ImageInput], labels: Sequence[int], names: Sequence[str], place: object
) -> Records:
    """One split: `labels` index `names`."""
    return Records(images, [names[label] for label in labels], str(place))
