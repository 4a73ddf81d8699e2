"""MTIL: eleven data sets with the splits of ZSCL and MoE-Adapters, each scored among its own classes.

The same pictures as X-TAIL's, but mostly other splits, other class names and other prompts: where no official
split exists, 80 % of the images in a fixed order are drawn for training with a seeded permutation.
"""

import json
import os
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from codyra.errors import UserError
from codyra.reading import read_json
from codyra.streams.benchmarks import aircraft, mnist
from codyra.streams.benchmarks.definition import Split
from codyra.streams.benchmarks.formats import read_cifar, read_lines, read_matlab, whole_numbers
from codyra.streams.benchmarks.image_sets import (
    ImageBenchmark,
    Images,
    ImageSet,
    Listing,
    check_class_names,
    first_there,
    records,
)
from codyra.streams.benchmarks.xtail import EUROSAT_ROOTS, sun_images
from codyra.streams.images import EXTENSIONS, ImageArray, ImageInput
from codyra.streams.records import Records

SPLIT_SEED = 42
TRAIN_SHARE = 0.8

_FACTS: dict[str, Any] = json.loads(
    (resources.files("codyra.streams.benchmarks") / "mtil.json").read_text("utf-8")
)
_NAMES: dict[str, dict[str, str]] = _FACTS["class_names"]
"""Of the data sets whose names are not those of their files: original name (Flowers: number) -> class name."""


def train_positions(num_images: int) -> tuple[list[int], list[int]]:
    """Positions of the training and the test images of a data set without an official split."""
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()
    num_train = int(TRAIN_SHARE * num_images)
    return order[:num_train], order[num_train:]


def plain(name: str) -> str:
    """A class name of the files, without underscores."""
    return name.replace("_", " ")


def _split_at_random(
    found: Sequence[ImageInput], labels: Sequence[int], names: Sequence[str], place: Path
) -> dict[Split, Records]:
    train, test = (
        records([found[position] for position in half], [labels[position] for position in half], names, place)
        for half in train_positions(len(found))
    )
    return {"train": train, "test": test}


def class_folder_names(top: Path, left_out: Sequence[str] = ()) -> list[str]:
    """Names of the class folders in byte order."""
    return sorted(
        entry.name
        for entry in os.scandir(top)
        if entry.is_dir() and entry.name[0] != "." and entry.name not in left_out
    )


def picture_names(folder: Path) -> list[str]:
    """Names of the image files of one folder, sorted."""
    names = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.name[0] != "." and os.path.splitext(entry.name)[1].lower() in EXTENSIONS and entry.is_file()
    )
    if not names:
        raise UserError(f"{folder} has no image; restore the folder as it was handed out")
    return names


def _read_class_folders(
    key: str, roots: Sequence[str], left_out: Sequence[str] = ()
) -> Callable[[ImageSet, Path], Listing]:
    def read(data_set: ImageSet, folder: Path) -> Listing:
        top = first_there(folder, *roots)
        folders, known = class_folder_names(top, left_out), _NAMES[key]
        odd = sorted(set(folders) ^ set(known))
        if len(folders) != len(known):
            what = "no class of this data set" if odd[0] in folders else "missing"
            raise UserError(f"{top / odd[0]} is {what}; restore the folder as it was handed out")
        # As ZSCL does it: the names stand in the order of the folders.
        names = tuple(known.values())
        marks: tuple[str, ...] = ()
        if odd:
            foreign, absent = (sorted(set(a) - set(b))[0] for a, b in ((folders, known), (known, folders)))
            marks = (f"class folders other than those handed out: {foreign} is there, {absent} is not",)
        images, found, labels = Images(top), [], []
        for label, name in enumerate(folders):
            for file in picture_names(top / name):
                found.append(images.find(f"{name}/{file}", top))
                labels.append(label)
        return Listing(names, _split_at_random(found, labels, names, top), images.absent, marks)

    return read


def _read_cifar100(data_set: ImageSet, folder: Path) -> Listing:
    names = [plain(name) for name in read_lines(folder / "fine_label_names.txt")]
    check_class_names(names, folder / "fine_label_names.txt")
    splits: dict[Split, Records] = {}
    for split in data_set.sizes:
        file = folder / f"{split}.bin"
        pixels, labels = read_cifar(file)
        if labels.max() >= len(names):
            raise UserError(
                f"{file} has the label {labels.max()}, fine_label_names.txt ends at {len(names) - 1}"
            )
        images = [ImageArray(str(file), pixels, row) for row in range(len(pixels))]
        splits[split] = records(images, labels.tolist(), names, file)
    return Listing(tuple(names), splits)


