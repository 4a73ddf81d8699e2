"""Texts and images beside the tasks, for methods that compare models on what no task holds."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from codyra.errors import UserError
from codyra.reading import read_text
from codyra.streams.folders import images_below
from codyra.streams.images import ImageFile
from codyra.streams.sources import fill_in

Entry = TypeVar("Entry", str, ImageFile)

MAX_ENTRIES = 100_000
"""Images, or texts; a task of 500 steps looks at 32,000 images."""


@dataclass(frozen=True)
class ReferencePart(Generic[Entry]):
    """Texts or images of no class.

    Attributes:
        source: as the config names them.
    """

    source: str
    inputs: Sequence[Entry]

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over exactly these texts, or the digests of exactly these images, in order.

        Raises:
            UserError: an image cannot be read.
        """
        digests = [entry if isinstance(entry, str) else entry.digest() for entry in self.inputs]
        return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


@dataclass(frozen=True)
class ReferenceData:
    """What a user supplied beside the tasks."""

    images: ReferencePart[ImageFile]
    texts: ReferencePart[str]


def read_reference(images: str, texts: str, data_dir: Path | None, root: Path) -> ReferenceData:
    """List the images of a folder and of those in it, and read the lines of a UTF-8 file that are not blank.

    Args:
        images, texts: the options `reference_images` and `reference_texts` of a method.
        data_dir: replaces `${data_dir}` in them.
        root: where relative paths start.

    Raises:
        UserError: something is missing or cannot be read, or there are too many or fewer than two of a kind.
    """
    image_key, text_key = "method.reference_images", "method.reference_texts"
    folder = root / os.path.expanduser(fill_in(image_key, images, data_dir))
    file = root / os.path.expanduser(fill_in(text_key, texts, data_dir))
    return ReferenceData(
        ReferencePart(images, _images(image_key, folder)), ReferencePart(texts, _texts(text_key, file))
    )


def _images(key: str, folder: Path) -> list[ImageFile]:
    if not folder.is_dir():
        raise UserError(f"{key}: no folder {folder}; give one of images")
    try:
        paths = list(islice(images_below(folder, top=Path(os.path.realpath(folder))), MAX_ENTRIES + 1))
    except OSError as error:
        raise UserError(f"{key}: cannot read {error.filename}: {error.strerror or error}") from error
    _check_number(key, folder, len(paths), "images")
    return [ImageFile(folder, path.relative_to(folder).as_posix()) for path in paths]


def _texts(key: str, file: Path) -> list[str]:
    if not file.is_file():
        raise UserError(f"{key}: no file {file}; give a UTF-8 file with one caption per line")
    lines = read_text(file).removeprefix("\ufeff").split("\n")
    texts = [line.strip() for line in lines if line.strip()]
    _check_number(key, file, len(texts), "texts")
    return texts


def _check_number(key: str, place: Path, number: int, what: str) -> None:
    if not 2 <= number <= MAX_ENTRIES:
        found = f"more than {MAX_ENTRIES}" if number > MAX_ENTRIES else f"{number}"
        raise UserError(
            f"{key}: {place} has {found} {what}; give 2 to {MAX_ENTRIES}, a sample of many will do"
        )
