"""MNIST, the same in both benchmarks: four idx files and the names that torchvision gives the digits."""

from pathlib import Path

from codyra.errors import UserError
from codyra.streams.benchmarks.definition import Split
from codyra.streams.benchmarks.formats import read_idx
from codyra.streams.benchmarks.image_sets import ImageSet, Listing, records
from codyra.streams.images import ImageArray
from codyra.streams.records import Records

FOLDERS = ("MNIST", "mnist", "mnist/MNIST")
SIZES: dict[Split, int] = {"train": 60000, "test": 10000}
DOWNLOAD = "MNIST's four idx files (train-images-idx3-ubyte ...), packed or not, into MNIST/raw"
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAMES = tuple(f"{digit} - {word}" for digit, word in enumerate(_WORDS))


def digit_name(name: str) -> str:
    """`0`, `zero` and `0 - zero` are all `0 - zero`."""
    return next((full for full in NAMES if name in (full, *full.split(" - "))), name)


def read_mnist(data_set: ImageSet, folder: Path) -> Listing:
    """Official train and test part; there is no validation part."""
    raw = folder / "raw"
    stems: dict[Split, str] = {"train": "train", "test": "t10k"}
    found: dict[Split, Records] = {}
    for split, stem in stems.items():
        pixels = read_idx(raw, f"{stem}-images-idx3-ubyte", 3)
        labels = read_idx(raw, f"{stem}-labels-idx1-ubyte", 1)
        place = raw / f"{stem}-images-idx3-ubyte"
        if pixels.shape[1:] != (28, 28):
            raise UserError(
                f"{place} has images of {pixels.shape[1]} x {pixels.shape[2]}, not 28 x 28; replace it"
            )
        if len(pixels) != len(labels):
            raise UserError(
                f"{place} has {len(pixels):,} images but {len(labels):,} labels; replace both files"
            )
        if len(labels) and labels.max() >= len(NAMES):
            raise UserError(
                f"{raw / f'{stem}-labels-idx1-ubyte'} has the label {labels.max()}; digits end at 9"
            )
        images = [ImageArray(str(place), pixels, row) for row in range(len(pixels))]
        found[split] = records(images, labels.tolist(), NAMES, place)
    return Listing(NAMES, found)