def _read_dtd(data_set: ImageSet, folder: Path) -> Listing:
    images = Images(folder / "images")
    listed: dict[Split, tuple[Path, list[str]]] = {}
    for split in data_set.sizes:
        file = folder / "labels" / f"{split}1.txt"
        listed[split] = file, read_lines(file)
    folders = sorted({line.partition("/")[0] for _, lines in listed.values() for line in lines})
    label = {name: number for number, name in enumerate(folders)}
    names = [plain(name) for name in folders]
    check_class_names(names, folder / "labels")
    splits = {
        split: records(
            [images.find(line, f"{file}, line {number}") for number, line in enumerate(lines, 1)],
            [label[line.partition("/")[0]] for line in lines],
            names,
            file,
        )
        for split, (file, lines) in listed.items()
    }
    return Listing(tuple(names), splits, images.absent)


def _read_flowers(data_set: ImageSet, folder: Path) -> Listing:
    names = tuple(_NAMES["Flowers"].values())
    (values,) = read_matlab(folder / "imagelabels.mat", "labels")
    labels = whole_numbers(values, f"the labels of {folder / 'imagelabels.mat'}")
    for number, label in enumerate(labels, start=1):
        if not 1 <= label <= len(names):
            raise UserError(
                f"{folder / 'imagelabels.mat'}, image {number}: label {label} is out of range, 1 to {len(names)}"
            )
    images, file = Images(folder / "jpg"), folder / "setid.mat"
    splits: dict[Split, Records] = {}
    variables: dict[Split, str] = {"train": "trnid", "test": "tstid"}
    for split, variable in variables.items():
        (values,) = read_matlab(file, variable)
        numbers = whole_numbers(values, f"{variable} of {file}")
        for number in numbers:
            if not 1 <= number <= len(labels):
                raise UserError(
                    f"{file}: {variable} names image {number}, imagelabels.mat has 1 to {len(labels)}"
                )
        found = [images.find(f"image_{number:05d}.jpg", f"{file}, {variable}") for number in numbers]
        splits[split] = records(found, [labels[number - 1] - 1 for number in numbers], names, file)
    return Listing(names, splits, images.absent)


def _read_food(data_set: ImageSet, folder: Path) -> Listing:
    images, splits, listed = Images(folder / "images"), {}, {}
    for split in data_set.sizes:
        file = folder / "meta" / f"{split}.json"
        listed[split] = content = read_json(file)
        if not isinstance(content, dict) or not all(
            isinstance(items, list) and all(isinstance(item, str) for item in items)
            for items in content.values()
        ):
            raise UserError(
                f"{file} is not {{class: [class/number, ...]}}; restore the file as it was handed out"
            )
    keys = sorted(listed["train"])
    label = {key: number for number, key in enumerate(keys)}
    names = [plain(key) for key in keys]
    check_class_names(names, folder / "meta/train.json")
    for split, content in listed.items():
        file = folder / "meta" / f"{split}.json"
        if unknown := sorted(set(content) - set(keys)):
            raise UserError(f"{file} has the class {unknown[0]!r}, train.json has not; restore the files")
        found, labels = [], []
        for key, items in content.items():
            found += [images.find(f"{item}.jpg", file) for item in items]
            labels += [label[key]] * len(items)
        splits[split] = records(found, labels, names, file)
    return Listing(tuple(names), splits, images.absent)


def pet_name(image: str) -> str:
    """`american_bulldog_12` -> `American Bulldog`."""
    return " ".join(part.title() for part in image.rpartition("_")[0].split("_"))


def _read_pets(data_set: ImageSet, folder: Path) -> Listing:
    images = Images(folder / "images")
    label_of = {str(label + 1): label for label in range(data_set.num_classes)}
    name_of: dict[int, str] = {}
    parts: dict[Split, tuple[Path, list[ImageInput], list[int]]] = {}
    for split in data_set.sizes:
        file = folder / "annotations" / {"train": "trainval.txt"}.get(split, "test.txt")
        found, labels = [], []
        for number, line in enumerate(read_lines(file), start=1):
            if line[0] == "#":
                continue
            image, *figures = line.split()
            if not figures or figures[0] not in label_of:
                raise UserError(
                    f"{file}, line {number}: {line!r} is not an image and its class, 1 to {data_set.num_classes}; "
                    "mend the file"
                )
            label = label_of[figures[0]]
            if name_of.setdefault(label, pet_name(image)) != pet_name(image):
                raise UserError(
                    f"{file}, line {number}: class {label + 1} is {pet_name(image)!r} here, {name_of[label]!r} before"
                )
            found.append(images.find(f"{image}.jpg", f"{file}, line {number}"))
            labels.append(label)
        parts[split] = file, found, labels
    for label in range(data_set.num_classes):
        if label not in name_of:
            raise UserError(
                f"{folder / 'annotations'} names no image of class {label + 1}; restore the lists"
            )
    names = [name_of[label] for label in range(data_set.num_classes)]
    check_class_names(names, folder / "annotations")
    return Listing(
        tuple(names),
        {split: records(found, labels, names, file) for split, (file, found, labels) in parts.items()},
        images.absent,
    )


