"""All eight tasks of TRACE on a small model: zero-shot, LoRA and CoDyRA, the same steps on the same records.

    python benchmarks/trace_stream.py --model DIR --data DIR --out DIR [--split val] [--only TASK ...]
        [--lr METHOD=LR ...]

`--model` is what tiny_llama.py wrote, `--data` the folder of TRACE's 500-record form. Runs lie in OUT/<method>; an
interrupted benchmark goes on when it is started again. Prints `codyra table` of them and writes OUT/report.html.
Learning rates are chosen with `--split val`, never on the test records.
"""

import argparse
from pathlib import Path

from codyra.engine.folder_reader import read_run
from codyra.engine.run import run
from codyra.report import render
from codyra.report.table import build_tables
from codyra.report.table_formats import as_text

METHODS = {
    "zero_shot": {"name": "zero_shot"},
    "lora": {"name": "lora", "r": 8, "carry": "merge"},
    "lora-continue": {"name": "lora", "r": 8, "carry": "continue"},
    "codyra": {"name": "codyra", "r": 8, "schedule": "linear", "kappa_total": 0.65},
}


def config(args: argparse.Namespace, method: str, lr: float) -> dict:
    """What codyra runs; all but `method` and its learning rate is the same for all."""
    return {
        "name": method,
        "model": {"name": str(args.model), "dtype": "float32"},
        "data_dir": str(args.data),
        "method": METHODS[method],
        "train": {
            "steps": args.steps,
            "batch_size": 16,
            "eval_batch_size": 40,
            "lr": lr,
            "betas": [0.9, 0.95],
            "schedule": "constant",
            "clip": 1.0,
        },
        "stream": {
            "benchmark": "trace",
            "only": args.only,
            "test_examples": args.examples,
            "score_split": args.split,
            "max_prompt_tokens": 192,
            "max_answer_tokens": 48,
        },
        "seed": args.seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--methods", nargs="*", default=["zero_shot", "lora", "codyra"], choices=list(METHODS)
    )
    parser.add_argument("--lr", nargs="*", default=[], help="METHOD=LR, instead of 2e-3")
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--split", choices=["test", "val"], default="test")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--examples", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1234)
    args = parser.parse_args()
    rates = dict.fromkeys(METHODS, 2e-3)
    rates |= {name: float(rate) for name, rate in (item.split("=") for item in args.lr)}
    folders = []
    for method in args.methods:
        run(config(args, method, rates[method]), args.out / method)
        folders.append(args.out / method)
    views = [read_run(folder) for folder in folders]
    for table in build_tables(views):
        print(as_text([table]))
    (args.out / "report.html").write_text(render(views), "utf-8")


if __name__ == "__main__":
    main()
