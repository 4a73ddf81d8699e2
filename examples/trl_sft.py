"""A causal language model learns one JSON Lines file after another with TRL's SFTTrainer (docs/trainers.md).

    pip install "codyra[trl]"
    python examples/trl_sft.py MODEL monday.jsonl tuesday.jsonl --out OUT

Lines are {"prompt": ..., "completion": ...} or {"messages": [...]}. OUT/01-monday is a standard LoRA adapter on MODEL;
OUT/model is MODEL with all tasks in it.
"""

import argparse
from pathlib import Path

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from codyra import CodyraCallback, CodyraConfig, finish_task


def main() -> None:
    """Parse, learn every file, save."""
    parser = argparse.ArgumentParser(description="Learn one JSON Lines file after another with SFTTrainer.")
    parser.add_argument("model", help="hub id or directory of a causal language model")
    parser.add_argument("files", nargs="+", type=Path, help="one file per task, in their order")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps per task")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU; full precision")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    net = AutoModelForCausalLM.from_pretrained(args.model, dtype="float32")
    for number, file in enumerate(args.files, start=1):
        trainer = SFTTrainer(
            net,
            SFTConfig(
                output_dir=str(args.out / "trainer"),
                max_steps=args.steps,
                per_device_train_batch_size=4,
                learning_rate=5e-4,  # TRL's 2e-5 hardly moves A and B while the gates shrink all the same
                lr_scheduler_type="cosine",
                adam_beta2=0.9999,
                weight_decay=0.0,  # the gates must not decay
                bf16=not args.cpu,
                use_cpu=args.cpu,
                save_strategy="no",
                report_to=[],
            ),
            train_dataset=load_dataset("json", data_files=str(file), split="train"),
            processing_class=tokenizer,
            peft_config=CodyraConfig(r=args.rank, target_modules="all-linear"),
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