def _read_cars(data_set: ImageSet, folder: Path) -> Listing:
    devkit = folder / "devkit"
    (listed,) = read_matlab(devkit / "cars_meta.mat", "class_names")
    names = [str(name) for name in listed]
    check_class_names(names, devkit / "cars_meta.mat")
    with_labels = "cars_test_annos_withlabels.mat"
    # The labelled test list is handed out on its own; people put it in either place.
    test_list = devkit / with_labels if (devkit / with_labels).is_file() else folder / with_labels
    if not test_list.is_file():
        raise UserError(
            f"{test_list} is missing; it is handed out on its own beside Stanford Cars, the devkit has no test labels"
        )
    files: dict[Split, tuple[Path, str]] = {
        "train": (devkit / "cars_train_annos.mat", "cars_train"),
        "test": (test_list, "cars_test"),
    }
    images = Images(folder)
    splits: dict[Split, Records] = {}
    for split, (file, below) in files.items():
        (annotations,) = read_matlab(file, "annotations")
        if not {"fname", "class"} <= set(annotations.dtype.names or ()):
            raise UserError(f"{file}: its annotations have no fname and class; replace the file")
        labels = whole_numbers(annotations["class"], f"the classes of {file}")
        found = []
        for number, (label, image) in enumerate(zip(labels, annotations["fname"], strict=True), start=1):
            if not 1 <= label <= len(names):
                raise UserError(f"{file}, entry {number}: class {label} is out of range, 1 to {len(names)}")
            found.append(images.find(f"{below}/{image}", f"{file}, entry {number}"))
        splits[split] = records(found, [label - 1 for label in labels], names, file)
    return Listing(tuple(names), splits, images.absent)


def _read_sun(data_set: ImageSet, folder: Path) -> Listing:
    top = sun_images(folder)
    # CoOp unpacks the lists beside the folder of the images.
    lists = (place / "ClassName.txt" for place in (top, top.parent))
    listed = next((file for file in lists if file.is_file()), None)
    if listed is None:
        raise UserError(f"{top / 'ClassName.txt'} is missing; it is in SUN397.tar.gz")
    classes = [line[3:] for line in read_lines(listed)]
    label = {name: number for number, name in enumerate(classes)}
    paths = sorted(
        Path(below, file).relative_to(top).as_posix()
        for below, _, files in os.walk(top)
        for file in files
        if file.startswith("sun_") and file.lower().endswith(".jpg")
    )
    images, labels = Images(top), []
    for path in paths:
        name = "/".join(path.split("/")[1:-1])
        if name not in label:
            raise UserError(f"{top / path}: its folder is no class of {listed}; remove it")
        labels.append(label[name])
    if empty := sorted(set(range(len(classes))) - set(labels)):
        raise UserError(f"{listed} has the class {classes[empty[0]]!r}, but {top} has no image of it")
    found = [images.find(path, top) for path in paths]
    names = [plain(name) for name in classes]
    check_class_names(names, listed)
    return Listing(tuple(names), _split_at_random(found, labels, names, top), images.absent)


def _names_of(key: str) -> Callable[[str], str]:
    """Class names by the hard-coded list; a name that is in it already stays."""

    def rename(name: str) -> str:
        if name in _NAMES[key].values():
            return name
        if name not in _NAMES[key]:
            raise UserError(
                f"class {name!r} is none of {key}; rename the classes of the source, or choose another"
            )
        return _NAMES[key][name]

    return rename


def _sizes(train: int, test: int) -> dict[Split, int]:
    return {"train": train, "test": test}


