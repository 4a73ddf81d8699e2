"""Benchmark data that are incomplete or damaged: `data verify` and `run` both name the file in one line."""

import gzip
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from miniatures import write_coop, write_torchvision

DTD = "dtd/split_zhou_DescribableTextures.json"
RAW = "MNIST/raw"
PETS = "oxford-iiit-pet/annotations"
DEVKIT = "stanford_cars/devkit"


def in_split(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """A damage to DTD's split file, given its content."""

    def damage(root: Path) -> None:
        content = json.loads((root / DTD).read_text())
        change(content)
        (root / DTD).write_text(json.dumps(content))

    return damage


def entry(position: int, value: object) -> Callable[[Path], None]:
    return in_split(lambda content: content["train"][0].__setitem__(position, value))


def written(file: str, content: str | bytes) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / file).write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def appended(file: str, line: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        with (root / file).open("a") as stream:
            stream.write(f"{line}\n")

    return damage


def removed(file: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / file
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def cut(file: str, size: int) -> Callable[[Path], None]:
    return lambda root: os.truncate(root / file, size)


def matlab(file: str, **content: object) -> Callable[[Path], None]:
    return lambda root: savemat(root / file, content)


def empty_class(root: Path) -> None:
    for picture in (root / "eurosat/2750/Forest").iterdir():
        picture.unlink()


def file_for_folder(root: Path) -> None:
    shutil.rmtree(root / "dtd")
    (root / "dtd").write_text("")


def one_name_for_two(content: dict) -> None:
    for row in (row for part in content.values() for row in part):
        if row[1] == 3:
            row[2] = "banded"


def bomb(root: Path) -> None:
    """67 MB of zeros in 65 kB, under a header that promises four times as many pictures."""
    file = root / RAW / "train-images-idx3-ubyte"
    file.unlink()
    packed = gzip.compress(struct.pack(">4I", 0x803, 340_000, 28, 28) + bytes(1 << 26), compresslevel=1)
    file.with_name(f"{file.name}.gz").write_bytes(packed)


def annotation(**fields: object) -> Callable[[Path], None]:
    """A training list of Stanford Cars with one entry."""
    entries = np.empty((1, 1), dtype=[(name, object) for name in fields])
    entries[0, 0] = tuple(fields.values())
    return matlab(f"{DEVKIT}/cars_train_annos.mat", annotations=entries)


# what is wrong -> (data set, how it comes about, what the line says; the first word is the file)
XTAIL = {
    "no data set at all": ("dtd", removed("dtd"), ["has no dtd or dtd/dtd", "get dtd-r1.0.1.tar.gz"]),
    "a folder that is a file": ("dtd", file_for_folder, ["has no dtd or dtd/dtd"]),
    "no folder of images": ("dtd", removed("dtd/images"), ["dtd has no images"]),
    "no split file": ("dtd", removed(DTD), [DTD, "KaiyangZhou/CoOp", "codyra data rebuild-splits"]),
    "no test part": ("dtd", in_split(lambda c: c.pop("test")), [DTD, "no lists train and test"]),
    "a list": ("dtd", written(DTD, "[]"), [DTD, "no lists train and test"]),
    "no JSON": ("dtd", written(DTD, "{"), [DTD, "not JSON"]),
    "deep JSON": ("dtd", written(DTD, "[" * 100_000), [DTD, "not JSON"]),
    "no text": ("dtd", written(DTD, b"\xff\xfe"), [DTD, "damaged"]),
    "part of a wrong type": ("dtd", in_split(lambda c: c.update(test={})), [DTD, "no lists"]),
    "entry of a wrong type": (
        "dtd",
        in_split(lambda c: c["val"].append("x")),
        [DTD, "val entry 48", "[path,"],
    ),
    "label of a wrong type": ("dtd", entry(1, "0"), [DTD, "train entry 1", "[path, label, class name]"]),
    "label that is a truth value": ("dtd", entry(1, True), [DTD, "train entry 1"]),
    "label below the range": (
        "dtd",
        entry(1, -1),
        [DTD, "train entry 1", "label -1 is out of range", "0 to 46"],
    ),
    "label above the range": ("dtd", entry(1, 47), [DTD, "train entry 1", "label 47 is out of range"]),
    "label with two names": (
        "dtd",
        entry(2, "dotted"),
        [DTD, "label 0 is called 'banded' here and 'dotted' before"],
    ),
    "two labels of one name": ("dtd", in_split(one_name_for_two), [DTD, "label 0 and label 3 'banded'"]),
    "a gap in the labels": (
        "dtd",
        in_split(lambda c: [c.update({k: [row for row in c[k] if row[1] != 5]}) for k in c]),
        [DTD, "no image of label 5"],
    ),
    "a class without training images": (
        "dtd",
        in_split(lambda c: c.update(train=[row for row in c["train"] if row[1] != 0])),
        ["class 'banded' has no example", DTD],
    ),
    "a path to nothing": (
        "dtd",
        entry(0, "banded/none.jpg"),
        [f"{DTD}, train entry 1", "dtd/images/banded/none.jpg"],
    ),
    "a path to a folder": ("dtd", entry(0, "banded"), [f"{DTD}, train entry 1", "not there"]),
    "a path out of the folder": ("dtd", entry(0, "../../x.jpg"), [DTD, "'../../x.jpg'", "no path below"]),
    "an absolute path": ("dtd", entry(0, "/etc/hostname"), [DTD, "'/etc/hostname'", "no path below"]),
    "a path with a null byte": ("dtd", entry(0, "a\0b.jpg"), [DTD, "no path below"]),
    "a path of two lines": ("dtd", entry(0, "a\nb.jpg"), [DTD, "a\\nb.jpg"]),
    "variants.txt missing": (
        "aircraft",
        removed("fgvc_aircraft/variants.txt"),
        ["fgvc_aircraft/variants.txt is missing"],
    ),
    "unknown variant": (
        "aircraft",
        appended("fgvc_aircraft/images_variant_test.txt", "1234567 Zeppelin NT"),
        ["images_variant_test.txt, line 101", "'Zeppelin NT' is not in variants.txt"],
    ),
    "variant listed twice": (
        "aircraft",
        appended("fgvc_aircraft/variants.txt", "707-320"),
        ["variants.txt lists a variant twice"],
    ),
    "too many variants": (
        "aircraft",
        appended("fgvc_aircraft/variants.txt", "Zeppelin NT"),
        ["fgvc_aircraft has 101 classes, aircraft has 100"],
    ),
    "list of images missing": (
        "aircraft",
        removed("fgvc_aircraft/images_variant_test.txt"),
        ["images_variant_test.txt is missing"],
    ),
    "idx file missing": (
        "mnist",
        lambda root: [file.unlink() for file in (root / RAW).glob("t10k-labels*")],
        ["has neither t10k-labels-idx1-ubyte nor t10k-labels-idx1-ubyte.gz"],
    ),
    "idx file cut off": (
        "mnist",
        cut(f"{RAW}/train-images-idx3-ubyte", 5000),
        ["train-images-idx3-ubyte is damaged"],
    ),
    "idx file without header": (
        "mnist",
        cut(f"{RAW}/train-images-idx3-ubyte", 9),
        ["train-images-idx3-ubyte", "damaged"],
    ),
    "idx file empty": (
        "mnist",
        cut(f"{RAW}/t10k-labels-idx1-ubyte", 0),
        ["t10k-labels-idx1-ubyte", "damaged"],
    ),
    "wrong magic number": (
        "mnist",
        written(f"{RAW}/train-labels-idx1-ubyte", struct.pack(">2I", 0x803, 10) + bytes(10)),
        ["train-labels-idx1-ubyte is no idx file of bytes in 1 dimensions"],
    ),
    "label beyond the digits": (
        "mnist",
        written(f"{RAW}/t10k-labels-idx1-ubyte", struct.pack(">2I", 0x801, 10) + bytes(range(1, 11))),
        ["t10k-labels-idx1-ubyte has the label 10"],
    ),
    "fewer labels than digits": (
        "mnist",
        written(f"{RAW}/t10k-labels-idx1-ubyte", struct.pack(">2I", 0x801, 9) + bytes(9)),
        ["t10k-images-idx3-ubyte has 10 images but 9 labels"],
    ),
    "digits of another size": (
        "mnist",
        written(f"{RAW}/t10k-images-idx3-ubyte", struct.pack(">4I", 0x803, 10, 0, 28)),
        ["t10k-images-idx3-ubyte has images of 0 x 28, not 28 x 28"],
    ),
    "packed idx file that inflates without end": ("mnist", bomb, ["train-images-idx3-ubyte.gz is damaged"]),
}
MTIL = {
    "class folder without images": ("EuroSAT", empty_class, ["eurosat/2750/Forest has no image"]),
    "class folder missing": ("EuroSAT", removed("eurosat/2750/River"), ["eurosat/2750/River is missing"]),
    "one folder too many": (
        "EuroSAT",
        lambda root: (root / "eurosat/2750/Moon").mkdir(),
        ["eurosat/2750/Moon is no class"],
    ),
    "CIFAR-100 cut off": (
        "CIFAR100",
        cut("cifar-100-binary/test.bin", 4000),
        ["test.bin is damaged: 4,000 bytes"],
    ),
    "CIFAR-100 empty": ("CIFAR100", cut("cifar-100-binary/train.bin", 0), ["train.bin is damaged"]),
    "names of CIFAR-100 missing": (
        "CIFAR100",
        removed("cifar-100-binary/fine_label_names.txt"),
        ["fine_label_names.txt is missing"],
    ),
    "name of CIFAR-100 twice": (
        "CIFAR100",
        appended("cifar-100-binary/fine_label_names.txt", "apple"),
        ["fine_label_names.txt calls both", "'apple'"],
    ),
    "label beyond the names": (
        "CIFAR100",
        written("cifar-100-binary/fine_label_names.txt", "apple\n"),
        ["has the label 99, fine_label_names.txt ends at 0"],
    ),
    "texture list missing": ("DTD", removed("dtd/dtd/labels/train1.txt"), ["labels/train1.txt is missing"]),
    "texture list names nothing": (
        "DTD",
        appended("dtd/dtd/labels/test1.txt", "banded/none.jpg"),
        ["test1.txt, line 48", "images/banded/none.jpg"],
    ),
    "labels of flowers missing": (
        "Flowers",
        removed("flowers-102/imagelabels.mat"),
        ["imagelabels.mat is missing"],
    ),
    "labels of flowers are garbage": (
        "Flowers",
        written("flowers-102/imagelabels.mat", b"garbage" * 100),
        ["imagelabels.mat is no MATLAB file"],
    ),
    "labels of flowers in HDF5": (
        "Flowers",
        written(
            "flowers-102/imagelabels.mat", b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400)
        ),
        ["imagelabels.mat is no MATLAB file of version 5"],
    ),
    "labels of flowers cut off": ("Flowers", cut("flowers-102/imagelabels.mat", 200), ["imagelabels.mat"]),
    "another variable": (
        "Flowers",
        matlab("flowers-102/imagelabels.mat", other=1),
        ["has no variable 'labels'"],
    ),
    "labels that are text": (
        "Flowers",
        matlab("flowers-102/imagelabels.mat", labels="abc"),
        ["no whole numbers"],
    ),
    "labels that are fractions": (
        "Flowers",
        matlab("flowers-102/imagelabels.mat", labels=np.full(306, 1.5)),
        ["imagelabels.mat are no whole numbers"],
    ),
    "flower beyond 102": (
        "Flowers",
        matlab("flowers-102/imagelabels.mat", labels=np.full(306, 103)),
        ["imagelabels.mat, image 1: label 103 is out of range"],
    ),
    "image beyond the labels": (
        "Flowers",
        matlab("flowers-102/setid.mat", trnid=np.array([1, 307]), valid=1, tstid=2),
        ["setid.mat: trnid names image 307"],
    ),
    "image 0": (
        "Flowers",
        matlab("flowers-102/setid.mat", trnid=np.array([0, 1]), valid=1, tstid=2),
        ["setid.mat: trnid names image 0"],
    ),
    "food list missing": ("Food", removed("food-101/meta/test.json"), ["meta/test.json is missing"]),
    "food list is a list": ("Food", written("food-101/meta/train.json", "[]"), ["train.json is not {class:"]),
    "food list of numbers": (
        "Food",
        written("food-101/meta/train.json", '{"a": [1]}'),
        ["train.json is not {class:"],
    ),
    "food that is only tested": (
        "Food",
        written("food-101/meta/test.json", '{"air": []}'),
        ["test.json has the class 'air', train.json has not"],
    ),
    "pets without annotations": ("OxfordPet", removed(PETS), ["oxford-iiit-pet has no annotations"]),
    "pets without a list": ("OxfordPet", removed(f"{PETS}/trainval.txt"), ["trainval.txt is missing"]),
    "pet of class 38": (
        "OxfordPet",
        appended(f"{PETS}/test.txt", "Abyssinian_1 38 1 1"),
        ["test.txt, line 38", "1 to 37"],
    ),
    "pet of an odd class": (
        "OxfordPet",
        appended(f"{PETS}/test.txt", "Abyssinian_1 ² 1 1"),
        ["test.txt, line 38"],
    ),
    "pet of two names": (
        "OxfordPet",
        appended(f"{PETS}/test.txt", "lion_1 1 1 1"),
        ["test.txt, line 38", "'Lion' here, 'Abyssinian' before"],
    ),
    "cars without labels": (
        "StanfordCars",
        removed("stanford_cars/cars_test_annos_withlabels.mat"),
        ["cars_test_annos_withlabels.mat is missing"],
    ),
    "cars without names": ("StanfordCars", removed(f"{DEVKIT}/cars_meta.mat"), ["cars_meta.mat is missing"]),
    "cars of other fields": ("StanfordCars", annotation(fname="00001.jpg"), ["have no fname and class"]),
    "car of class 197": (
        "StanfordCars",
        annotation(**{"class": 197, "fname": "00001.jpg"}),
        ["cars_train_annos.mat, entry 1: class 197 is out of range"],
    ),
    "car of a class in words": (
        "StanfordCars",
        annotation(**{"class": "coupe", "fname": "00001.jpg"}),
        ["cars_train_annos.mat are no whole numbers"],
    ),
    "car outside": (
        "StanfordCars",
        annotation(**{"class": 1, "fname": "../../x.jpg"}),
        ["cars_train_annos.mat, entry 1", "no path below"],
    ),
}
CASES = [
    *(("xtail-vit-b16", write_coop, {"train": 1}, name, *case) for name, case in XTAIL.items()),
    *(
        ("mtil-5shot-vit-b16", write_torchvision, {"per_class": 3}, name, *case)
        for name, case in MTIL.items()
    ),
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """sound(writer, options, key): a tree with this data set alone, written once and copied."""
    trees: dict[str, Path] = {}

    def get(write, options, key):
        if key not in trees:
            trees[key] = tmp_path_factory.mktemp(key)
            write(trees[key], only=[key], **options)
        return trees[key]

    return get


@pytest.mark.parametrize(
    ("preset", "write", "options", "name", "key", "damage", "words"), CASES, ids=[case[3] for case in CASES]
)
def test_damage_is_one_line_that_names_the_file(
    preset, write, options, name, key, damage, words, sound, command, tmp_path, tiny_clip
):
    root = tmp_path / "data"
    shutil.copytree(sound(write, options, key), root)
    damage(root)
    only = ["--set", f"stream.only=[{key}]"]
    code, out, err = command("data", "verify", preset, "--data-dir", root, *only)
    assert code == 2
    assert "Traceback" not in out + err
    if name != "a class without training images":  # a count that is wrong, not a file
        (line,) = [line for line in out.splitlines() if line.startswith(f"{key}: ")]
        for word in words:
            assert word in line, (word, line)
    settings = [f"data_dir={root}", f"model.name={tiny_clip}", "train.steps=3", "train.batch_size=2"]
    words_of = [word for setting in settings for word in ("--set", setting)]
    code, out, err = command("run", preset, "--dry-run", *only, *words_of)
    assert code == 2
    assert "Traceback" not in out + err
    (line,) = err.strip().splitlines()
    assert f"task '{key}'" in line
    for word in words:
        assert word in line, (word, line)


def test_names_of_sun397_missing(command, tmp_path):
    write_torchvision(tmp_path, per_class=3, only=["SUN397"])
    (tmp_path / "SUN397/ClassName.txt").unlink()
    verify = ["data", "verify", "mtil-full-vit-b16", "--data-dir", tmp_path, "--set", "stream.only=[SUN397]"]
    code, out, _ = command(*verify)
    assert code == 2
    assert "SUN397/ClassName.txt is missing; it is in SUN397.tar.gz" in out
    (tmp_path / "SUN397/ClassName.txt").write_text("/a/abbey\n")
    code, out, _ = command(*verify)
    assert code == 2
    assert "its folder is no class of" in out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([], ["data_dir"]),
        (["data_dir=/nowhere/at/all"], ["no folder /nowhere/at/all", "data_dir"]),
        (["data_dir=null"], ["data_dir"]),
        (["stream.tasks=[{name: a, data: 'xtail:/x/dtds'}]"], ["no data set 'dtds'", "did you mean 'dtd'"]),
        (["stream.sources.dtd.data='imagefolder:x'"], ["must begin with hf:"]),
        (["stream.sources.dtds.data='hf:a/b@c'"], ["X-TAIL has no 'dtds'", "did you mean 'dtd'"]),
        (["stream.benchmark=xtial"], ["stream.benchmark"]),
    ],
)
def test_a_benchmark_that_cannot_be_found(settings, words, command, tiny_clip):
    options = [word for setting in (*settings, f"model.name={tiny_clip}") for word in ("--set", setting)]
    code, out, err = command("run", "xtail-vit-b16", "--dry-run", *options)
    assert code == 2
    assert "Traceback" not in out + err
    (line,) = err.strip().splitlines()
    for word in words:
        assert word in line, (word, line)


def test_a_data_dir_that_is_a_file(command, tmp_path, tiny_clip):
    (tmp_path / "data").write_text("")
    code, _, err = command("data", "verify", "xtail-vit-b16", "--data-dir", tmp_path / "data")
    assert code == 2
    assert err.strip() == f"codyra: --data-dir: there is no folder {tmp_path / 'data'}"
    settings = ["--set", f"data_dir={tmp_path / 'data'}", "--set", f"model.name={tiny_clip}"]
    code, _, err = command("run", "xtail-vit-b16", "--dry-run", *settings)
    assert code == 2
    assert f"no folder {tmp_path / 'data'}" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(command, tmp_path):
    write_coop(tmp_path, train=1, only=["dtd"])
    for locked in (tmp_path / DTD, tmp_path / "dtd"):
        mode = locked.stat().st_mode
        locked.chmod(0)
        code, out, err = command(
            "data", "verify", "xtail-vit-b16", "--data-dir", tmp_path, "--set", "stream.only=[dtd]"
        )
        locked.chmod(mode)
        assert code == 2
        assert "Traceback" not in out + err
        assert str(tmp_path) in out
