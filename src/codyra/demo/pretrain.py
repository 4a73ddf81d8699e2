"""Pre-train the tiny CLIP on the picture world and write it as a transformers directory.

    python -m codyra.demo.pretrain --out DIR [--seed N]

This is the script behind `codyra/demo/tiny_clip`. It is never run by `codyra demo`.
"""

# Shapes: N pictures of a batch, L tokens, C classes, D features of the shared space.

import argparse
import math
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel

from codyra.demo.stream import COUNTS, TASKS
from codyra.demo.styles import SIDE
from codyra.demo.world import FREQUENCY, picture
from codyra.files import write_bytes, write_json, write_text

NUM_PICTURES = 24_000
BATCH_SIZE = 128
NUM_STEPS = 2_500
WARM_UP_STEPS = 100
LEARNING_RATE = 1e-3
MUON_LEARNING_RATE = 0.02
MAX_LOGIT_SCALE = math.log(100)
MAX_SHIFT = 3

MEAN, STD = 0.5, 0.25
MAX_TOKENS = 64
PROJECTION_DIM = 128
PAD, BOS, EOS = "<pad>", "<start>", "<end>"


def build_tokenizer(captions: list[str]) -> Tokenizer:
    """A byte-level BPE over the captions: their words become single tokens, any other text falls back to pieces.

    Ids are 0 pad, 1 start, 2 unused, 3 end: transformers' CLIP reads an end id of 2 as "take the largest id".
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1_000,
        special_tokens=[PAD, BOS, "<unused>", EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)],
    )
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(PAD), pad_token=PAD)
    return tokenizer


def build_model(tokenizer: Tokenizer) -> CLIPModel:
    """The untrained network: 2.4 million parameters, 16 patches a picture."""
    config = CLIPConfig(
        vision_config={
            "image_size": SIDE,
            "patch_size": 12,
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "projection_dim": PROJECTION_DIM,
        },
        text_config={
            "vocab_size": tokenizer.get_vocab_size(),
            "max_position_embeddings": MAX_TOKENS,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "projection_dim": PROJECTION_DIM,
            "pad_token_id": tokenizer.token_to_id(PAD),
            "bos_token_id": tokenizer.token_to_id(BOS),
            "eos_token_id": tokenizer.token_to_id(EOS),
        },
        projection_dim=PROJECTION_DIM,
    )
    return CLIPModel(config)


def to_pixels(images_NHWC: np.ndarray) -> Tensor:
    """uint8 (N, 48, 48, 3) to the model's float32 (N, 3, 48, 48), as the shipped image processor does."""
    return (torch.tensor(images_NHWC).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def tokenize(tokenizer: Tokenizer, texts: list[str]) -> dict[str, Tensor]:
    """input_ids and attention_mask, both (N, L) int64, padded to the longest text."""
    encodings = tokenizer.encode_batch(texts)
    return {
        "input_ids": torch.tensor([e.ids for e in encodings]),
        "attention_mask": torch.tensor([e.attention_mask for e in encodings]),
    }


def batches(num_pictures: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless batches of positions, every picture once an epoch (the last, short batch is left out)."""
    while True:
        order = rng.permutation(num_pictures)
        for start in range(0, num_pictures - BATCH_SIZE + 1, BATCH_SIZE):
            yield order[start : start + BATCH_SIZE]


def jitter(images_NHWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each picture moved by up to MAX_SHIFT pixels, the uncovered edge filled by repeating the border."""
    padded = np.pad(
        images_NHWC, ((0, 0), (MAX_SHIFT, MAX_SHIFT), (MAX_SHIFT, MAX_SHIFT), (0, 0)), mode="edge"
    )
    shifts = rng.integers(0, 2 * MAX_SHIFT + 1, (len(images_NHWC), 2))
    return np.stack([image[y : y + SIDE, x : x + SIDE] for image, (y, x) in zip(padded, shifts, strict=True)])


def train(model: CLIPModel, tokenizer: Tokenizer, images: np.ndarray, captions: list[str], seed: int) -> None:
    """The contrastive loss of CLIP over batches of pictures and their captions, in place."""
    rng = np.random.default_rng(seed)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    kept_apart = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in kept_apart]
    # Muon needs about a quarter of AdamW's steps here; it is meant for the matrices of the blocks only.
    optimizers = [
        torch.optim.Muon(matrices, lr=MUON_LEARNING_RATE, weight_decay=0.01),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    groups = [(group, group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]
    model.train()
    started = time.perf_counter()
    for step, positions in zip(range(NUM_STEPS), batches(len(images), rng), strict=False):
        warm_up = min(1.0, (step + 1) / WARM_UP_STEPS)
        for group, peak in groups:
            group["lr"] = peak * warm_up * 0.5 * (1 + math.cos(math.pi * step / NUM_STEPS))
        loss = model(
            pixel_values=to_pixels(jitter(images[positions], rng)),
            **tokenize(tokenizer, [captions[i] for i in positions]),
            return_loss=True,
        ).loss
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        if (step + 1) % 200 == 0:
            scale, seconds = model.logit_scale.exp().item(), time.perf_counter() - started
            print(
                f"step {step + 1}/{NUM_STEPS}  loss {loss.item():.3f}  scale {scale:.1f}  {seconds:.0f} s",
                flush=True,
            )
    model.eval()


@torch.no_grad()
def zero_shot_table(model: CLIPModel, tokenizer: Tokenizer, seed: int) -> str:
    """Markdown: accuracy on the test pictures of the demo's tasks, among the task's classes and among all classes."""
    prompts = [task.prompt.format(name) for task in TASKS for name in task.classes]
    text_CD = functional.normalize(
        model.get_text_features(**tokenize(tokenizer, prompts)).pooler_output, dim=-1
    )
    rows = ["| task | classes | chance | zero-shot | among all classes |", "| --- | --- | --- | --- | --- |"]
    first = 0
    for task in TASKS:
        num_classes = len(task.classes)
        images = np.stack(
            [np.asarray(i) for label in range(num_classes) for i in task.pictures(seed, "test", label)]
        )
        labels_N = torch.arange(num_classes).repeat_interleave(COUNTS["test"])
        image_ND = model.get_image_features(pixel_values=to_pixels(images)).pooler_output
        logits_NC = image_ND @ text_CD.T
        own = (logits_NC[:, first : first + num_classes].argmax(dim=1) == labels_N).float().mean().item()
        pooled = (logits_NC.argmax(dim=1) == labels_N + first).float().mean().item()
        rows.append(
            f"| {task.name} | {num_classes} | {100 / num_classes:.1f} | {100 * own:.1f} | {100 * pooled:.1f} |"
        )
        first += num_classes
    return "\n".join(rows)


def save(model: CLIPModel, tokenizer: Tokenizer, card: str, directory: Path) -> None:
    """Write weights (float16), configs, tokenizer, image processor and model card."""
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(directory / "model.safetensors", safetensors.torch.save(tensors, metadata={"format": "pt"}))
    config = model.config.to_diff_dict() | {"architectures": ["CLIPModel"], "dtype": "float32"}
    write_json(directory / "config.json", config)
    write_text(directory / "tokenizer.json", tokenizer.to_str(pretty=True) + "\n")
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": MAX_TOKENS,
            "pad_token": PAD,
            "bos_token": BOS,
            "eos_token": EOS,
            "padding_side": "right",
        },
    )
    write_json(
        directory / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": SIDE},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": SIDE, "width": SIDE},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [MEAN] * 3,
            "image_std": [STD] * 3,
        },
    )
    write_text(directory / "README.md", card)


