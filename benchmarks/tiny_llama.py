"""Pre-train a Llama of 3.4 million parameters on a mixture of text, for streams of answers without a download.

    python benchmarks/tiny_llama.py --data DIR --out DIR [--steps N]

`--data` holds folders of records as text_500 and trace_500 have them: <folder>/<task>/train.json, lists of
{"prompt", "answer"}. Folders named in `--whole` give prompt and answer, so that the model learns what an answer is; of
all others only the prompts are read, so that their tasks are still to be learnt. Test splits are never opened. Writes a
plain transformers directory with a byte-level BPE tokenizer trained on the same text.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BOS, EOS = "<s>", "</s>"
VOCABULARY, WINDOW = 4096, 256
LONGEST = 6000
"""Characters of a document that are used; a few meeting transcripts would otherwise be most of the text."""


def documents(data: Path, whole: list[str]) -> list[str]:
    """One text per training record, in the order of folders and files."""
    texts = []
    for file in sorted(data.glob("*/*/train.json")):
        with_answer = file.parent.parent.name in whole
        for record in json.loads(file.read_text("utf-8")):
            texts.append(record["prompt"][-LONGEST:] + (record["answer"] if with_answer else ""))
    return texts


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with BOS, EOS and a padding token; BOS is put in front of every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token="<pad>"
    )


def new_model(tokenizer: PreTrainedTokenizerFast, **others: Any) -> LlamaForCausalLM:
    """3.4 M parameters, unless `others` gives other sizes."""
    sizes = {
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes | others,
    )
    return LlamaForCausalLM(config)


def windows(
    texts: list[str], tokenizer: PreTrainedTokenizerFast, rng: random.Random
) -> Iterator[torch.Tensor]:
    """Endless windows (WINDOW,) of documents behind each other, each ended by EOS; a new order every pass."""
    encoded = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    buffer: list[int] = []
    while True:
        for position in rng.sample(range(len(encoded)), len(encoded)):
            buffer += encoded[position]
            while len(buffer) >= WINDOW:
                yield torch.tensor(buffer[:WINDOW])
                del buffer[:WINDOW]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--whole", nargs="*", default=["text_500"])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=8)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    texts = documents(args.data, args.whole)
    tokenizer = train_tokenizer(texts)
    model = new_model(tokenizer)
    print(f"{len(texts)} documents, {sum(p.numel() for p in model.parameters()):,} parameters")
    stream = windows(texts, tokenizer, random.Random(args.seed))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.1)
    started = time.monotonic()
    for step in range(args.steps):
        factor = min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * factor
        batch = torch.stack([next(stream) for _ in range(args.batch)])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == args.steps - 1:
            print(f"step {step}: loss {loss.item():.3f}, {time.monotonic() - started:.0f} s", flush=True)
    model.half().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
