"""Miniatures of the benchmark data sets in the exact on-disk formats: every class, a few tiny pictures of each.

Two trees, written from the public descriptions of the data sets and not from the code that reads them:

- `write_coop`: the ten data sets of X-TAIL as CoOp's DATASETS.md lays them out, in both folder spellings;
- `write_torchvision`: the eleven of MTIL as torchvision leaves them after a download, CIFAR-100 in its binary form.

Both hold what real trees hold beside the pictures: annotation files nobody needs, leftovers of macOS and Windows,
odd image encodings (miniature_pictures.ODD). Both return what is true of the tree they wrote, so that a reader can be
checked without a second reader.
"""

import gzip
import itertools
import json
import random
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from scipy.io import savemat

from miniature_names import (
    AIRCRAFT,
    CALTECH_FOLDERS,
    CALTECH_RENAMED,
    CARS,
    CIFAR100,
    DTD,
    EUROSAT,
    FLOWERS,
    FOOD,
    MNIST,
    PETS,
    SUN,
)
from miniature_pictures import Painter

Item = tuple[str, int]
"""Path of an image and its 0-based label."""
Split = dict[str, list[Item]]
"""Part (train, val, test; `all` where the benchmark draws the split) -> its items in the order of the files."""
Truth = dict[str, Split]
"""Data set -> split; paths are relative to the root of the tree. Images inside one big file (MNIST, CIFAR-100) are
`<file>:<position>`."""


class Sizes(NamedTuple):
    """Images per class."""

    train: int
    val: int
    test: int


XTAIL_FOLDERS = {
    "aircraft": ("fgvc_aircraft", "fgvc-aircraft-2013b/data"),
    "caltech101": ("caltech-101", "caltech101"),
    "dtd": ("dtd", "dtd"),
    "eurosat": ("eurosat", "eurosat"),
    "oxford_flowers": ("oxford_flowers", "flowers-102"),
    "food101": ("food-101", "food-101"),
    "mnist": ("MNIST", "MNIST"),
    "oxford_pets": ("oxford_pets", "oxford-iiit-pet"),
    "stanford_cars": ("stanford_cars", "stanford_cars"),
    "sun397": ("sun397", "SUN397"),
}
"""Folder in CoOp's spelling and in the other one, in the order of the benchmark."""

MTIL_FOLDERS = {
    "Aircraft": "fgvc-aircraft-2013b/data",
    "Caltech101": "caltech101",
    "CIFAR100": "cifar-100-binary",
    "DTD": "dtd/dtd",
    "EuroSAT": "eurosat",
    "Flowers": "flowers-102",
    "Food": "food-101",
    "MNIST": "MNIST",
    "OxfordPet": "oxford-iiit-pet",
    "StanfordCars": "stanford_cars",
    "SUN397": "SUN397",
}
"""In order 1."""


def _year_first(name: str) -> str:
    rest, year = name.rsplit(" ", 1)
    return f"{year} {rest}"


XTAIL_NAMES: dict[str, list[str]] = {
    "aircraft": AIRCRAFT,
    "caltech101": [CALTECH_RENAMED.get(name, name) for name in CALTECH_FOLDERS if name != "Faces_easy"],
    "dtd": DTD,
    "eurosat": list(EUROSAT.values()),
    "oxford_flowers": FLOWERS,
    "food101": FOOD,
    "mnist": MNIST,
    "oxford_pets": [name.lower() for name in PETS],
    "stanford_cars": [_year_first(name) for name in CARS],
    "sun397": [" ".join(reversed(name.split("/")[1:])) for name in SUN],
}
"""Class names in label order as the split files hold them; X-TAIL adds ` satellite location` to EuroSAT's."""

