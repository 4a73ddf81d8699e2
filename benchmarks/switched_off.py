"""What each optimisation of the training step gives: a step of CLIP ViT-B/16 with all of them, and without each.

    python benchmarks/switched_off.py [--batch 16] [--classes 100] [--rounds 5] [--precision fp32 bf16] [--json FILE]

The step is codyra's tuner through peft, in a plain loop (clip_steps.py). Time is compared within a round, memory is
that of a process that takes three steps and nothing else.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any
from unittest import mock

from clip_steps import CodyraInPeft
from measuring import in_turn, new_parser, peak_gib, ratios, spread, table, write

from codyra.tuner import GatedLinear, attention, model, products

ALL = "everything on"


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--alone", choices=SWITCHES, help="take three steps of this; for its memory")
    args = parser.parse_args()
    if args.alone is not None:
        step = make(args.alone, args.precision[0], args)
        for _ in range(3):
            step()
        return
    keys = {f"{name}, {kind}": (name, kind) for kind in args.precision for name in SWITCHES}
    size = ["--batch", str(args.batch), "--classes", str(args.classes)]
    peaks = {
        key: peak_gib([__file__, "--alone", name, *size, "--precision", kind])
        for key, (name, kind) in keys.items()
    }
    rounds = in_turn({key: make(name, kind, args) for key, (name, kind) in keys.items()}, args.rounds)
    rows = []
    for key, (name, kind) in keys.items():
        best = f"{ALL}, {kind}"
        took = f"{median(measured[key] for measured in rounds):.2f}"
        rows.append([kind, name, took, spread(ratios(rounds, key, best)), f"{peaks[key]:.2f}"])
    table(["precision", "step", "seconds", f"time / {ALL}: min / median / max", "peak GiB"], rows)
    write(args.json, {"batch": args.batch, "classes": args.classes, "seconds": rounds, "peak_gib": peaks})


def make(name: str, precision: str, args: argparse.Namespace) -> Callable[[], None]:
    """A step under one of SWITCHES, which holds while the network is made and while it is trained."""
    with SWITCHES[name]():
        step = CodyraInPeft(args.batch, args.classes, precision)

    def switched() -> None:
        with SWITCHES[name](), attention.short_attention(step.net):
            step()

    return switched


def patched(place: Any, name: str, value: object) -> Callable[[], Any]:
    """Exchanges one name of a module or class while it is open."""
    return lambda: mock.patch.object(place, name, value)


@contextmanager
def nothing() -> Iterator[None]:
    """Everything as it is."""
    yield


SWITCHES: dict[str, Callable[[], Any]] = {
    ALL: nothing,
    "parts called one by one": patched(GatedLinear, "fused", False),
    "float32 products by MKL": patched(products, "onednn_is_quicker", lambda: False),
    "transformers' activation": patched(model, "make_lean", lambda net: None),
    "torch's attention": patched(attention, "_gains", lambda query, key: False),
}


if __name__ == "__main__":
    main()
