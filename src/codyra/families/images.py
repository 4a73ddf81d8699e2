"""From a decoded image to the pixels of a model: the evaluation transform and the training crop, without
torchvision.

Both follow docs/method.md. Evaluation takes every setting from the model's own image processor and
gives its pixels to rounding; training replaces resizing and centre crop by a random resized crop of the same
final size.
"""

# Shapes: N images, H height, W width; 3 colour channels
import math
import random
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from codyra.errors import UserError
from codyra.families.family import ImageFile, TaskSplit

CROP_SCALE = (0.9, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10

TRAINING_CACHE_BYTES = 2**30
"""Decoded training images kept in memory, per task."""
Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; right and bottom are outside."""

T = TypeVar("T")


def random_crop_box(width: int, height: int, rng: random.Random) -> Box:
    """Draw the crop of a RandomResizedCrop with scale 0.9-1 and ratio 3/4-4/3.

    Ten tries; after that the centred crop whose ratio is the image's own, clamped to 3/4-4/3. Elongated
    images (width over height above 1.48 or below 0.675) always end there, since no try can fit.
    """
    for _ in range(CROP_ATTEMPTS):
        area = width * height * rng.uniform(*CROP_SCALE)
        ratio = math.exp(rng.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = rng.randint(0, width - crop_width)
            top = rng.randint(0, height - crop_height)
            return left, top, left + crop_width, top + crop_height
    crop_width = min(width, round(height * CROP_RATIO[1]))
    crop_height = min(height, round(width / CROP_RATIO[0]))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


@dataclass(frozen=True)
class ImageTransform:
    """How images become the pixels of one model.

    Attributes:
        shortest_edge: length the shorter side is resized to, or None.
        resize: (height, width) every image is resized to whatever its shape, or None.
        size: final (height, width), by a centre crop where resizing alone does not give it.
        resample: Pillow filter.
        scale: factor from 0-255 to the range that `mean` and `std` refer to.
        mean, std: per colour channel.
    """

    shortest_edge: int | None
    resize: tuple[int, int] | None
    size: tuple[int, int]
    resample: Image.Resampling
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_processor(cls, processor: Any, image_size: int) -> "ImageTransform":
        """Read the settings of a Hugging Face image processor; the model takes `image_size` squared pixels.

        Raises:
            UserError: the settings do not lead to that size.
            TypeError, ValueError: a setting is no number.
        """
        resized = dict(processor.size) if processor.do_resize else {}
        shortest_edge = resized.get("shortest_edge")
        resize = (resized["height"], resized["width"]) if resized.get("height") else None
        # SigLIP's processor has no centre crop at all, hence the defaults.
        cropped = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else {}
        size = (cropped["height"], cropped["width"]) if cropped else resize
        if size != (image_size, image_size):
            raise UserError(
                f"preprocessor_config.json makes pixels of size {size} (height, width) but the model takes "
                f"{image_size} x {image_size}; mend its size or crop_size"
            )
        normalises = processor.do_normalize
        return cls(
            shortest_edge=None if shortest_edge is None else int(shortest_edge),
            resize=resize,
            size=size,
            resample=Image.Resampling(int(processor.resample)),
            scale=float(processor.rescale_factor) if processor.do_rescale else 1.0,
            mean=tuple(map(float, processor.image_mean)) if normalises else (0.0, 0.0, 0.0),
            std=tuple(map(float, processor.image_std)) if normalises else (1.0, 1.0, 1.0),
        )

    def evaluation_pixels(self, image: Image.Image) -> Tensor:
        """Resized and centre-cropped pixels, uint8 (3, H, W); too small images are padded with black."""
        if self.shortest_edge is not None:
            width, height = image.size
            short, long = min(width, height), max(width, height)
            # int(), not round(): the longer side is cut off, as in the image processor.
            new_long = int(self.shortest_edge * long / short)
            new = (self.shortest_edge, new_long) if width <= height else (new_long, self.shortest_edge)
            image = image.resize(new, self.resample)
        elif self.resize is not None:
            image = image.resize((self.resize[1], self.resize[0]), self.resample)
        height, width = self.size
        # Negative where the image is too small: Pillow then pads with black, as the image processor does.
        left, top = (image.width - width) // 2, (image.height - height) // 2
        if image.size != (width, height):
            image = image.crop((left, top, left + width, top + height))
        return _to_tensor(image)

    def training_pixels(self, image: Image.Image, rng: random.Random) -> Tensor:
        """Pixels of a random resized crop drawn from `rng`, uint8 (3, H, W)."""
        height, width = self.size
        box = random_crop_box(image.width, image.height, rng)
        return _to_tensor(image.resize((width, height), self.resample, box=box))

    def normalise(self, pixels_N3HW: Tensor) -> Tensor:
        """uint8 pixels (N, 3, H, W) as float32 model input, on the pixels' device."""
        mean = torch.tensor(self.mean)[:, None, None].to(pixels_N3HW.device, non_blocking=True)
        std = torch.tensor(self.std)[:, None, None].to(pixels_N3HW.device, non_blocking=True)
        # In place: on a CPU new memory for every step costs more than the step.
        return pixels_N3HW.to(torch.float32, copy=True).mul_(self.scale).sub_(mean).div_(std)


class MemoryCache(Generic[T]):
    """Keeps what was costly to make until `budget_bytes` are used; what comes later is made every time."""

    def __init__(self, budget_bytes: int, size_of: Callable[[T], int]):
        self.free_bytes = budget_bytes
        self._size_of = size_of
        self._kept: dict[Hashable, T] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value under `key`, made by `make` when it is not kept."""
        if key in self._kept:
            return self._kept[key]
        value = make()
        size = self._size_of(value)
        if size <= self.free_bytes:
            self.free_bytes -= size
            self._kept[key] = value
        return value


class TrainingImages:
    """Few-shot training images: decoded once and kept at full size, cropped anew at every draw."""

    def __init__(self, transform: ImageTransform, split: TaskSplit):
        self._transform = transform
        self._files = split.inputs
        # Pillow holds four bytes for every RGB pixel.
        self._decoded: MemoryCache[Image.Image] = MemoryCache(
            TRAINING_CACHE_BYTES, lambda image: 4 * image.width * image.height
        )

    def train(
        self, positions: Sequence[int], rng: random.Random, own: slice = slice(None)
    ) -> dict[str, Tensor]:
        """`pixels` uint8 (N, 3, H, W) of `positions[own]`; one 64-bit draw from `rng` per position, own or not,
        however a crop is found.
        """
        seeds = [rng.getrandbits(64) for _ in positions]
        crops = []
        for position, seed in zip(positions[own], seeds[own], strict=True):
            image = self._decoded.get(position, partial(decode, self._files[position]))
            crops.append(self._transform.training_pixels(image, random.Random(seed)))
        return {"pixels": torch.stack(crops)}


def decode(file: str | ImageFile) -> Image.Image:
    """The image, of a task that `DualEncoder.check` found to have images."""
    assert not isinstance(file, str), "a text among images; DualEncoder.check looks at the modality"
    return file.open()


def transform_all(
    transform: ImageTransform,
    files: Sequence[str | ImageFile],
    keep: Callable[[int, np.ndarray], None],
    progress: Callable[[int], None],
) -> None:
    """Give the evaluation pixels of every image to `keep`, in threads and in no certain order.

    Args:
        keep: takes the position of an image and its pixels, uint8 (3, H, W).
        progress: called with the number of images that are done.

    Raises:
        UserError: an image cannot be decoded; the message names it.
    """

    def one(position: int) -> None:
        keep(position, transform.evaluation_pixels(decode(files[position])).numpy())

    pool = ThreadPoolExecutor()  # Pillow decodes and resizes outside Python's lock
    try:
        for done, _ in enumerate(pool.map(one, range(len(files))), start=1):
            progress(done)
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the images still in the queue


def _to_tensor(image: Image.Image) -> Tensor:
    """uint8 (3, H, W), contiguous."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)))
