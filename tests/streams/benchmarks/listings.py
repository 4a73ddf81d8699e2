"""What a listing holds, in the form in which the miniatures say what is true."""

import os
from pathlib import Path

from codyra.streams.benchmarks import Listing
from codyra.streams.images import ImageArray, ImageFile


def items(listing: Listing, root: Path) -> dict[str, list[tuple[str, int]]]:
    """Split -> (path below `root`, label) in order; `<file>:<row>` for images inside one file."""
    label = {name: number for number, name in enumerate(listing.class_names)}
    return {
        split: [
            (_path(image, root), label[name])
            for image, name in zip(records.inputs, records.labels, strict=True)
        ]
        for split, records in listing.splits.items()
    }


def _path(image: object, root: Path) -> str:
    if isinstance(image, ImageArray):
        return f"{os.path.relpath(image.place, root)}:{image.row}"
    assert isinstance(image, ImageFile)
    return os.path.relpath(image.name, root)
