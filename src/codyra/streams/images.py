"""Pictures that stay on disk until somebody looks: a name, the encoded bytes, an 8-bit RGB image."""

import hashlib
import io
import os
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from codyra.errors import UserError

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Files of a class folder that count as images, in lower or upper case; all others are ignored."""

_EDGE_BYTES = 16 * 1024
_BROKEN = (
    OSError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow's decoders raise on broken files; it documents no common base class."""


class ImageInput(ABC):
    """An image that is decoded when it is opened, and never kept."""

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """Where the image lies, for messages."""

    @property
    @abstractmethod
    def key(self) -> str:
        """The part of the name that stays when the data set is moved to another place."""

    @abstractmethod
    def open(self) -> Image.Image:
        """The image in 8-bit RGB, decoded completely.

        Raises:
            UserError: it is missing or cannot be decoded.
        """

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 (hex) that changes with the image.

        Raises:
            UserError: it is missing or cannot be read.
        """


class EncodedImage(ImageInput):
    """An image in a format that Pillow reads."""

    __slots__ = ()

    @abstractmethod
    def stream(self) -> BinaryIO:
        """The encoded file, open for reading."""

    def open(self) -> Image.Image:
        """The first frame.

        As in the published pipelines an alpha channel is dropped and an EXIF rotation is not applied.
        Grey images of 16 bits are divided by 256 (Pillow alone would clip most of them to white).

        Raises:
            UserError: the file is missing, broken, truncated, implausibly large, or has 32-bit pixels.
        """
        with _naming(self.name), self.stream() as stream, Image.open(stream) as image:
            image.load()
            return _to_rgb(image)

    def digest(self) -> str:
        """SHA-256 (hex) over the length and the first and last 16 KiB of the encoded file.

        Bounded, so that a large data set can be checked before every run: files up to 32 KiB count entirely,
        in a larger one a change that keeps the length and both ends passes unnoticed.

        Raises:
            UserError: the file is missing or cannot be read.
        """
        with _naming(self.name), self.stream() as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            head = stream.read(_EDGE_BYTES)
            stream.seek(max(len(head), size - _EDGE_BYTES))
            return hashlib.sha256(size.to_bytes(8, "big") + head + stream.read()).hexdigest()


@dataclass(frozen=True, slots=True)
class ImageFile(EncodedImage):
    """An image file at `folder / key`."""

    folder: Path
    key: str

    @property
    def name(self) -> str:
        return str(self.folder / self.key)

    def stream(self) -> BinaryIO:
        return (self.folder / self.key).open("rb")


@dataclass(frozen=True, slots=True)
class ImageRow(EncodedImage):
    """One row of a Hugging Face data set whose image `column` was cast to `Image(decode=False)`."""

    dataset: Any
    column: str
    row: int
    place: str

    @property
    def name(self) -> str:
        return f"{self.place}, row {self.row}"

    @property
    def key(self) -> str:
        return str(self.row)

    def stream(self) -> BinaryIO:
        encoded = self.dataset[self.row][self.column]
        if encoded is None:
            raise ValueError("the row has no image")
        return (
            io.BytesIO(encoded["bytes"]) if encoded["bytes"] is not None else Path(encoded["path"]).open("rb")
        )


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no truth value to compare by
class ImageArray(ImageInput):
    """One image of an array uint8 (N, H, W) or (N, H, W, 3) that a file of many images was mapped to."""

    place: str
    pixels: NDArray[np.uint8]
    row: int

    @property
    def name(self) -> str:
        return f"{self.place}, image {self.row}"

    @property
    def key(self) -> str:
        return str(self.row)

    def open(self) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self.pixels[self.row])).convert("RGB")

    def digest(self) -> str:
        return hashlib.sha256(self.pixels[self.row].tobytes()).hexdigest()


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:  # its own message shows the stream object
        raise UserError(f"cannot read image {name}: in no known format; replace or remove it") from error
    except _BROKEN as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"cannot read image {name}: {reason}; replace or remove it") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels have 32 bits (mode {image.mode}), 8 or 16 are understood")
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value / 256).convert("RGB")
    image.info.pop("transparency", None)  # alpha is dropped anyway; Pillow would warn about some palettes
    return image.convert("RGB")
