"""Damaged files of benchmark data sets: a listing is made, or one line says what is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, note
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from codyra.errors import UserError
from codyra.streams.benchmarks import BENCHMARKS
from miniatures import write_coop, write_torchvision
from mutations import byte_edits, fuzz, replaced

FILES = {
    "fgvc_aircraft/variants.txt": ("xtail", "aircraft"),
    "fgvc_aircraft/images_variant_train.txt": ("xtail", "aircraft"),
    "dtd/split_zhou_DescribableTextures.json": ("xtail", "dtd"),
    "MNIST/raw/train-images-idx3-ubyte": ("xtail", "mnist"),
    "MNIST/raw/t10k-labels-idx1-ubyte": ("xtail", "mnist"),
    "cifar-100-binary/test.bin": ("mtil", "CIFAR100"),
    "cifar-100-binary/fine_label_names.txt": ("mtil", "CIFAR100"),
    "dtd/dtd/labels/test1.txt": ("mtil", "DTD"),
    "flowers-102/imagelabels.mat": ("mtil", "Flowers"),
    "flowers-102/setid.mat": ("mtil", "Flowers"),
    "food-101/meta/train.json": ("mtil", "Food"),
    "oxford-iiit-pet/annotations/trainval.txt": ("mtil", "OxfordPet"),
    "stanford_cars/devkit/cars_meta.mat": ("mtil", "StanfordCars"),
    "stanford_cars/devkit/cars_train_annos.mat": ("mtil", "StanfordCars"),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    write_torchvision(
        folder, per_class=3, only=["CIFAR100", "DTD", "Flowers", "Food", "OxfordPet", "StanfordCars"]
    )
    write_coop(folder, train=1, only=["aircraft", "dtd", "mnist"])
    for file in folder.rglob("*.mat"):  # as they are handed out: compressed, with a checksum
        content = {name: value for name, value in loadmat(file).items() if name[0] != "_"}
        savemat(file, content, do_compression=True)
    return folder


@pytest.mark.parametrize("examples", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_files(tree: Path, examples: int) -> None:
    @fuzz(examples)
    @given(st.sampled_from(list(FILES)), byte_edits())
    def damage(name: str, edit: Callable[[bytes], bytes]) -> None:
        note(name)
        benchmark, key = FILES[name]
        with replaced(tree / name, edit((tree / name).read_bytes())):
            try:
                listing = BENCHMARKS[benchmark].data_sets[key].list(tree)
            except UserError as error:
                line = str(error)
                assert line.isprintable()
                assert str(tree) in line
            else:
                assert set(listing.splits["train"].labels) <= set(listing.class_names)

    damage()
