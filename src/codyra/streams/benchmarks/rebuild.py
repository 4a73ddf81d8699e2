"""Splits of one's own, where the split files of CoOp's authors are missing.

Made by their rules (docs/benchmarks.md), but from a seed: they drew without one, so nobody can make their files
again, and every run on a rebuilt split is marked.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from codyra import files
from codyra.errors import UserError
from codyra.reading import read_json
from codyra.streams.benchmarks.coop import find_split, rebuilt_name
from codyra.streams.benchmarks.formats import read_lines, read_matlab, whole_numbers
from codyra.streams.benchmarks.image_sets import Images, ImageSet, first_there
from codyra.streams.benchmarks.mtil import MTIL, class_folder_names, picture_names
from codyra.streams.benchmarks.xtail import (
    EUROSAT_ROOTS,
    NOT_IN_CALTECH,
    XTAIL,
    caltech_name,
    car_name,
    sun_images,
    sun_name,
)

Item = tuple[str, int, str]
"""Path below the image root, label, class name: an entry of a split file."""

TRAIN_SHARE, VAL_SHARE = 0.5, 0.2
"""Of all images of a class, where nothing is official; the rest is for testing."""
VAL_SHARE_OF_OFFICIAL = 0.2
"""Of the official training images of a class."""


@dataclass(frozen=True)
class Pool:
    """What there is to split: images without a split, or the official training and test parts."""

    unsplit: list[Item]
    official_train: list[Item]
    official_test: list[Item]


def rebuild_split(key: str, data_dir: Path, seed: int) -> Path:
    """Write the split of one X-TAIL data set beside its images and return the file.

    Raises:
        UserError: its split file is there, it needs none, or what the split is made from is missing or damaged.
    """
    data_set = XTAIL.data_sets[key]
    if key not in RECIPES:
        raise UserError(f"{key} has official splits and needs no split file; leave it out")
    split_file, pool_of = RECIPES[key]
    folder = data_set.find(data_dir)
    official = find_split(split_file, data_set, folder)
    if official.is_file():
        raise UserError(f"{official} is there and is the benchmark's; nothing to rebuild")
    try:
        pool = pool_of(data_set, folder)
    except OSError as error:
        raise UserError(f"cannot read {error.filename or folder}: {error.strerror or error}") from error
    train, val, test = split_pool(pool, random.Random(f"{seed}/{key}/split"))
    path = folder / rebuilt_name(split_file)
    files.write_json(path, {"seed": seed, "train": train, "val": val, "test": test})
    return path


def without_split(data_dir: Path) -> list[str]:
    """Data sets of X-TAIL that lie below `data_dir` and lack their split file."""
    return [
        key
        for key, (split_file, _) in RECIPES.items()
        if (folder := XTAIL.data_sets[key].look_for(data_dir))
        and not find_split(split_file, XTAIL.data_sets[key], folder).is_file()
    ]


def split_pool(pool: Pool, rng: random.Random) -> tuple[list[Item], list[Item], list[Item]]:
    """Training, validation and test items: class by class in label order, each class shuffled by `rng`."""
    train: list[Item] = []
    val: list[Item] = []
    test = list(pool.official_test)
    for items in _by_label(pool.unsplit):
        rng.shuffle(items)
        num_train, num_val = round(TRAIN_SHARE * len(items)), round(VAL_SHARE * len(items))
        train += items[:num_train]
        val += items[num_train : num_train + num_val]
        test += items[num_train + num_val :]
    for items in _by_label(pool.official_train):
        rng.shuffle(items)
        num_val = round(VAL_SHARE_OF_OFFICIAL * len(items))
        val += items[:num_val]
        train += items[num_val:]
    return train, val, test


def _by_label(items: list[Item]) -> list[list[Item]]:
    classes: dict[int, list[Item]] = {}
    for item in items:
        classes.setdefault(item[1], []).append(item)
    return [classes[label] for label in sorted(classes)]


def _class_folders(
    *roots: str, rename: Callable[[str], str] = str, left_out: tuple[str, ...] = ()
) -> "Recipe":
    def pool(data_set: ImageSet, folder: Path) -> Pool:
        top = first_there(folder, *roots)
        names = class_folder_names(top, left_out)
        if len(names) != data_set.num_classes:
            raise UserError(
                f"{top} has {len(names)} class folders, {data_set.key} has {data_set.num_classes}"
            )
        items = [
            (f"{name}/{file}", label, rename(name))
            for label, name in enumerate(names)
            for file in picture_names(top / name)
        ]
        return Pool(items, [], [])

    return pool


def _flowers(data_set: ImageSet, folder: Path) -> Pool:
    names = read_json(folder / "cat_to_name.json")
    (labels,) = read_matlab(folder / "imagelabels.mat", "labels")
    images = Images(folder / "jpg")
    items = []
    for number, label in enumerate(whole_numbers(labels, f"labels of {folder / 'imagelabels.mat'}"), start=1):
        name = names.get(str(label)) if isinstance(names, dict) else None
        if not isinstance(name, str):
            raise UserError(f"{folder / 'cat_to_name.json'} has no name for class {label}; replace the file")
        items.append(
            (images.find(f"image_{number:05d}.jpg", folder / "imagelabels.mat").key, label - 1, name)
        )
    _refuse_absent(images)
    return Pool(items, [], [])


def _official(mtil_key: str, class_name: Callable[[str, str], str]) -> "Recipe":
    """A recipe from MTIL's reader of the official parts; `class_name` gets MTIL's name and the image's path."""

    def pool(data_set: ImageSet, folder: Path) -> Pool:
        listing = MTIL.data_sets[mtil_key].read(MTIL.data_sets[mtil_key], folder)
        if listing.absent:
            raise UserError(next(iter(listing.absent.values())))
        label = {name: number for number, name in enumerate(listing.class_names)}
        train, test = (
            [
                (image.key, label[name], class_name(name, image.key))
                for image, name in zip(part.inputs, part.labels, strict=True)
                if not isinstance(image, str)
            ]
            for part in (listing.splits["train"], listing.splits["test"])
        )
        return Pool([], train, test)

    return pool