MTIL_NAMES: dict[str, list[str]] = {
    "Aircraft": AIRCRAFT,
    "CIFAR100": [name.replace("_", " ") for name in CIFAR100],
    "DTD": DTD,
    "Food": [name.replace("_", " ") for name in FOOD],
    "MNIST": MNIST,
    "OxfordPet": [name.replace("_", " ").title() for name in PETS],
    "StanfordCars": CARS,
    "SUN397": [name[2:].replace("_", " ") for name in SUN],
}
"""Class names in label order where MTIL takes them from the files; the other three sets have fixed lists."""

XTAIL_SPLIT_FILES = {
    "caltech101": "split_zhou_Caltech101.json",
    "dtd": "split_zhou_DescribableTextures.json",
    "eurosat": "split_zhou_EuroSAT.json",
    "oxford_flowers": "split_zhou_OxfordFlowers.json",
    "food101": "split_zhou_Food101.json",
    "oxford_pets": "split_zhou_OxfordPets.json",
    "stanford_cars": "split_zhou_StanfordCars.json",
    "sun397": "split_zhou_SUN397.json",
}
_IMAGE_ROOTS = {
    "caltech101": "101_ObjectCategories/",
    "dtd": "images/",
    "eurosat": "2750/",
    "oxford_flowers": "jpg/",
    "food101": "images/",
    "oxford_pets": "images/",
    "stanford_cars": "",
    "sun397": "",
}
_OFFICIAL_TEST = {"oxford_pets", "stanford_cars", "sun397"}
"""The sets whose split_zhou file keeps the official test part."""


def write_coop(
    root: Path,
    *,
    train: int = 2,
    val: int = 1,
    test: int = 1,
    spelling: Literal["coop", "other"] = "coop",
    only: Iterable[str] = tuple(XTAIL_FOLDERS),
) -> Truth:
    """Write the data sets of X-TAIL named in `only`, with so many images per class and part.

    MNIST has no `val` part. The images of SUN397 lie in sun397/SUN397 in the spelling of CoOp, directly in SUN397 in
    the other one.
    """
    truth = {}
    for name in only:
        folder = XTAIL_FOLDERS[name][spelling == "other"]
        home = root / folder
        corpus = "SUN397/" if (name, spelling) == ("sun397", "coop") else ""
        sizes = Sizes(train, 0 if name == "mnist" else val, test)
        split = _CORPORA[name](home / corpus, sizes)
        if name in XTAIL_SPLIT_FILES:
            split = _zhou(name, split, sizes)
            _write_zhou(home / XTAIL_SPLIT_FILES[name], name, split)
        if name != "mnist":
            (home / "split_fewshot").mkdir()
        if corpus:  # CoOp unpacks Partitions.zip beside the folder of the images
            for file in (home / corpus).glob("*.txt"):
                file.rename(home / file.name)
        truth[name] = {
            part: [(f"{folder}/{corpus}{path}", label) for path, label in items]
            for part, items in split.items()
        }
    return truth


def write_torchvision(root: Path, *, per_class: int = 5, only: Iterable[str] = tuple(MTIL_FOLDERS)) -> Truth:
    """Write the data sets of MTIL named in `only`, with `per_class` images per class, 3 or more (4 or more if every
    class is to have a training image in the parts drawn with seed 42).

    One image per class is the official test part and, where there is one, one the official val part. The sets whose
    split the benchmark draws have one part, `all`, in the order the draw refers to.
    """
    truth = {}
    for name in only:
        folder = MTIL_FOLDERS[name]
        split = _CORPORA[_XTAIL_KEY.get(name, name)](root / folder, Sizes(per_class - 2, 1, 1))
        if name in ("Caltech101", "EuroSAT", "SUN397"):
            split = {"all": sorted(itertools.chain(*split.values()))}
        truth[name] = {
            part: [(f"{folder}/{path}", label) for path, label in items] for part, items in split.items()
        }
    for archive in ("101_ObjectCategories.tar.gz", "food-101.tar.gz", "cifar-100-binary.tar.gz"):
        (root / archive).write_bytes(gzip.compress(b"left over from the download", mtime=0))
    return truth


