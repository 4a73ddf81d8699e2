"""Whatever transformers' Trainer can train learns task after task; here a classifier of texts (docs/trainers.md).

    python examples/trainer.py MODEL monday.jsonl tuesday.jsonl --labels 4 --out OUT

Lines are {"text": ..., "label": 0}. The classifier's head is drawn once and stays frozen, as everything but the
adapters does. OUT/01-monday is a standard LoRA adapter; OUT/model is MODEL with all tasks in it.
"""

import argparse
from pathlib import Path

import torch
from datasets import load_dataset
from peft import get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from codyra import CodyraCallback, CodyraConfig, finish_task, param_groups


def main() -> None:
    """Parse, learn every file, save."""
    parser = argparse.ArgumentParser(description="Learn one JSON Lines file after another with Trainer.")
    parser.add_argument("model", help="hub id or directory")
    parser.add_argument("files", nargs="+", type=Path, help="one file per task, in their order")
    parser.add_argument("--labels", type=int, required=True, help="number of classes")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps per task")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    args = parser.parse_args()

    set_seed(8)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    net = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=args.labels)
    for number, file in enumerate(args.files, start=1):
        data = load_dataset("json", data_files=str(file), split="train")
        data = data.map(lambda row: tokenizer(row["text"], truncation=True), remove_columns="text")
        model = get_peft_model(
            net, CodyraConfig(r=16, target_modules="all-linear", exclude_modules=["score", "classifier"])
        )
        trainer = Trainer(
            model,
            TrainingArguments(
                output_dir=str(args.out / "trainer"),
                max_steps=args.steps,
                per_device_train_batch_size=16,
                lr_scheduler_type="cosine",
                use_cpu=args.cpu,
                save_strategy="no",
                report_to=[],
            ),
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=data,
            # The model exists before its trainer here, so the optimizer can be one's own.
            optimizers=(torch.optim.AdamW(param_groups(model, lr=5e-4), betas=(0.9, 0.9999)), None),
            callbacks=[CodyraCallback(kappa_total=0.65)],
        )
        trainer.train()
        update, net = finish_task(trainer)
        update.save(args.out / f"{number:02d}-{file.stem}", base_model=args.model)
        kept, full = sum(update.ranks.values()), sum(update.full_ranks.values())
        print(f"{file.stem}: {kept} of {full} ranks kept, |dW| {update.norm():.3f}")
    net.save_pretrained(args.out / "model")
    tokenizer.save_pretrained(args.out / "model")


if __name__ == "__main__":
    main()