CARD = """\
---
license: apache-2.0
library_name: transformers
---
# Tiny CLIP of the picture world

The embedded default of codyra: a `CLIPModel` of {parameters:,} parameters for pictures of {side} x {side} pixels
(float16 on disk) that has seen nothing but small drawings. It lets `codyra demo` run anywhere; expect nothing
of it on photographs.

- **Data**: {pictures:,} drawn pictures with short English captions (`codyra/demo/world.py`): shapes, objects,
  animals, faces, weather, patterns and digits in flat colours, crayon or ink. One caption in ten is careless.
  Some concepts are rare ({rare}), some absent ({absent}), and no picture is in the style of
  a task. No photograph, no third party's data.
- **Training**: contrastive loss, {steps:,} steps of {batch} pictures, Muon (learning rate {muon}) for the matrices of
  the blocks, AdamW ({lr}) for the rest, seed {seed}. {minutes:.0f} minutes on 2 CPU cores, drawing included:
  `python -m codyra.demo.pretrain --out DIR --seed {seed}`.
- **Versions**: torch {torch}, transformers {transformers}, Python {python}.

Zero-shot accuracy in percent on the test pictures of the demo's tasks (seed {seed}), before anything is learnt:

{table}
"""


def main() -> None:
    """Draw, train, measure, write."""
    parser = argparse.ArgumentParser(description="Pre-train the tiny CLIP of the demo.")
    parser.add_argument("--out", type=Path, required=True, help="directory for the model")
    parser.add_argument("--seed", type=int, default=0, help="seed of pictures, weights and batches")
    args = parser.parse_args()

    started = time.perf_counter()
    pictures = [picture(args.seed, index) for index in range(NUM_PICTURES)]
    images = np.stack([np.asarray(p.image) for p in pictures])
    captions = [p.caption for p in pictures]
    print(f"drew {len(images)} pictures in {time.perf_counter() - started:.0f} s", flush=True)

    tokenizer = build_tokenizer(captions)
    torch.manual_seed(args.seed)
    model = build_model(tokenizer)
    train(model, tokenizer, images, captions, args.seed)
    seconds = time.perf_counter() - started
    table = zero_shot_table(model, tokenizer, args.seed)
    card = CARD.format(
        parameters=sum(p.numel() for p in model.parameters()),
        side=SIDE,
        pictures=NUM_PICTURES,
        steps=NUM_STEPS,
        batch=BATCH_SIZE,
        muon=MUON_LEARNING_RATE,
        lr=LEARNING_RATE,
        rare=", ".join(concept for concept, frequency in FREQUENCY.items() if frequency),
        absent=", ".join(concept for concept, frequency in FREQUENCY.items() if not frequency),
        seed=args.seed,
        minutes=seconds / 60,
        torch=torch.__version__.split("+")[0],
        transformers=transformers.__version__,
        python=platform.python_version(),
        table=table,
    )
    save(model, tokenizer, card, args.out)
    print(f"wrote {args.out} after {seconds:.0f} s\n\n{table}")


if __name__ == "__main__":
    main()
