"""Test sets as pixels in the machine's cache: decoded and resized once, then read from a memory map."""

# Shapes: N images, H height, W width; 3 colour channels
import hashlib
import io
import json
import math
import mmap
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from codyra import cache, files
from codyra.families.family import ClassificationTask
from codyra.families.images import ImageTransform, transform_all

FORMAT = 1
"""Part of every key; to be raised when decoding or the evaluation transform give other pixels."""


class MappedImages:
    """A complete entry of the cache, pixels uint8 (N, 3, H, W); it stays readable when the entry is removed."""

    def __init__(self, path: Path, mapped: mmap.mmap, offset: int, shape: tuple[int, ...]):
        self.path = path
        self._map = mapped
        self._pixels_N3HW = np.frombuffer(mapped, np.uint8, offset=offset).reshape(shape)

    def test(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """`pixels` uint8 (N, 3, H, W)."""
        pixels_N3HW = self._pixels_N3HW.take(positions, axis=0)
        # The system keeps the pages, but they do not count as memory that this process needs.
        self._map.madvise(mmap.MADV_DONTNEED)
        return {"pixels": torch.from_numpy(pixels_N3HW)}

    def reading_order(self) -> list[int]:
        return list(range(len(self._pixels_N3HW)))

    def touch(self) -> None:
        """Mark the entry as used now, so that others are removed before it."""
        with suppress(OSError):  # it was removed, or is another user's
            os.utime(self.path)


class PixelCache:
    """The machine's cache as one model uses it; entries that were used here are not removed to make room here.

    An entry is a `.npy` file. It appears complete or not at all, and is made by one process while others wait.
    """

    def __init__(self, transform: ImageTransform):
        self._transform = transform
        self._used: set[Path] = set()

    def get(self, task: ClassificationTask) -> MappedImages | None:
        """The test set of a task when there is a sound entry.

        Raises:
            NoCache: the cache is switched off.
            OSError: the entry cannot be read or mapped.
        """
        if cache.limit_bytes() == 0:
            raise cache.NoCache("CODYRA_CACHE_GIB is 0")
        shape, header = self._shape(task), self._header(task)
        for path in self._paths(task):
            with suppress(FileNotFoundError), path.open("rb") as file:
                whole = len(header) + math.prod(shape)
                if file.read(len(header)) == header and os.fstat(file.fileno()).st_size == whole:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    self._used.add(path)
                    images = MappedImages(path, mapped, len(header), shape)
                    images.touch()
                    return images
        return None

    def make(
        self, task: ClassificationTask, progress: Callable[[int], None], waiting: Callable[[], None]
    ) -> MappedImages:
        """Decode the test set of a task into an entry, or take it from a process that was faster.

        Args:
            progress: called with the number of images that are done.
            waiting: called when another process is decoding them.

        Raises:
            UserError: an image cannot be decoded.
            NoCache: there is no room.
            OSError: the entry cannot be written.
        """
        folder = cache.pixel_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with cache.locked(folder / f"{self._key(task)}.lock", waiting):
            images = self.get(task)
            if images is None:
                cache.discard(self._key(task))
                path = folder / cache.entry_name(task.name, self._key(task))
                files.replace(path, lambda temporary: self._fill(temporary, task, progress))
                images = self.get(task)
        if images is None:
            raise cache.NoCache("another process removed them at once")
        return images

    def _fill(self, path: Path, task: ClassificationTask, progress: Callable[[int], None]) -> None:
        header, (_, *shape_of_one) = self._header(task), self._shape(task)
        size_of_one = math.prod(shape_of_one)
        whole = len(header) + len(task.test.inputs) * size_of_one
        with path.open("rb+", buffering=0) as file:
            with cache.locked(path.parent / "room.lock"):
                cache.make_room(whole, keep=self._used)
                file.truncate(whole)
            # Not through a memory map: on a full disk that ends the process, a write raises.
            _write_at(file.fileno(), 0, header)

            def keep(position: int, pixels_3HW: np.ndarray) -> None:
                _write_at(file.fileno(), len(header) + position * size_of_one, pixels_3HW.tobytes())

            transform_all(self._transform, task.test.inputs, keep, progress)

    def _paths(self, task: ClassificationTask) -> list[Path]:
        return [path for path in cache.pixel_folder().glob(f"*-{self._key(task)}.npy") if path.is_file()]

    def _key(self, task: ClassificationTask) -> str:
        """32 hexadecimal digits for exactly these pixels: images, their order, and all that decides how they look."""
        transform = self._transform
        decisive = {
            "format": FORMAT,
            "pillow": PIL.__version__,
            "images": task.test.fingerprint,
            "shortest_edge": transform.shortest_edge,
            "resize": transform.resize,
            "size": transform.size,
            "resample": int(transform.resample),
        }
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:32]

    def _shape(self, task: ClassificationTask) -> tuple[int, ...]:
        return (len(task.test.inputs), 3, *self._transform.size)

    def _header(self, task: ClassificationTask) -> bytes:
        header = io.BytesIO()
        about = {"descr": "|u1", "fortran_order": False, "shape": self._shape(task)}
        np.lib.format.write_array_header_1_0(header, about)
        return header.getvalue()


def _write_at(handle: int, offset: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        written = os.pwrite(handle, rest, offset)
        rest, offset = rest[written:], offset + written