def _sun(data_set: ImageSet, folder: Path) -> Pool:
    label = {name: number for number, name in enumerate(read_lines(folder / "ClassName.txt"))}
    images = Images(sun_images(folder))

    def items(file: Path) -> list[Item]:
        found = []
        for number, line in enumerate(read_lines(file), start=1):
            place = os.path.dirname(line)
            if place not in label:
                raise UserError(f"{file}, line {number}: {place} is not in ClassName.txt; replace the file")
            image = images.find(line.lstrip("/"), f"{file}, line {number}")
            found.append((image.key, label[place], sun_name(place)))
        return found

    pool = Pool([], items(folder / "Training_01.txt"), items(folder / "Testing_01.txt"))
    _refuse_absent(images)
    return pool


def _refuse_absent(images: Images) -> None:
    if images.absent:
        raise UserError(f"{next(iter(images.absent.values()))}; complete the data set")


Recipe = Callable[[ImageSet, Path], Pool]

RECIPES: dict[str, tuple[str, Recipe]] = {
    "caltech101": (
        "split_zhou_Caltech101.json",
        _class_folders("101_ObjectCategories", rename=caltech_name, left_out=NOT_IN_CALTECH),
    ),
    "dtd": ("split_zhou_DescribableTextures.json", _class_folders("images")),
    # The table of class names is applied when the split is read.
    "eurosat": ("split_zhou_EuroSAT.json", _class_folders(*EUROSAT_ROOTS)),
    "oxford_flowers": ("split_zhou_OxfordFlowers.json", _flowers),
    "food101": ("split_zhou_Food101.json", _class_folders("images")),
    "oxford_pets": (
        "split_zhou_OxfordPets.json",
        _official("OxfordPet", lambda name, path: path.rpartition("_")[0].lower()),
    ),
    "stanford_cars": (
        "split_zhou_StanfordCars.json",
        _official("StanfordCars", lambda name, path: car_name(name)),
    ),
    "sun397": ("split_zhou_SUN397.json", _sun),
}
