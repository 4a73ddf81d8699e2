"""The demo's five tasks: one of real handwritten digits, four drawn in styles that the tiny CLIP has never seen."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from codyra.demo.concepts import ANIMALS, DIGITS, FACES, OBJECTS, SHAPES, Stroke
from codyra.demo.styles import SIDE, carved, chalk, generator, mosaic, neon, pose
from codyra.files import sweep, write_bytes

COUNTS = {"train": 24, "test": 40}


@dataclass(frozen=True)
class DrawnTask:
    """A task whose pictures are drawn: `style` applied to the strokes of `concepts`."""

    name: str
    prompt: str
    classes: tuple[str, ...]
    concepts: dict[str, Callable[[], list[Stroke]]]
    style: Callable[[list[Stroke], np.random.Generator], Image.Image]

    def pictures(self, seed: int, split: str, label: int) -> list[Image.Image]:
        """All pictures of a class in "train" or "test", 48 x 48 RGB; picture i depends on the arguments and i alone."""
        images = []
        for index in range(COUNTS[split]):
            rng = generator(f"{self.name}/{seed}/{split}/{label}/{index}")
            strokes = self.concepts[self.classes[label]]()
            images.append(self.style(pose(strokes, rng, turn=16, size=(0.72, 0.95)), rng))
        return images


@dataclass(frozen=True)
class DigitsTask:
    """scikit-learn's handwritten digits: 8 x 8 pixels of 17 grey levels, written by 43 people."""

    name: str
    prompt: str
    classes: tuple[str, ...]

    def pictures(self, seed: int, split: str, label: int) -> list[Image.Image]:
        """All pictures of a class in "train" or "test", enlarged to 48 x 48 RGB; the splits share no digit."""
        digits = load_digits()
        positions = generator(f"{self.name}/{seed}/{label}").permutation(
            np.flatnonzero(digits.target == label)
        )
        first = 0 if split == "train" else COUNTS["train"]
        greys = digits.images[positions[first : first + COUNTS[split]]] * (255 / 16)
        return [
            Image.fromarray(grey.astype(np.uint8))
            .resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            .convert("RGB")
            for grey in greys
        ]


TASKS: tuple[DrawnTask | DigitsTask, ...] = (
    DrawnTask(
        "chalk",
        "a drawing of a {}.",
        ("circle", "square", "triangle", "diamond", "star", "heart", "crescent", "spiral", "cross"),
        SHAPES,
        chalk,
    ),
    DrawnTask(
        "neon",
        "a drawing of a {}.",
        ("house", "car", "boat", "cup", "flower", "rocket", "key", "mushroom", "balloon"),
        OBJECTS,
        neon,
    ),
    DigitsTask("digits", "the digit {}.", tuple(DIGITS)),
    DrawnTask(
        "mosaic",
        "a drawing of a {}.",
        ("fish", "cat", "rabbit", "butterfly", "turtle", "snail", "penguin", "crab"),
        ANIMALS,
        mosaic,
    ),
    DrawnTask(
        "pumpkins",
        "a face that looks {}.",
        ("happy", "sad", "angry", "surprised", "sleepy", "winking", "loving", "scared"),
        FACES,
        carved,
    ),
)


def write_stream(directory: Path, seed: int) -> None:
    """Write directory/<task>/{train,test}/<class>/<n>.png, the same bytes for the same seed.

    Raises:
        UserError: a picture cannot be written.
    """
    sweep(directory)
    for task in TASKS:
        for split in COUNTS:
            for label, class_name in enumerate(task.classes):
                for index, image in enumerate(task.pictures(seed, split, label)):
                    encoded = io.BytesIO()
                    image.save(encoded, format="png")
                    path = directory / task.name / split / class_name / f"{index:03d}.png"
                    write_bytes(path, encoded.getvalue(), durable=False)  # drawn anew at every start
