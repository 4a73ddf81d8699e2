"""Tiny dual encoders, built from their config classes and saved as transformers saves them, and tasks for
them."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from codyra.families import DualEncoder

WORDS = [
    "a",
    "photo",
    "of",
    "the",
    "red",
    "green",
    "blue",
    "grey",
    "dark",
    "bright",
    "warm",
    "cold",
    "square",
    "circle",
    "bird",
    "cat",
    "dog",
    "very",
    "big",
]
IMAGE_SIZE = 16
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@dataclass(frozen=True)
class Split:
    inputs: tuple
    labels: tuple[int, ...]

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for content in self.inputs:
            digest.update(repr(content).encode() if isinstance(content, str) else content.pixels.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Task:
    name: str
    modality: str
    class_names: tuple[str, ...]
    prompts: tuple[str, ...]
    train: Split
    test: Split

    @property
    def scored_prompts(self) -> tuple[tuple[str, ...], ...]:
        return tuple((prompt,) for prompt in self.prompts)


@dataclass(frozen=True)
class MemoryImage:
    name: str
    pixels: np.ndarray

    def open(self) -> Image.Image:
        return Image.fromarray(self.pixels)


def word_tokenizer(
    words: list[str], begin: str, end: str, pad: str, ids_from: int = 0
) -> PreTrainedTokenizerFast:
    """A whole-word tokenizer that puts `begin` and `end` around a text; special tokens take the highest
    ids."""
    vocabulary = {word: ids_from + index for index, word in enumerate([*words, "[UNK]"])}
    for special in dict.fromkeys([begin, pad, end]):
        vocabulary.setdefault(special, ids_from + len(vocabulary))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, vocabulary[begin]), (end, vocabulary[end])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", bos_token=begin, eos_token=end, pad_token=pad
    )


def save_clip(directory: Path, legacy_eos: bool = False) -> Path:
    """A CLIPModel directory; `legacy_eos` writes the eos_token_id 2 of configs older than transformers
    4.31."""
    # OpenAI pads with the end token itself, which is the case that trimming has to get right.
    tokenizer = word_tokenizer(WORDS, "<start>", "<end>", pad="<end>", ids_from=3)
    text = {"vocab_size": 40, "max_position_embeddings": 77, "bos_token_id": tokenizer.bos_token_id}
    text |= {"eos_token_id": 2 if legacy_eos else tokenizer.eos_token_id, "pad_token_id": 1}
    torch.manual_seed(0)
    net = CLIPModel(
        CLIPConfig(
            text_config=TOWER | text,
            vision_config=TOWER | {"image_size": IMAGE_SIZE, "patch_size": 8},
            projection_dim=16,
        )
    )
    net.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    ).save_pretrained(directory)
    return directory


def save_siglip(directory: Path) -> Path:
    tokenizer = word_tokenizer(WORDS, "<start>", "</s>", pad="</s>")
    torch.manual_seed(0)
    net = SiglipModel(
        SiglipConfig(
            text_config=TOWER | {"vocab_size": 40, "max_position_embeddings": 64},
            vision_config=TOWER | {"image_size": IMAGE_SIZE, "patch_size": 8},
        )
    )
    net.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    SiglipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}).save_pretrained(directory)
    return directory


def save_bert(directory: Path, pooling: str | None = "mean_tokens") -> Path:
    """A BertModel directory, with the files of sentence-transformers unless `pooling` is None."""
    torch.manual_seed(0)
    BertModel(BertConfig(**TOWER, vocab_size=40, max_position_embeddings=48)).save_pretrained(directory)
    word_tokenizer(WORDS, "[CLS]", "[SEP]", pad="[PAD]").save_pretrained(directory)
    if pooling is not None:
        package = "sentence_transformers.models"
        modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        (directory / "modules.json").write_text(
            json.dumps([{"path": path, "type": f"{package}.{kind}"} for path, kind in modules])
        )
        (directory / "1_Pooling").mkdir()
        (directory / "1_Pooling/config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
        (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12}))
    return directory


SAVERS: dict[str, Callable[[Path], Path]] = {"clip": save_clip, "siglip": save_siglip, "bert": save_bert}


def image_task(
    name: str,
    class_names: tuple[str, ...],
    per_class: int = 3,
    seed: int = 0,
    prompt: str = "a photo of a {}.",
) -> Task:
    rng = np.random.default_rng(seed)
    labels = tuple(label for label in range(len(class_names)) for _ in range(per_class))

    def split(part: str) -> Split:
        images = []
        for index in range(len(labels)):
            height, width = rng.integers(10, 40, size=2)
            images.append(
                MemoryImage(f"{part}/{index}.png", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            )
        return Split(tuple(images), labels)

    prompts = tuple(prompt.format(name) for name in class_names)
    return Task(name, "image", class_names, prompts, split("train"), split("test"))


def text_task(
    name: str, class_names: tuple[str, ...], per_class: int = 3, seed: int = 0, prompt: str = "{}"
) -> Task:
    rng = np.random.default_rng(seed)
    labels = tuple(label for label in range(len(class_names)) for _ in range(per_class))

    def split() -> Split:
        return Split(tuple(" ".join(rng.choice(WORDS, size=rng.integers(1, 9))) for _ in labels), labels)

    return Task(
        name, "text", class_names, tuple(prompt.format(name) for name in class_names), split(), split()
    )


def task_for(family: DualEncoder, name: str, class_names: tuple[str, ...], **options) -> Task:
    return (image_task if family.modality == "image" else text_task)(name, class_names, **options)
