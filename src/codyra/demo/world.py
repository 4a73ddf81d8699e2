"""The picture world the tiny CLIP was pre-trained on: drawn things with short, sometimes careless captions.

Picture i of a seed is always the same, whoever draws it and in whatever order. Some concepts of the demo's tasks are
rare here and some never appear, and none of the tasks' styles does: that is what is left to learn.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from codyra.demo.concepts import FAMILIES
from codyra.demo.styles import COLOURS, Palette, crayon, generator, ink, pose, poster, shade

# What a caption may call a concept besides its own name.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "circle": ("disc",),
    "square": ("box",),
    "crescent": ("moon",),
    "cross": ("plus sign",),
    "spiral": ("swirl",),
    "house": ("home", "cottage"),
    "car": ("automobile",),
    "boat": ("ship", "sailing boat"),
    "airplane": ("plane",),
    "rocket": ("spaceship",),
    "cup": ("mug", "cup of tea"),
    "flower": ("blossom",),
    "mushroom": ("toadstool",),
    "glasses": ("spectacles",),
    "cone": ("ice cream cone",),
    "gift": ("present",),
    "envelope": ("letter",),
    "dog": ("puppy",),
    "cat": ("kitten",),
    "rabbit": ("bunny",),
    "turtle": ("tortoise",),
    "happy": ("cheerful", "glad"),
    "sad": ("unhappy",),
    "angry": ("furious",),
    "surprised": ("astonished",),
    "sleepy": ("tired",),
    "loving": ("in love",),
    "scared": ("afraid",),
    "lightning": ("a storm",),
    "checkers": ("a checkerboard",),
    "dots": ("spots",),
}

# How often a concept is drawn, relative to 1; 0: the world does not have it.
FREQUENCY: dict[str, float] = {
    "spiral": 0.0,
    "diamond": 0.15,
    "crescent": 0.15,
    "glasses": 0.0,
    "mushroom": 0.15,
    "key": 0.15,
    "crab": 0.0,
    "turtle": 0.15,
    "penguin": 0.15,
    "loving": 0.0,
    "winking": 0.15,
    "sleepy": 0.15,
}

_TEMPLATES: dict[str, tuple[str, ...]] = {
    "thing": (
        "a drawing of a {name}.",
        "a drawing of a {name}.",
        "a picture of a {name}",
        "a {name}, {manner}",
        "a {colour} {name}",
        "the {name}",
        "{name}",
    ),
    "face": (
        "a face that looks {name}.",
        "a {name} face",
        "a drawing of a {name} face",
        "somebody who is {name}",
    ),
    "digit": (
        "the digit {name}.",
        "the number {name}",
        "a drawing of the digit {name}.",
        "a {name} written in {colour}",
        "{name}",
    ),
    "plural": (
        "a drawing of {name}.",
        "a picture of {name}",
        "{colour} {name}",
        "{name}",
    ),
}
_TEMPLATE_KIND = {"face": "face", "digit": "digit", "weather": "plural", "pattern": "plural"}
_CARELESS = ("a drawing", "a picture of something", "something {colour}", "a thing, {manner}")


class Picture(NamedTuple):
    """One picture of the world. image: 48 x 48 RGB. concept: what it shows. caption: what is said of it, lower case."""

    image: Image.Image
    concept: str
    caption: str


def _choice(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _articles(text: str) -> str:
    """`a` becomes `an` before a vowel."""
    words = text.split(" ")
    pairs = zip(words, [*words[1:], ""], strict=True)
    return " ".join("an" if word == "a" and after[:1] in tuple("aeiou") else word for word, after in pairs)


def _concepts() -> tuple[list[tuple[str, str]], np.ndarray]:
    """All (family, concept) pairs and the probability of each."""
    pairs = [(family, concept) for family, members in FAMILIES.items() for concept in members]
    weights = np.array([FREQUENCY.get(concept, 1.0) for _, concept in pairs])
    return pairs, weights / weights.sum()


def picture(seed: int, index: int) -> Picture:
    """Draw picture `index` of the world with this seed."""
    rng = generator(f"world/{seed}/{index}")
    pairs, probabilities = _concepts()
    family, concept = pairs[rng.choice(len(pairs), p=probabilities)]
    body_name, accent_name, ground_name = (
        list(COLOURS)[i] for i in rng.choice(len(COLOURS), 3, replace=False)
    )
    palette: Palette = {
        "body": shade(COLOURS[body_name], rng.uniform(0.85, 1.15)),
        "accent": shade(COLOURS[accent_name], rng.uniform(0.85, 1.15)),
        "dark": shade(COLOURS["black"], rng.uniform(0.8, 1.3)),
        "light": shade(COLOURS["white"], rng.uniform(0.9, 1)),
    }
    by_day = rng.random() < 0.75
    background = shade(COLOURS[ground_name], rng.uniform(1.6, 1.9) if by_day else rng.uniform(0.25, 0.5))
    strokes = pose(FAMILIES[family][concept](), rng, turn=14, size=(0.6, 0.95))
    manner = _choice(rng, ("poster", "crayon", "ink"))
    if manner == "poster":
        image = poster(strokes, palette, background, rng)
    elif manner == "crayon":
        image = crayon(strokes, palette, background, rng)
    else:
        image = ink(strokes, rng)
        body_name = "black"

    words = {"poster": "in flat colours", "crayon": "in crayon", "ink": "in ink"}
    careless = rng.random() < 0.1
    template = _choice(rng, _CARELESS if careless else _TEMPLATES[_TEMPLATE_KIND.get(family, "thing")])
    name = concept if rng.random() < 0.7 else _choice(rng, SYNONYMS.get(concept, (concept,)))
    caption = template.format(name=name, colour=body_name, manner=words[manner])
    return Picture(image, concept, _articles(caption))
