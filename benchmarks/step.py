"""One training step of CLIP ViT-B/16: codyra against peft's LoRA, the official graph and the floor.

    python benchmarks/step.py [--batch 16] [--classes 100] [--rounds 5] [--precision fp32 bf16] [--json FILE]

Random weights, r = 16 on 144 linears; clip_steps.py says what each row does. Time is compared within a round; memory is
the largest resident set of a process that takes three steps and nothing else (libraries included), as the operating
system counts it.
"""

import argparse
from statistics import median
from typing import Any

from clip_steps import STEPS
from measuring import in_turn, new_parser, peak_gib, ratios, spread, table, write

OURS = "codyra"


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), metavar="ROW")
    parser.add_argument(
        "--alone", action="store_true", help="take three steps of the first row; for its memory"
    )
    args = parser.parse_args()
    if args.alone:
        step = STEPS[args.steps[0]](args.batch, args.classes, args.precision[0])
        for _ in range(3):
            step()
        return
    figures, rows = measure(args)
    table(
        [
            "precision",
            "step",
            "seconds",
            "time codyra / this: min / median / max",
            "peak GiB",
            "memory codyra / this",
        ],
        rows,
    )
    write(args.json, {"batch": args.batch, "classes": args.classes, **figures})


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], list[list[str]]]:
    """All figures, and the rows of the table."""
    names = [name for name in STEPS if name in args.steps]
    peaks = {(kind, name): memory(name, kind, args) for kind in args.precision for name in names}
    steps = {
        (kind, name): STEPS[name](args.batch, args.classes, kind) for kind in args.precision for name in names
    }
    keys = {f"{name}, {kind}": (kind, name) for kind, name in steps}
    rounds = in_turn({key: steps[which] for key, which in keys.items()}, args.rounds)
    rounds = [{key: measured[key] / steps[which].count for key, which in keys.items()} for measured in rounds]
    rows = []
    for key, (kind, name) in keys.items():
        ours = f"{OURS}, {kind}"
        cells = [kind, name, f"{median(measured[key] for measured in rounds):.2f}"]
        cells += [spread(ratios(rounds, ours, key)) if ours in keys else "", f"{peaks[kind, name]:.2f}"]
        cells += [f"{peaks[kind, OURS] / peaks[kind, name]:.2f}" if ours in keys else ""]
        rows.append(cells)
    if {"fp32", "bf16"} == set(args.precision) and OURS in names:
        rows.append(
            ["", "codyra, fp32 / bf16", "", spread(ratios(rounds, f"{OURS}, fp32", f"{OURS}, bf16")), "", ""]
        )
    return {
        "seconds": rounds,
        "peak_gib": {f"{name}, {kind}": peaks[kind, name] for kind, name in peaks},
    }, rows


def memory(name: str, precision: str, args: argparse.Namespace) -> float:
    """Peak of a process that does nothing else."""
    size = ["--batch", str(args.batch), "--classes", str(args.classes), "--precision", precision]
    return peak_gib([__file__, "--alone", *size, "--steps", name])


if __name__ == "__main__":
    main()
