"""A training step of a Llama of 100 million parameters: codyra beside LoRA of peft on the same linears.

    python benchmarks/lm_step.py [--rounds 5] [--targets attention all] [--rank 8 16] [--json FILE]

Both are what a user of peft writes: `get_peft_model`, AdamW, the loss of the transformers model; codyra has its
`param_groups` and a `ProximalStep` in its sparse phase. Random float32 weights, two sequences of 512 tokens,
activations kept; "bf16" is autocast. Steps are taken in turn, peak memory is that of a process of its own for each.
"""

import argparse
import itertools
import json
import warnings
from functools import partial
from typing import Any

import peft
import torch
from lm_memory import ATTENTION, MODELS
from measuring import in_turn, new_parser, peak_gib, ratios, spread, table, write
from transformers import AutoModelForCausalLM

import codyra

SEED = 0
TARGETS = {"attention": list(ATTENTION), "all": [*ATTENTION, "gate_proj", "up_proj", "down_proj"]}


class Side:
    """One way to train; `step` is one optimizer step."""

    def __init__(self, way: str, args: argparse.Namespace, targets: str, rank: int) -> None:
        torch.manual_seed(SEED)
        config = MODELS[args.model]
        net: Any = AutoModelForCausalLM.from_config(config)
        self.ids = torch.randint(config.vocab_size, (args.batch, args.tokens))
        groups: Any
        if way == "codyra":
            made = codyra.CodyraConfig(r=rank, target_modules=TARGETS[targets])
            self.model = peft.get_peft_model(net, made)
            groups = codyra.param_groups(self.model, lr=5e-4)
        else:
            made = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS[targets])
            self.model = peft.get_peft_model(net, made)
            groups = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(groups, lr=5e-4)
        if way == "codyra":
            codyra.ProximalStep(self.optimizer, self.model, total_steps=1000, dense_fraction=0.0)

    def step(self, precision: str) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = self.model(input_ids=self.ids, labels=self.ids).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--precision", nargs="+", choices=["float32", "bf16"], default=["float32", "bf16"])
    parser.add_argument("--rank", nargs="+", type=int, default=[8, 16])
    parser.add_argument("--model", choices=MODELS, default="100M")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of libraries about each other
    if args.one:
        way, targets, rank, precision = json.loads(args.one)
        side = Side(way, args, targets, rank)
        for _ in range(2):  # in the second there are moments
            side.step(precision)
        return
    cases = [
        measure(args, targets, precision, rank)
        for targets, precision, rank in itertools.product(args.targets, args.precision, args.rank)
    ]
    header = ("linears", "computed in", "r", "LoRA: seconds", "codyra: seconds", "codyra / LoRA")
    rows = [
        [
            case["targets"],
            case["precision"],
            str(case["rank"]),
            *(spread([one[way] for one in case["seconds"]]) for way in ("LoRA", "codyra")),
            spread(ratios(case["seconds"], "codyra", "LoRA")),
            f"{case['peak_gib']['LoRA']:.2f}",
            f"{case['peak_gib']['codyra']:.2f}",
            f"{case['peak_gib']['codyra'] / case['peak_gib']['LoRA']:.2f}",
        ]
        for case in cases
    ]
    table((*header, "LoRA: peak GiB", "codyra: peak GiB", "codyra / LoRA"), rows)
    print(
        f"\n{args.model}, {args.batch} x {args.tokens} tokens; {args.rounds} rounds, min / median / max; peaks of "
        "whole processes"
    )
    write(args.json, {"model": args.model, "batch": args.batch, "tokens": args.tokens, "cases": cases})


def measure(args: argparse.Namespace, targets: str, precision: str, rank: int) -> dict[str, Any]:
    """Both sides of one case."""
    sides = {way: Side(way, args, targets, rank) for way in ("LoRA", "codyra")}
    taken = in_turn({way: partial(side.step, precision) for way, side in sides.items()}, args.rounds)
    del sides
    sizes = ["--model", args.model, "--batch", str(args.batch), "--tokens", str(args.tokens)]
    peaks = {
        way: peak_gib([__file__, *sizes, "--one", json.dumps([way, targets, rank, precision])])
        for way in ("LoRA", "codyra")
    }
    return {"targets": targets, "precision": precision, "rank": rank, "seconds": taken, "peak_gib": peaks}


if __name__ == "__main__":
    main()