def _deal(classes: list[list[str]], seed: str, **sizes: int) -> Split:
    """Deal the images of every class at random into parts of the given sizes, class after class."""
    rng = random.Random(seed)
    split: Split = {part: [] for part in sizes}
    for label, paths in enumerate(classes):
        shuffled = iter(rng.sample(paths, len(paths)))
        for part, size in sizes.items():
            split[part] += [(path, label) for path in itertools.islice(shuffled, size)]
    return split


def _zhou(name: str, official: Split, sizes: Sizes) -> Split:
    """The split of a split_zhou file: dealt anew, the test part only where it is not the official one."""
    num_classes = 1 + max(label for items in official.values() for _, label in items)
    classes: list[list[str]] = [[] for _ in range(num_classes)]
    kept = ["test"] if name in _OFFICIAL_TEST else []
    for part, items in official.items():
        for path, label in items if part not in kept else []:
            classes[label].append(path)
    if name == "caltech101":
        del classes[CALTECH_FOLDERS.index("Faces_easy")]
    counts = sizes._asdict()
    split = _deal(classes, f"zhou {name}", **{part: n for part, n in counts.items() if part not in kept})
    return split | {part: official[part] for part in kept}


def _write_zhou(path: Path, name: str, split: Split) -> None:
    root = _IMAGE_ROOTS[name]
    rows = {
        part: [[image.removeprefix(root), label, XTAIL_NAMES[name][label]] for image, label in items]
        for part, items in split.items()
    }
    path.write_text(json.dumps(rows, indent=4, separators=(",", ": ")), encoding="utf-8")


# The corpora. Each writes one folder as the data set's own archive has it and returns the official split, with paths
# relative to that folder.


