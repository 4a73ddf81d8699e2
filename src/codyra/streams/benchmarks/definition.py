"""What a benchmark is made of: its data sets, where each may lie on disk, and how many images it has."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from codyra.errors import UserError
from codyra.streams.images import ImageFile, ImageInput
from codyra.streams.records import Records

Split = Literal["train", "val", "test"]


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


@dataclass(frozen=True)
class DataSet:
    """One data set of a benchmark.

    Attributes:
        key: name of its task.
        sizes: images of each split, as published.
        folders: where it may lie below the data folder, the usual place first.
        holds: of which the folder must have one in it to be the right one, relative to it.
        download: project that hands the data out and the files to take from there.
        read: lists a folder that `find` returned.
        rename: class name of the benchmark for a name of the data set's original form.
        left_out: classes of the data set's original form that the benchmark has not.
        empty_classes: a class may be without an image in a split, because the benchmark splits at random.
    """

    key: str
    num_classes: int
    sizes: Mapping[Split, int]
    folders: tuple[str, ...]
    holds: tuple[str, ...]
    download: str
    read: Callable[["DataSet", Path], Listing]
    rename: Callable[[str], str] = lambda name: name
    left_out: tuple[str, ...] = ()
    empty_classes: bool = False

    def look_for(self, data_dir: Path) -> Path | None:
        """The folder of this data set; None where none of the accepted places holds it."""
        places = (data_dir / folder for folder in self.folders)
        # Unlike Path's it answers False where something may not be looked at.
        return next(
            (place for place in places if any(os.path.exists(place / held) for held in self.holds)), None
        )

    def find(self, data_dir: Path) -> Path:
        """The folder of this data set.

        Raises:
            UserError: it is in none of the accepted places.
        """
        if place := self.look_for(data_dir):
            return place
        there = next((data_dir / folder for folder in self.folders if os.path.isdir(data_dir / folder)), None)
        if there is not None:
            raise UserError(f"{there} has no {' or '.join(self.holds)}; get {self.download}")
        raise UserError(f"{data_dir} has no {' or '.join(self.folders)}; get {self.download}")

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


@dataclass(frozen=True)
class Benchmark:
    """An ordered list of data sets and the rules by which they are learnt and scored.

    Attributes:
        defaults: keys of `stream:` that make this benchmark what it is, where a config does not say otherwise.
        published: values of those keys under which results were published; others mark a run.
        orders: keys of the data sets in each published order, by number.
        wording: prompts mode -> the prompt keys of a task (`prompt`, `ensemble`, `underscores`) by data set.
    """

    name: str
    title: str
    data_sets: Mapping[str, DataSet]
    defaults: Mapping[str, Any]
    published: Mapping[str, Sequence[Any]]
    orders: Mapping[int, Sequence[str]]
    wording: Mapping[str, Callable[[str], dict[str, Any]]]


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
