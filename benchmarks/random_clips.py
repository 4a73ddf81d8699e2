"""CLIPs with random weights and tasks for them, so that a measurement needs no download and can be repeated."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from codyra.families import ImageTextEncoder
from codyra.streams import Task
from codyra.streams.images import ImageInput
from codyra.streams.stream import Split

SEED = 0

VIT_B16 = CLIPConfig(vision_config={"patch_size": 16}, projection_dim=512)
"""The shape of openai/clip-vit-base-patch16: 144 linears in the blocks of both towers."""

SMALL = CLIPConfig(
    text_config={
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
    },
    vision_config={
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "image_size": 96,
        "patch_size": 16,
    },
    projection_dim=256,
)
"""15 million parameters in 72 linears."""

TINY = CLIPConfig(
    text_config={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
    vision_config={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    },
    projection_dim=16,
)
"""To see whether a script runs."""

MODELS = {"ViT-B/16": VIT_B16, "small": SMALL, "tiny": TINY}

MOST_CLASSES = 2000


def new_family(config: CLIPConfig) -> ImageTextEncoder:
    """A CLIP of these sizes, frozen, with a tokenizer of the words of `class_names`."""
    torch.manual_seed(SEED)
    net = CLIPModel(config).eval().requires_grad_(False)
    side = config.vision_config.image_size
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, resample=3
    )
    return ImageTextEncoder(net, word_tokenizer(config), processor)


def word_tokenizer(config: CLIPConfig) -> PreTrainedTokenizerFast:
    """One token per word, between the two ids that `config` has for the ends of a text."""
    begin, end = config.text_config.bos_token_id, config.text_config.eos_token_id
    words = ["a", "photo", "of", ".", "very", *(f"thing{number}" for number in range(MOST_CLASSES))]
    vocabulary = {word: number for number, word in enumerate(words)} | {"<begin>": begin, "<end>": end}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<begin> $A <end>", special_tokens=[("<begin>", begin), ("<end>", end)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<begin>", eos_token="<end>", pad_token="<end>"
    )


def class_names(first: int, count: int) -> tuple[str, ...]:
    """Names of two to nine words; the prompts `a photo of a {}.` have 9 to 16 tokens."""
    assert first + count <= MOST_CLASSES
    return tuple("very " * (1 + number % 8) + f"thing{number}" for number in range(first, first + count))


def prompts_of(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"a photo of a {name}." for name in names)


@dataclass(frozen=True, slots=True)
class NoiseImage(ImageInput):
    """What a training step reads in the place of a file that was decoded before."""

    side: int
    key: str

    @property
    def name(self) -> str:
        return self.key

    def digest(self) -> str:
        return f"{self.side} {self.key}"

    def open(self) -> Image.Image:
        rng = np.random.default_rng([SEED, *self.key.encode()])
        return Image.fromarray(rng.integers(0, 256, (self.side, self.side, 3), dtype=np.uint8))


def noise_task(num_classes: int, num_examples: int, side: int) -> Task:
    """A task to be trained on, `num_examples` pictures of noise."""
    images = tuple(NoiseImage(side, f"{number}") for number in range(num_examples))
    labels = tuple(number % num_classes for number in range(num_examples))
    split = Split(images, labels, fingerprint=f"{num_examples} {side}")
    names = class_names(0, num_classes)
    prompts = prompts_of(names)
    return Task(
        name="noise",
        modality="image",
        class_names=names,
        prompts=prompts,
        prompt="a photo of a {}.",
        scored_prompts=tuple((prompt,) for prompt in prompts),
        ensemble=(),
        train=split,
        test=split,
        shots={},
        source="",
        fingerprint=split.fingerprint,
        marks=(),
    )