def _write(path: Path, *lines: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _draw(home: Path, name: str, classes: list[list[str]]) -> None:
    """Draw every image of every class, and leave beside them what file managers leave."""
    painter = Painter(name, odd=name != "eurosat")
    for label, paths in enumerate(classes):
        for path in paths:
            file = home / path
            if not file.parent.exists():
                file.parent.mkdir(parents=True)
            painter.save(file, label)
    first = home / classes[0][0]
    for folder in {first.parent, first.parent.parent}:
        (folder / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1" + bytes(24))
        (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(24))
    (first.parent / f"._{first.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X" + bytes(24))


def _aircraft(home: Path, sizes: Sizes) -> Split:
    rng = random.Random("aircraft")
    numbers = iter(rng.sample(range(30_000, 2_300_000), len(AIRCRAFT) * sum(sizes)))
    classes = [
        [f"images/{number:07}.jpg" for number in itertools.islice(numbers, sum(sizes))] for _ in AIRCRAFT
    ]
    _draw(home, "aircraft", classes)
    split = _deal(classes, "aircraft", **sizes._asdict())
    levels = {
        "variant": AIRCRAFT,
        "family": [name.split("-")[0].split(" ")[0] for name in AIRCRAFT],
        "manufacturer": [f"Maker {label % 30}" for label in range(len(AIRCRAFT))],
    }
    for (level, names), plural in zip(levels.items(), ("variants", "families", "manufacturers"), strict=True):
        _write(home / f"{plural}.txt", *sorted(set(names)))
        for part, items in {**split, "trainval": split["train"] + split["val"]}.items():
            stems = [(Path(path).stem, label) for path, label in items]
            _write(home / f"images_{level}_{part}.txt", *(f"{stem} {names[label]}" for stem, label in stems))
            _write(home / f"images_{part}.txt", *(stem for stem, _ in stems))
    _write(home / "images_box.txt", *(f"{Path(path).stem} 1 1 8 6" for paths in classes for path in paths))
    if home.name == "data":
        _write(home.parent / "README.html", "<html>FGVC-Aircraft Benchmark</html>")
        _write(home.parent / "example_evaluation.m", "% how to score")
    return split


def _caltech101(home: Path, sizes: Sizes) -> Split:
    root = "101_ObjectCategories"
    classes = [[f"{root}/{name}/image_{n + 1:04}.jpg" for n in range(sum(sizes))] for name in CALTECH_FOLDERS]
    _draw(home, "caltech101", classes)
    clutter = home / root / "BACKGROUND_Google"
    clutter.mkdir()
    painter = Painter("clutter")
    for number in range(sum(sizes)):
        painter.save(clutter / f"image_{number + 1:04}.jpg", 0)
    _write(clutter / "tmp", "a file without an extension that the archive really holds")
    (home / "Annotations/Faces_2").mkdir(parents=True)
    savemat(home / "Annotations/Faces_2/annotation_0001.mat", {"box_coord": np.array([[30, 137, 49, 349]])})
    _write(home / "Annotations/show_annotation.m", "% draws a contour")
    return {"all": [(path, label) for label, paths in enumerate(classes) for path in paths]}


def _dtd(home: Path, sizes: Sizes) -> Split:
    classes = [[f"images/{name}/{name}_{n + 2:04}.jpg" for n in range(sum(sizes))] for name in DTD]
    _draw(home, "dtd", classes)
    _write(home / "images" / DTD[-1] / ".directory", "[Dolphin]")
    for partition in range(10, 0, -1):
        split = _deal(classes, f"dtd {partition}", **sizes._asdict())
        for part, items in split.items():
            _write(
                home / f"labels/{part}{partition}.txt",
                *sorted(path.removeprefix("images/") for path, _ in items),
            )
    _write(home / "labels/labels_joint_anno.txt", f"{DTD[0]}/{DTD[0]}_0002.jpg {DTD[0]} {DTD[1]} ")
    (home / "imdb").mkdir()
    savemat(home / "imdb/imdb.mat", {"meta": "classes, sets"})
    return {part: sorted(items) for part, items in split.items()}


def _eurosat(home: Path, sizes: Sizes) -> Split:
    classes = [[f"2750/{name}/{name}_{n + 8}.jpg" for n in range(sum(sizes))] for name in EUROSAT]
    _draw(home, "eurosat", classes)
    return {"all": sorted((path, label) for label, paths in enumerate(classes) for path in paths)}


def _oxford_flowers(home: Path, sizes: Sizes) -> Split:
    # The archive numbers its images class after class, in no useful order.
    labels = random.Random("flowers").sample(range(len(FLOWERS)), len(FLOWERS))
    labels = [label for label in labels for _ in range(sum(sizes))]
    classes: list[list[str]] = [[] for _ in FLOWERS]
    for number, label in enumerate(labels, start=1):
        classes[label].append(f"jpg/image_{number:05}.jpg")
    _draw(home, "oxford_flowers", classes)
    split = _deal(classes, "oxford_flowers", **sizes._asdict())
    savemat(home / "imagelabels.mat", {"labels": np.array([label + 1 for label in labels], dtype=np.uint8)})
    numbers = {part: [int(Path(path).stem[-5:]) for path, _ in items] for part, items in split.items()}
    keys = {"train": "trnid", "val": "valid", "test": "tstid"}
    savemat(home / "setid.mat", {keys[part]: np.array(ids, dtype=np.uint16) for part, ids in numbers.items()})
    names = [(str(label + 1), name) for label, name in enumerate(FLOWERS)]
    random.Random("cat_to_name").shuffle(names)
    (home / "cat_to_name.json").write_text(json.dumps(dict(names)), encoding="utf-8")
    return split


def _food101(home: Path, sizes: Sizes) -> Split:
    rng = random.Random("food101")
    classes = [
        [f"images/{name}/{n}.jpg" for n in rng.sample(range(1_000, 4_000_000), sum(sizes))] for name in FOOD
    ]
    _draw(home, "food101", classes)
    _write(home / "README.txt", "Food-101")
    _write(home / "license_agreement.txt", "Images from foodspotting.com")
    _write(home / "meta/classes.txt", *FOOD)
    _write(home / "meta/labels.txt", *(name.replace("_", " ").capitalize() for name in FOOD))
    dealt = _deal(classes, "food101", train=sizes.train + sizes.val, test=sizes.test)
    keys = rng.sample(FOOD, len(FOOD))  # the keys of the archive's JSON files are in no order
    split = {}
    for part, items in dealt.items():
        listed = {key: [item for item in items if FOOD[item[1]] == key] for key in keys}
        split[part] = list(itertools.chain(*listed.values()))
        ids = {key: [_food_id(path) for path, _ in paths] for key, paths in listed.items()}
        (home / f"meta/{part}.json").write_text(json.dumps(ids), encoding="utf-8")
        _write(home / f"meta/{part}.txt", *(_food_id(path) for path, _ in items))
    return split


def _food_id(path: str) -> str:
    return path.removeprefix("images/").removesuffix(".jpg")


def _mnist(home: Path, sizes: Sizes) -> Split:
    raw = home / "raw"
    raw.mkdir(parents=True)
    rng, painter, split = random.Random("mnist"), Painter("mnist"), {}
    for part, stem, size in (("train", "train", sizes.train + sizes.val), ("test", "t10k", sizes.test)):
        labels = [label for label in range(10) for _ in range(size)]
        rng.shuffle(labels)
        pixels = [painter.pixels(label, 28, 28)[..., 0] for label in labels]
        files = {
            f"{stem}-images-idx3-ubyte": struct.pack(">4I", 0x803, len(labels), 28, 28)
            + np.stack(pixels).tobytes(),
            f"{stem}-labels-idx1-ubyte": struct.pack(">2I", 0x801, len(labels)) + bytes(labels),
        }
        for name, content in files.items():
            (raw / name).write_bytes(content)
            (raw / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
        split[part] = [(f"raw/{stem}-images-idx3-ubyte:{i}", label) for i, label in enumerate(labels)]
    return split


def _cifar100(home: Path, sizes: Sizes) -> Split:
    home.mkdir(parents=True)
    rng, painter, split = random.Random("cifar100"), Painter("cifar100"), {}
    for part, size in (("train", sizes.train + sizes.val), ("test", sizes.test)):
        labels = [label for label in range(100) for _ in range(size)]
        rng.shuffle(labels)
        planes = [painter.pixels(label, 32, 32).transpose(2, 0, 1).tobytes() for label in labels]
        records = [bytes((label % 20, label)) + plane for label, plane in zip(labels, planes, strict=True)]
        (home / f"{part}.bin").write_bytes(b"".join(records))
        split[part] = [(f"{part}.bin:{i}", label) for i, label in enumerate(labels)]
    _write(home / "fine_label_names.txt", *CIFAR100)
    _write(home / "coarse_label_names.txt", *(f"group_{n}" for n in range(20)))
    return split


def _oxford_pets(home: Path, sizes: Sizes) -> Split:
    rng = random.Random("oxford_pets")
    classes = [[f"images/{name}_{n}.jpg" for n in rng.sample(range(1, 300), sum(sizes))] for name in PETS]
    _draw(home, "oxford_pets", classes)
    for path in classes[0][:3]:
        savemat(home / Path(path).with_suffix(".mat"), {"image": np.zeros((2, 2))})
    cats = [name[0].isupper() for name in PETS]
    breeds = [sum(other == cat for other in cats[: label + 1]) for label, cat in enumerate(cats)]

    def lines(items: list[Item]) -> list[str]:
        return [
            f"{Path(path).stem} {label + 1} {1 if cats[label] else 2} {breeds[label]}"
            for path, label in items
        ]

    dealt = _deal(classes, "oxford_pets", trainval=sizes.train + sizes.val, test=sizes.test)
    for part, items in dealt.items():
        _write(home / f"annotations/{part}.txt", *lines(items))
    comments = ["#Image CLASS-ID SPECIES BREED ID", "#ID: 1:37 Class ids", "#SPECIES: 1:Cat 2:Dog"]
    everything = [(path, label) for label, paths in enumerate(classes) for path in paths]
    _write(home / "annotations/list.txt", *comments, *lines(everything))
    _write(home / "annotations/README", "The Oxford-IIIT Pet Dataset")
    stem = Path(classes[0][0]).stem
    _write(home / f"annotations/xmls/{stem}.xml", "<annotation/>")
    _write(home / f"annotations/trimaps/._{stem}.png", "resource fork")
    return {"train": dealt["trainval"], "test": dealt["test"]}


def _stanford_cars(home: Path, sizes: Sizes) -> Split:
    rng, split = random.Random("stanford_cars"), {}
    classes: list[list[str]] = [[] for _ in CARS]
    for part, size in (("train", sizes.train + sizes.val), ("test", sizes.test)):
        labels = [label for label in range(len(CARS)) for _ in range(size)]
        rng.shuffle(labels)
        split[part] = [(f"cars_{part}/{n:05}.jpg", label) for n, label in enumerate(labels, start=1)]
        for path, label in split[part]:
            classes[label].append(path)
    _draw(home, "stanford_cars", classes)
    devkit = home / "devkit"
    devkit.mkdir()
    names = np.empty((1, len(CARS)), dtype=object)
    names[0, :] = CARS
    savemat(devkit / "cars_meta.mat", {"class_names": names})
    savemat(devkit / "cars_train_annos.mat", {"annotations": _car_annotations(split["train"])})
    savemat(devkit / "cars_test_annos.mat", {"annotations": _car_annotations(split["test"], labelled=False)})
    savemat(home / "cars_test_annos_withlabels.mat", {"annotations": _car_annotations(split["test"])})
    _write(devkit / "README.txt", "This file gives documentation for the cars 196 dataset.")
    _write(devkit / "train_perfect_preds.txt", *(label + 1 for _, label in split["train"]))
    return split


def _car_annotations(items: list[Item], labelled: bool = True) -> np.ndarray:
    """The 1 x N struct array of a devkit file; classes count from 1."""
    boxes = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
    fields = [*boxes, *(["class"] if labelled else []), "fname"]
    annotations = np.empty((1, len(items)), dtype=[(field, object) for field in fields])
    for position, (path, label) in enumerate(items):
        numbers = [np.array([[n]], dtype=np.uint16) for n in (1, 1, 8, 6)]
        numbers += [np.array([[label + 1]], dtype=np.uint8)] if labelled else []
        annotations[0, position] = (*numbers, Path(path).name)
    return annotations


def _sun397(home: Path, sizes: Sizes) -> Split:
    rng = random.Random("sun397")
    stems = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=16)) for _ in range(len(SUN) * sum(sizes))]
    images = iter(stems)
    classes = [[f"{name}/sun_{stem}.jpg" for stem in itertools.islice(images, sum(sizes))] for name in SUN]
    _draw(home, "sun397", classes)
    split = _deal(classes, "sun397", train=sizes.train + sizes.val, test=sizes.test)
    _write(home / "ClassName.txt", *(f"/{name}" for name in SUN))
    for part, stem in (("train", "Training"), ("test", "Testing")):
        for partition in range(1, 11):
            _write(home / f"{stem}_{partition:02}.txt", *(f"/{path}" for path, _ in split[part]))
    _write(home / "README.txt", "SUN397")
    return split


_CORPORA: dict[str, Callable[[Path, Sizes], Split]] = {
    "aircraft": _aircraft,
    "caltech101": _caltech101,
    "CIFAR100": _cifar100,
    "dtd": _dtd,
    "eurosat": _eurosat,
    "oxford_flowers": _oxford_flowers,
    "food101": _food101,
    "mnist": _mnist,
    "oxford_pets": _oxford_pets,
    "stanford_cars": _stanford_cars,
    "sun397": _sun397,
}
_XTAIL_KEY = dict(zip((name for name in MTIL_FOLDERS if name != "CIFAR100"), XTAIL_FOLDERS, strict=True))
