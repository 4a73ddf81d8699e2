"""X-TAIL: ten domains learnt in a row and scored among the classes of all ten."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from codyra.streams.benchmarks import aircraft, mnist
from codyra.streams.benchmarks.coop import WHERE, read_coop
from codyra.streams.benchmarks.definition import Split
from codyra.streams.benchmarks.image_sets import ImageBenchmark, ImageSet, first_there

_EUROSAT = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}
_EUROSAT_SUFFIX = " satellite location"
NOT_IN_CALTECH = ("BACKGROUND_Google", "Faces_easy")
_CALTECH = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}


def _eurosat_name(name: str) -> str:
    # The suffix is part of the name in every prompt mode; a file that has it already keeps one.
    return _EUROSAT.get(name, name).removesuffix(_EUROSAT_SUFFIX) + _EUROSAT_SUFFIX


def caltech_name(name: str) -> str:
    """Class name for a folder of Caltech-101."""
    return _CALTECH.get(name, name)


def car_name(name: str) -> str:
    """`AM General Hummer SUV 2000` -> `2000 AM General Hummer SUV`."""
    words = name.split(" ")
    return " ".join([words[-1], *words[:-1]]) if words[-1].isdigit() else name


def sun_name(name: str) -> str:
    """`a/apse/indoor` and `/a/apse/indoor` -> `indoor apse`."""
    parts = name.strip("/").split("/")
    if len(parts) > 1 and len(parts[0]) == 1:
        del parts[0]
    return " ".join(reversed(parts))


def sun_images(folder: Path) -> Path:
    """Where SUN397's letter folders are: in an inner SUN397, or in the data set's folder itself."""
    inner = folder / "SUN397"
    return inner if inner.is_dir() else folder


EUROSAT_ROOTS = ("2750", "EuroSAT_RGB")
"""Folder of the images, as the archive was called when the splits were made, and as it is called today."""


def _below(*names: str) -> Callable[[Path], Path]:
    return lambda folder: first_there(folder, *names)


def _with_split(download: str) -> str:
    return f"{download}, and its split file from {WHERE}"


def _sizes(train: int, val: int, test: int) -> dict[Split, int]:
    return {"train": train, "val": val, "test": test}


_DATA_SETS = (
    ImageSet(
        key="aircraft",
        num_classes=100,
        sizes=aircraft.SIZES,
        folders=aircraft.FOLDERS,
        holds=("images",),
        download=aircraft.DOWNLOAD,
        read=aircraft.read_aircraft,
    ),
    ImageSet(
        key="caltech101",
        num_classes=100,
        sizes=_sizes(4128, 1649, 2465),
        folders=("caltech-101", "caltech101"),
        holds=("101_ObjectCategories",),
        download=_with_split("101_ObjectCategories of Caltech-101 (CaltechDATA)"),
        read=read_coop("split_zhou_Caltech101.json", _below("101_ObjectCategories")),
        rename=caltech_name,
        left_out=NOT_IN_CALTECH,
    ),
    ImageSet(
        key="dtd",
        num_classes=47,
        sizes=_sizes(2820, 1128, 1692),
        folders=("dtd", "dtd/dtd"),
        holds=("images",),
        download=_with_split("dtd-r1.0.1.tar.gz of the Describable Textures Dataset (Oxford VGG)"),
        read=read_coop("split_zhou_DescribableTextures.json", _below("images")),
    ),
    ImageSet(
        key="eurosat",
        num_classes=10,
        sizes=_sizes(13500, 5400, 8100),
        folders=("eurosat", "EuroSAT"),
        holds=EUROSAT_ROOTS,
        download=_with_split("EuroSAT.zip, the RGB version (phelber/EuroSAT)"),
        read=read_coop("split_zhou_EuroSAT.json", _below(*EUROSAT_ROOTS), _eurosat_name),
        rename=_eurosat_name,
    ),
    ImageSet(
        key="oxford_flowers",
        num_classes=102,
        sizes=_sizes(4093, 1633, 2463),
        folders=("oxford_flowers", "flowers-102"),
        holds=("jpg",),
        download=_with_split("102flowers.tgz of the Oxford 102 Flower data set (Oxford VGG)"),
        read=read_coop("split_zhou_OxfordFlowers.json", _below("jpg")),
    ),
    ImageSet(
        key="food101",
        num_classes=101,
        sizes=_sizes(50500, 20200, 30300),
        folders=("food-101", "food101"),
        holds=("images",),
        download=_with_split("food-101.tar.gz of Food-101 (ETH Zurich)"),
        read=read_coop("split_zhou_Food101.json", _below("images")),
    ),
    ImageSet(
        key="mnist",
        num_classes=10,
        sizes=mnist.SIZES,
        folders=mnist.FOLDERS,
        holds=("raw",),
        download=mnist.DOWNLOAD,
        read=mnist.read_mnist,
        rename=mnist.digit_name,
    ),
    ImageSet(
        key="oxford_pets",
        num_classes=37,
        sizes=_sizes(2944, 736, 3669),
        folders=("oxford_pets", "oxford-iiit-pet"),
        holds=("images",),
        download=_with_split("images.tar.gz of the Oxford-IIIT Pet data set (Oxford VGG)"),
        read=read_coop("split_zhou_OxfordPets.json", _below("images")),
        rename=str.lower,
    ),
    ImageSet(
        key="stanford_cars",
        num_classes=196,
        sizes=_sizes(6509, 1635, 8041),
        folders=("stanford_cars",),
        holds=("cars_train",),
        download=_with_split("cars_train/ and cars_test/ of Stanford Cars"),
        read=read_coop("split_zhou_StanfordCars.json", lambda folder: folder),
        rename=car_name,
    ),
    ImageSet(
        key="sun397",
        num_classes=397,
        sizes=_sizes(15880, 3970, 19850),
        folders=("sun397", "SUN397"),
        holds=("SUN397/a", "a"),
        download=_with_split("SUN397.tar.gz of the SUN database (Princeton)"),
        read=read_coop("split_zhou_SUN397.json", sun_images),
        rename=sun_name,
    ),
)

_TEMPLATES = {
    "aircraft": "a photo of a {}, a type of aircraft.",
    "caltech101": "a photo of a {}.",
    "dtd": "{} texture.",
    "eurosat": "a centered satellite photo of {}.",
    "oxford_flowers": "a photo of a {}, a type of flower.",
    "food101": "a photo of {}, a type of food.",
    "mnist": 'a photo of the number: "{}".',
    "oxford_pets": "a photo of a {}, a type of pet.",
    "stanford_cars": "a photo of a {}.",
    "sun397": "a photo of a {}.",
}


def _default(key: str) -> dict[str, Any]:
    return {"prompt": _TEMPLATES[key]}


def _released(key: str) -> dict[str, Any]:
    """As the released CoDyRA code: raw class names, and MNIST's, which its loader had wrapped already."""
    template = _TEMPLATES[key]
    wrapped = template.replace("{}", 'number: "{}"') if key == "mnist" else template
    return {"prompt": wrapped, "underscores": "keep"}


def _generic(key: str) -> dict[str, Any]:
    """As RAIL, whose zero-shot row is the published one: one template for every class, MNIST's wrapped."""
    return {"prompt": 'a photo of a number: "{}".' if key == "mnist" else "a photo of a {}."}


XTAIL = ImageBenchmark(
    name="xtail",
    title="X-TAIL",
    data_sets={data_set.key: data_set for data_set in _DATA_SETS},
    defaults={"order": 1, "shots": 16, "label_space": "all", "prompts": "default"},
    published={"shots": (16,), "test_examples": (None,), "label_space": ("all",)},
    orders={1: tuple(data_set.key for data_set in _DATA_SETS)},
    wording={"default": _default, "codyra": _released, "generic": _generic},
)
