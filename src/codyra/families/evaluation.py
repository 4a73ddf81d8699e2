"""Images that are scored: test sets from the machine's cache, or where there is none as many in memory as fit."""

# Shapes: N images, K images kept, H height, W width; 3 colour channels
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from codyra.cache import NoCache, pixel_folder
from codyra.families.family import ClassificationTask, ImageFile
from codyra.families.images import ImageTransform, decode, transform_all
from codyra.families.pixel_cache import MappedImages, PixelCache

MEMORY_BYTES = 2**30
"""For test sets that cannot be cached, over all tasks; 7,100 images at 224 x 224."""


class DecodedImages:
    """Images that are decoded whenever they are scored, but for the first K, whose pixels are given."""

    def __init__(self, transform: ImageTransform, files: Sequence[str | ImageFile], kept_K3HW: np.ndarray):
        self._transform = transform
        self._files = files
        self._kept_K3HW = kept_K3HW

    def test(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """`pixels` uint8 (N, 3, H, W)."""
        return {"pixels": torch.stack([self._pixels(position) for position in positions])}

    def reading_order(self) -> list[int]:
        return list(range(len(self._files)))

    def _pixels(self, position: int) -> Tensor:
        if position < len(self._kept_K3HW):
            return torch.from_numpy(self._kept_K3HW[position])
        return self._transform.evaluation_pixels(decode(self._files[position]))


class EvaluationImages:
    """The images one model is scored on; every test image is decoded once, by `prepare`."""

    def __init__(self, transform: ImageTransform):
        self._transform = transform
        self._cache = PixelCache(transform)
        self._ready: dict[str, MappedImages | DecodedImages] = {}
        self._free_bytes = MEMORY_BYTES

    def prepare(
        self,
        tasks: Sequence[ClassificationTask],
        progress: Callable[[int], None] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Decode all test images that this machine has not decoded before.

        Args:
            progress: called with how many more of all test images are ready.
            say: takes a line for the user: another process is waited for, or something cannot be cached.

        Raises:
            UserError: an image cannot be decoded.
        """
        progress, say = progress or (lambda more: None), say or (lambda line: None)
        refused: dict[str, str] = {}
        for task in tasks:  # before any is made: room for one must not cost another that is needed too
            self._find(task, refused)
        for task in tasks:
            self._make(task, refused, progress, say)
        if refused:
            reason = next(iter(refused.values()))
            say(
                f"test images of {', '.join(refused)} are not cached: {reason}; what exceeds "
                f"{MEMORY_BYTES / 2**30:g} GiB of pixels is decoded again whenever it is scored"
            )

    def of_task(self, task: ClassificationTask) -> MappedImages | DecodedImages:
        """The test images of a task."""
        self.prepare([task])
        images = self._ready[task.test.fingerprint]
        if isinstance(images, MappedImages):
            images.touch()
        return images

    def loose(self, files: Sequence[str | ImageFile]) -> DecodedImages:
        """Images of no task; nothing of them is kept."""
        return DecodedImages(self._transform, files, self._memory(0))

    def _find(self, task: ClassificationTask, refused: dict[str, str]) -> None:
        if task.test.fingerprint not in self._ready:
            try:
                images = self._cache.get(task)
            except (NoCache, OSError) as error:
                refused[task.name] = _reason(error)
            else:
                if images is not None:
                    self._ready[task.test.fingerprint] = images

    def _make(
        self,
        task: ClassificationTask,
        refused: dict[str, str],
        progress: Callable[[int], None],
        say: Callable[[str], None],
    ) -> None:
        told = 0

        def tell(done: int) -> None:
            nonlocal told
            if done > told:  # what could not be written is decoded from the first image again
                progress(done - told)
                told = done

        def waiting() -> None:
            say(f"waiting for another process, which is decoding the same test images ({task.name})")

        if task.test.fingerprint not in self._ready and task.name not in refused:
            try:
                self._ready[task.test.fingerprint] = self._cache.make(task, tell, waiting)
            except (NoCache, OSError) as error:
                refused[task.name] = _reason(error)
        if task.test.fingerprint not in self._ready:
            self._ready[task.test.fingerprint] = self._decode(task, tell)
        tell(len(task.test.inputs))

    def _decode(self, task: ClassificationTask, progress: Callable[[int], None]) -> DecodedImages:
        kept_K3HW = self._memory(len(task.test.inputs))

        def keep(position: int, pixels_3HW: np.ndarray) -> None:
            if position < len(kept_K3HW):
                kept_K3HW[position] = pixels_3HW

        transform_all(self._transform, task.test.inputs, keep, progress)
        return DecodedImages(self._transform, task.test.inputs, kept_K3HW)

    def _memory(self, wanted: int) -> np.ndarray:
        """Room for as many of these images as the memory set aside still takes."""
        height, width = self._transform.size
        num_kept = min(wanted, self._free_bytes // (3 * height * width))
        kept_K3HW = np.empty((num_kept, 3, height, width), np.uint8)
        self._free_bytes -= kept_K3HW.nbytes
        return kept_K3HW


def _reason(error: NoCache | OSError) -> str:
    if isinstance(error, NoCache):
        return str(error)
    return f"{error.filename or pixel_folder()}: {error.strerror or error}"
