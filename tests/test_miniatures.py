"""The miniature data sets against the numbers of the benchmarks, read back by plain code."""

import gzip
import json
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from miniature_pictures import ODD, Painter
from miniatures import (
    MTIL_FOLDERS,
    MTIL_NAMES,
    XTAIL_FOLDERS,
    XTAIL_NAMES,
    XTAIL_SPLIT_FILES,
    write_coop,
    write_torchvision,
)

XTAIL = {
    "aircraft": 100,
    "caltech101": 100,
    "dtd": 47,
    "eurosat": 10,
    "oxford_flowers": 102,
    "food101": 101,
    "mnist": 10,
    "oxford_pets": 37,
    "stanford_cars": 196,
    "sun397": 397,
}
OFFSETS = [0, 100, 200, 247, 257, 359, 460, 470, 507, 703]
MTIL = {
    "Aircraft": 100,
    "Caltech101": 101,
    "CIFAR100": 100,
    "DTD": 47,
    "EuroSAT": 10,
    "Flowers": 102,
    "Food": 101,
    "MNIST": 10,
    "OxfordPet": 37,
    "StanfordCars": 196,
    "SUN397": 397,
}
ROOTS = {
    "caltech101": "101_ObjectCategories",
    "dtd": "images",
    "eurosat": "2750",
    "oxford_flowers": "jpg",
    "food101": "images",
    "oxford_pets": "images",
}
IMAGES_IN_ONE_FILE = ("mnist", "MNIST", "CIFAR100")


@pytest.fixture(scope="module", params=["coop", "other"])
def coop(request, tmp_path_factory):
    """(spelling, root, truth)"""
    root = tmp_path_factory.mktemp(request.param)
    return request.param, root, write_coop(root, spelling=request.param)


@pytest.fixture(scope="module")
def torchvision(tmp_path_factory):
    """(root, truth)"""
    root = tmp_path_factory.mktemp("torchvision")
    return root, write_torchvision(root)


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def idx(path: Path) -> tuple[int, bytes]:
    content = path.read_bytes()
    (magic,) = struct.unpack(">I", content[:4])
    assert magic in (0x801, 0x803)
    assert gzip.decompress(path.with_name(path.name + ".gz").read_bytes()) == content
    return struct.unpack(">I", content[4:8])[0], content[8 if magic == 0x801 else 16 :]


def check_mnist(raw: Path, per_class: dict[str, int]) -> None:
    for stem, size in per_class.items():
        number, pixels = idx(raw / f"{stem}-images-idx3-ubyte")
        assert len(pixels) == number * 28 * 28
        assert idx(raw / f"{stem}-labels-idx1-ubyte")[0] == number
        assert Counter(idx(raw / f"{stem}-labels-idx1-ubyte")[1]) == dict.fromkeys(range(10), size)


def test_xtail_has_1100_classes_at_the_documented_offsets(coop):
    _, _, truth = coop
    assert list(truth) == list(XTAIL) == list(XTAIL_FOLDERS)
    for name, count in XTAIL.items():
        assert len(XTAIL_NAMES[name]) == len(set(XTAIL_NAMES[name])) == count
        for part, items in truth[name].items():
            assert Counter(label for _, label in items) == dict.fromkeys(
                range(count), 2 if part == "train" else 1
            )
    assert [sum(list(XTAIL.values())[:task]) for task in range(10)] == OFFSETS
    assert sum(XTAIL.values()) == 1100
    assert "val" not in truth["mnist"]


@pytest.mark.parametrize("name", XTAIL_SPLIT_FILES)
def test_split_files_list_images_that_exist(coop, name):
    spelling, root, truth = coop
    home = root / XTAIL_FOLDERS[name][spelling == "other"]
    root_of_images = home / ROOTS.get(name, "")
    if (spelling, name) == ("coop", "sun397"):
        root_of_images = home / "SUN397"
    rows = json.loads((home / XTAIL_SPLIT_FILES[name]).read_text())
    assert list(rows) == ["train", "val", "test"]
    seen = set()
    for part, listed in rows.items():
        for (path, label, class_name), (true_path, true_label) in zip(listed, truth[name][part], strict=True):
            assert (root_of_images / path) == root / true_path
            assert (root / true_path).is_file()
            assert (label, class_name) == (true_label, XTAIL_NAMES[name][label])
            seen.add(path)
    assert len(seen) == 4 * XTAIL[name]
    if name not in ("caltech101", "oxford_flowers", "stanford_cars"):  # elsewhere the path tells the class
        assert len({_class_in(name, path) for path in seen}) == XTAIL[name]


