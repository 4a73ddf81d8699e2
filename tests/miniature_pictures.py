"""Tiny pictures whose content is a function of their class, in every encoding the real data sets hold.

Stripes of two colours under noise: enough for a model to tell classes apart. The published image sets are not
all plain RGB JPEGs: some files are grey, CMYK, progressive or rotated by EXIF, some carry PNG or GIF content
under a .jpg name.
"""

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((24, 18), (8, 6), (17, 31), (32, 24), (20, 20))
"""(height, width) of the pictures, in turn."""

ODD = {
    2: "grey",
    4: "one pixel wide",
    7: "cmyk",
    10: "progressive",
    13: "rotated",
    16: "png",
    19: "palette",
    22: "gif",
}
"""What is unusual about the n-th picture of every 25."""

ORIENTATION, ROTATED_90_CW = 0x0112, 6


def stripes(dataset: str, label: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width, 3) uint8: the stripes of a class, with noise."""
    look = np.random.default_rng([zlib.crc32(dataset.encode()), label])
    colours = look.integers(20, 236, (2, 3))
    period, down, across = look.integers(4, 9), *look.integers(0, 3, 2)
    rows, columns = np.ogrid[:height, :width]
    dark = ((down * rows + across * columns) % period >= period // 2).astype(int)
    return (colours[dark] + rng.integers(-20, 21, (height, width, 3))).astype("uint8")


class Painter:
    """Draws the pictures of one data set, one after another.

    Args:
        dataset: what the looks of its classes are drawn from, with the label.
        odd: whether some pictures are saved in unusual encodings (ODD) and shapes.
    """

    def __init__(self, dataset: str, odd: bool = True) -> None:
        self.dataset = dataset
        self.odd = odd
        self.rng = np.random.default_rng(zlib.crc32(dataset.encode()))
        self.count = 0

    def pixels(self, label: int, height: int, width: int) -> np.ndarray:
        """(height, width, 3) uint8 of the next picture, for formats that hold bare pixels."""
        return stripes(self.dataset, label, height, width, self.rng)

    def save(self, path: Path, label: int) -> None:
        """Write the next picture to `path`, a name that ends in .jpg whatever the content is."""
        height, width = SIZES[self.count % len(SIZES)] if self.odd else SIZES[-1]
        kind = ODD.get(self.count % 25) if self.odd else None
        self.count += 1
        image = Image.fromarray(self.pixels(label, height, 1 if kind == "one pixel wide" else width))
        match kind:
            case "grey":
                image.convert("L").save(path, "JPEG")
            case "cmyk":
                image.convert("CMYK").save(path, "JPEG")
            case "progressive":
                image.save(path, "JPEG", progressive=True)
            case "rotated":
                exif = Image.Exif()
                exif[ORIENTATION] = ROTATED_90_CW
                image.save(path, "JPEG", exif=exif)
            case "png":
                image.save(path, "PNG")
            case "palette":
                image.convert("P").save(path, "PNG")
            case "gif":
                image.convert("P").save(path, "GIF")
            case _:
                image.save(path, "JPEG")
