"""FGVC-Aircraft, the same in both benchmarks: variants.txt and one list of images for each split."""

from pathlib import Path

from codyra.errors import UserError
from codyra.streams.benchmarks.definition import Split
from codyra.streams.benchmarks.formats import read_lines
from codyra.streams.benchmarks.image_sets import Images, ImageSet, Listing, records

FOLDERS = ("fgvc_aircraft", "fgvc-aircraft-2013b/data", "fgvc-aircraft-2013b")
SIZES: dict[Split, int] = {"train": 3334, "val": 3333, "test": 3333}
DOWNLOAD = (
    "fgvc-aircraft-2013b.tar.gz of the FGVC-Aircraft benchmark (Oxford VGG), images/ and *.txt of its data/"
)


def read_aircraft(data_set: ImageSet, folder: Path) -> Listing:
    """A line of a list is the number of an image, a space, and the variant, which may have spaces itself."""
    names = read_lines(folder / "variants.txt")
    label = {name: number for number, name in enumerate(names)}
    if len(label) < len(names):
        raise UserError(f"{folder / 'variants.txt'} lists a variant twice; replace the file")
    images = Images(folder / "images")
    splits = {}
    for split in data_set.sizes:
        file = folder / f"images_variant_{split}.txt"
        if split == "val" and not file.is_file():  # nothing but choosing hyper-parameters needs it
            continue
        found, labels = [], []
        for number, line in enumerate(read_lines(file), start=1):
            image, _, variant = line.partition(" ")
            variant = variant.strip()
            if variant not in label:
                raise UserError(
                    f"{file}, line {number}: variant {variant!r} is not in variants.txt; mend the file"
                )
            found.append(images.find(f"{image}.jpg", f"{file}, line {number}"))
            labels.append(label[variant])
        splits[split] = records(found, labels, names, file)
    return Listing(tuple(names), splits, images.absent)