def _class_in(name: str, path: str) -> str:
    return path.rsplit("_", 1)[0] if name == "oxford_pets" else path.rsplit("/", 1)[0]


def test_xtail_aircraft_and_mnist_without_split_files(coop):
    spelling, root, truth = coop
    home = root / XTAIL_FOLDERS["aircraft"][spelling == "other"]
    variants = lines(home / "variants.txt")
    assert variants == XTAIL_NAMES["aircraft"]
    assert {"F-16A/B", "707-320"} < set(variants)
    for part in ("train", "val", "test"):
        read = [line.split(" ", 1) for line in lines(home / f"images_variant_{part}.txt")]
        items = [(home / "images" / f"{number}.jpg", variants.index(variant)) for number, variant in read]
        assert items == [(root / path, label) for path, label in truth["aircraft"][part]]
        assert all(path.is_file() for path, _ in items)
    check_mnist(root / "MNIST/raw", {"train": 2, "t10k": 1})


def test_xtail_folders_hold_as_many_images_as_they_should(coop):
    spelling, root, _ = coop
    for name, folders in XTAIL_FOLDERS.items():
        images = [
            p for p in (root / folders[spelling == "other"]).rglob("*.jpg") if not p.name.startswith("._")
        ]
        extra = 8 if name == "caltech101" else 0  # Faces_easy and BACKGROUND_Google
        assert len(images) == (0 if name == "mnist" else 4 * XTAIL[name] + extra)


def test_mtil_has_1201_classes(torchvision):
    root, truth = torchvision
    assert list(truth) == list(MTIL) == list(MTIL_FOLDERS)
    assert sum(MTIL.values()) == 1201
    for name, count in MTIL.items():
        labels = Counter(label for items in truth[name].values() for _, label in items)
        assert labels == dict.fromkeys(range(count), 5)
        assert len(set(MTIL_NAMES.get(name, range(count)))) == count
        paths = [path for items in truth[name].values() for path, _ in items]
        assert len(set(paths)) == len(paths)
        assert name in IMAGES_IN_ONE_FILE or all((root / path).is_file() for path in paths)


def test_mtil_annotations_in_matlab_files(torchvision):
    root, truth = torchvision
    flowers = root / "flowers-102"
    ids, labels = loadmat(flowers / "setid.mat"), loadmat(flowers / "imagelabels.mat")["labels"].ravel()
    for part, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid")):
        items = [(f"flowers-102/jpg/image_{n:05}.jpg", int(labels[n - 1]) - 1) for n in ids[key].ravel()]
        assert items == truth["Flowers"][part]

    cars = root / "stanford_cars"
    meta = loadmat(cars / "devkit/cars_meta.mat", squeeze_me=True)
    assert meta["class_names"].tolist() == MTIL_NAMES["StanfordCars"]
    for part, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = loadmat(cars / file, squeeze_me=True)["annotations"]
        items = [(f"stanford_cars/cars_{part}/{row['fname']}", int(row["class"]) - 1) for row in rows]
        assert items == truth["StanfordCars"][part]
    raw = loadmat(cars / "devkit/cars_train_annos.mat")["annotations"]
    assert raw.shape == (1, 4 * 196)
    assert raw.dtype.names == ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    assert (raw[0, 0]["class"].shape, raw[0, 0]["fname"][0]) == ((1, 1), "00001.jpg")