_DATA_SETS = (
    ImageSet(
        key="Aircraft",
        num_classes=100,
        sizes=_sizes(3334, 3333),
        folders=aircraft.FOLDERS,
        holds=("images",),
        download=aircraft.DOWNLOAD,
        read=aircraft.read_aircraft,
    ),
    ImageSet(
        key="Caltech101",
        num_classes=101,
        sizes=_sizes(6941, 1736),
        folders=("caltech101", "caltech-101"),
        holds=("101_ObjectCategories",),
        download="101_ObjectCategories of Caltech-101 (CaltechDATA)",
        read=_read_class_folders("Caltech101", ("101_ObjectCategories",), ("BACKGROUND_Google",)),
        rename=_names_of("Caltech101"),
        left_out=("BACKGROUND_Google",),
        empty_classes=True,
    ),
    ImageSet(
        key="CIFAR100",
        num_classes=100,
        sizes=_sizes(50000, 10000),
        folders=("cifar-100-binary", "cifar100/cifar-100-binary"),
        holds=("train.bin",),
        download="cifar-100-binary.tar.gz of CIFAR-100 (University of Toronto); its pickled form is not read",
        read=_read_cifar100,
        rename=plain,
    ),
    ImageSet(
        key="DTD",
        num_classes=47,
        sizes=_sizes(1880, 1880),
        folders=("dtd/dtd", "dtd"),
        holds=("labels",),
        download="dtd-r1.0.1.tar.gz of the Describable Textures Dataset (Oxford VGG)",
        read=_read_dtd,
        rename=plain,
    ),
    ImageSet(
        key="EuroSAT",
        num_classes=10,
        sizes=_sizes(21600, 5400),
        folders=("eurosat", "EuroSAT"),
        holds=EUROSAT_ROOTS,
        download="EuroSAT.zip, the RGB version (phelber/EuroSAT)",
        read=_read_class_folders("EuroSAT", EUROSAT_ROOTS),
        rename=_names_of("EuroSAT"),
        empty_classes=True,
    ),
    ImageSet(
        key="Flowers",
        num_classes=102,
        sizes=_sizes(1020, 6149),
        folders=("flowers-102", "oxford_flowers"),
        holds=("jpg",),
        download="102flowers.tgz, imagelabels.mat and setid.mat of the Oxford 102 Flower data set (Oxford VGG)",
        read=_read_flowers,
        rename=_names_of("Flowers"),
    ),
    ImageSet(
        key="Food",
        num_classes=101,
        sizes=_sizes(75750, 25250),
        folders=("food-101", "food101"),
        holds=("meta",),
        download="food-101.tar.gz of Food-101 (ETH Zurich)",
        read=_read_food,
        rename=plain,
    ),
    ImageSet(
        key="MNIST",
        num_classes=10,
        sizes=mnist.SIZES,
        folders=mnist.FOLDERS,
        holds=("raw",),
        download=mnist.DOWNLOAD,
        read=mnist.read_mnist,
        rename=mnist.digit_name,
    ),
    ImageSet(
        key="OxfordPet",
        num_classes=37,
        sizes=_sizes(3680, 3669),
        folders=("oxford-iiit-pet", "oxford_pets"),
        holds=("annotations",),
        download="images.tar.gz and annotations.tar.gz of the Oxford-IIIT Pet data set (Oxford VGG)",
        read=_read_pets,
        rename=lambda name: " ".join(part.title() for part in name.replace("_", " ").split(" ")),
    ),
    ImageSet(
        key="StanfordCars",
        num_classes=196,
        sizes=_sizes(8144, 8041),
        folders=("stanford_cars",),
        holds=("devkit",),
        download="cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat of Stanford Cars",
        read=_read_cars,
    ),
    ImageSet(
        key="SUN397",
        num_classes=397,
        sizes=_sizes(87003, 21751),
        folders=("SUN397", "sun397/SUN397", "sun397"),
        holds=("a",),
        download="SUN397.tar.gz of the SUN database (Princeton)",
        read=_read_sun,
        rename=lambda name: plain(name.strip("/").split("/", 1)[-1] if name.strip("/")[1:2] == "/" else name),
        empty_classes=True,
    ),
)


def _single(key: str) -> dict[str, Any]:
    """The first template, in training and scoring."""
    return {"prompt": _FACTS["templates"][key][0]}


def _ensemble(key: str) -> dict[str, Any]:
    """Train with the first template, score with the mean of all: the published zero-shot row is made so."""
    return {**_single(key), "ensemble": _FACTS["templates"][key]}


_ORDER_1 = tuple(data_set.key for data_set in _DATA_SETS)

MTIL = ImageBenchmark(
    name="mtil",
    title="MTIL",
    data_sets={data_set.key: data_set for data_set in _DATA_SETS},
    defaults={"order": 1, "shots": None, "label_space": "task", "prompts": "ensemble"},
    published={"shots": (5, None), "test_examples": (None,), "label_space": ("task",)},
    orders={1: _ORDER_1, 2: tuple(_ORDER_1[position] for position in (9, 6, 7, 8, 5, 10, 0, 1, 3, 4, 2))},
    wording={"ensemble": _ensemble, "single": _single},
)