def test_mtil_annotations_in_text_files(torchvision):
    root, truth = torchvision
    food = root / "food-101"
    for part in ("train", "test"):
        listed = json.loads((food / f"meta/{part}.json").read_text())
        classes = sorted(listed)
        items = [
            (f"food-101/images/{stem}.jpg", classes.index(key))
            for key, stems in listed.items()
            for stem in stems
        ]
        assert items == truth["Food"][part]
        assert sorted(lines(food / f"meta/{part}.txt")) == sorted(
            stem for stems in listed.values() for stem in stems
        )
    assert classes == lines(food / "meta/classes.txt")

    for part, file in (("train", "trainval"), ("test", "test")):
        read = [line.split(" ") for line in lines(root / f"oxford-iiit-pet/annotations/{file}.txt")]
        items = [(f"oxford-iiit-pet/images/{stem}.jpg", int(label) - 1) for stem, label, _, _ in read]
        assert items == truth["OxfordPet"][part]
        assert {(stem[0].isupper(), species) for stem, _, species, _ in read} == {(True, "1"), (False, "2")}

    classes = sorted(path.name for path in (root / "dtd/dtd/images").iterdir() if path.is_dir())
    for part in ("train", "val", "test"):
        read = lines(root / f"dtd/dtd/labels/{part}1.txt")
        items = [(f"dtd/dtd/images/{line}", classes.index(line.split("/")[0])) for line in read]
        assert items == truth["DTD"][part]


def test_mtil_sets_without_a_split(torchvision):
    root, truth = torchvision
    sun = [line[1:] for line in lines(root / "SUN397/ClassName.txt")]
    assert sun != sorted(sun)
    found = sorted(
        path.relative_to(root / "SUN397").as_posix() for path in (root / "SUN397").rglob("sun_*.jpg")
    )
    assert truth["SUN397"]["all"] == [(f"SUN397/{path}", sun.index(path.rsplit("/", 1)[0])) for path in found]

    for name, folder, ignored in (
        ("Caltech101", "caltech101/101_ObjectCategories", {"BACKGROUND_Google"}),
        ("EuroSAT", "eurosat/2750", set()),
    ):
        classes = sorted({path.name for path in (root / folder).iterdir() if path.is_dir()} - ignored)
        found = [
            (f"{folder}/{class_name}/{path}", label)
            for label, class_name in enumerate(classes)
            for path in sorted(p.name for p in (root / folder / class_name).glob("[!.]*.jpg"))
        ]
        assert truth[name]["all"] == found


def test_mtil_bare_pixels(torchvision):
    root, truth = torchvision
    for part, size in (("train", 4), ("test", 1)):
        records = np.fromfile(root / f"cifar-100-binary/{part}.bin", dtype=np.uint8).reshape(-1, 2 + 3072)
        assert len(records) == 100 * size
        assert records[:, 1].tolist() == [label for _, label in truth["CIFAR100"][part]]
        assert records[:, 0].max() < 20
    assert len(lines(root / "cifar-100-binary/fine_label_names.txt")) == 100
    check_mnist(root / "MNIST/raw", {"train": 4, "t10k": 1})


def test_every_odd_encoding_is_there_and_can_be_read(torchvision):
    root, truth = torchvision
    seen = Counter()
    for path, _ in truth["OxfordPet"]["train"]:
        with Image.open(root / path) as image:
            image.convert("RGB")
            seen[(image.format, image.mode)] += 1
            seen["thin"] += image.width == 1
            seen["rotated"] += 0x0112 in image.getexif()
            seen["progressive"] += "progressive" in image.info
    formats = [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "P"), ("GIF", "P")]
    assert all(seen[key] for key in [*formats, "thin", "rotated", "progressive"])
    assert len(formats) + 3 == len(ODD)


def test_what_a_real_tree_holds_besides_is_there(coop):
    _, root, _ = coop
    names = {path.name for path in root.rglob("*")}
    assert {
        ".DS_Store",
        "Thumbs.db",
        "BACKGROUND_Google",
        "split_fewshot",
        "cars_meta.mat",
        "._image_0001.jpg",
    } < names


def test_the_class_can_be_seen():
    painter = Painter("sun397")
    known = np.stack([np.mean([painter.pixels(c, 12, 12) for _ in range(3)], axis=0) for c in range(50)])
    fresh = np.stack([painter.pixels(c, 12, 12) for c in range(50)]).astype(float)
    distances = ((known[None] - fresh[:, None]) ** 2).mean(axis=(2, 3, 4))
    assert (distances.argmin(axis=1) == np.arange(50)).all()


def test_the_same_tree_every_time(tmp_path):
    for copy in ("a", "b"):
        write_coop(tmp_path / copy, only=["aircraft", "oxford_flowers"])
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    for file in files:
        if file.suffix != ".mat":  # their header holds the time
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
