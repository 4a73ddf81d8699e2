"""Where the time of a training step of CLIP ViT-B/16 goes, for codyra and for the floor.

    python benchmarks/shares.py [--batch 16] [--classes 100] [--json FILE]

One profiled step of each after two that warm up. Products with a side of r are LoRA's, all others the network's; what
is in no other row is elementwise work and gaps. Floating point operations are counted in the step taken part by part,
those of the floor are its own; both over the rate of square products, by torch's matmul and by the routine that codyra
takes.
"""

from collections import Counter
from functools import partial
from typing import Any

import torch
from clip_steps import RANK, STEPS, CodyraInPeft, Floor
from measuring import new_parser, seconds, table, write
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from codyra.tuner import GatedLinear, products

PRODUCTS = {
    "aten::mm",
    "aten::addmm",
    "aten::addmm_",
    "mkldnn::_linear_pointwise",
    "aten::mkldnn_convolution",
}
ATTENTION = ("scaled_dot_product", "aten::bmm", "softmax", "aten::masked_fill_")
OPTIMIZER, DATA = "Optimizer.step#AdamW.step", "data"
ROWS = (
    "base products",
    "LoRA products",
    "attention",
    "optimizer and proximal step",
    "data",
    "elementwise and rest",
)


def main() -> None:
    parser = new_parser(__doc__, rounds=None)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--classes", type=int, default=100)
    args = parser.parse_args()
    figures = {}
    for precision in ("fp32", "bf16"):
        operations = {
            "codyra": count_operations(CodyraInPeft(args.batch, args.classes, precision)),
            "floor": count_operations(Floor(args.batch, args.classes, precision)),
        }
        rates = gemm_rates(torch.float32 if precision == "fp32" else torch.bfloat16)
        for name in ("codyra", "floor"):
            spent = shares(STEPS[name](args.batch, args.classes, precision))
            figures[f"{name}, {precision}"] = {"seconds": spent, "operations": operations[name], **rates}
    show(figures)
    write(args.json, {"batch": args.batch, "classes": args.classes, "steps": figures})


def count_operations(step: Any) -> int:
    """Of one step in which every part is called by itself."""
    fused, GatedLinear.fused = GatedLinear.fused, False
    try:
        with FlopCounterMode(display=False) as counted:
            step()
    finally:
        GatedLinear.fused = fused
    return counted.get_total_flops()


def gemm_rates(dtype: torch.dtype, size: int = 3072) -> dict[str, float]:
    """1e9 operations per second of square products."""
    left, right = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    rates = {}
    for name, multiply in (("torch", torch.mm), ("codyra", products.linear)):
        fastest = min(seconds(partial(multiply, left, right)) for _ in range(5))
        rates[f"gflops of {name}'s product"] = 2e-9 * size**3 / fastest
    return rates


def shares(step: Any) -> dict[str, float]:
    """Seconds of each row, and of one step as a whole."""
    if hasattr(step, "objective"):
        read = step.objective.micro_batches

        def recorded(*args: Any) -> Any:
            with record_function(DATA):
                return iter(list(read(*args)))

        step.objective.micro_batches = recorded
    for _ in range(2):
        step()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        total = seconds(step)
    spent: Counter[str] = Counter()
    for event in profiled.key_averages(group_by_input_shape=True):
        row = row_of(event.key, event.input_shapes)
        if row is not None:
            spent[row] += event.self_cpu_time_total if row not in ROWS[3:5] else event.cpu_time_total
    found = {row: 1e-6 * spent[row] for row in ROWS[:-1]}
    found[ROWS[-1]] = total - sum(found.values())
    return {row: value / step.count for row, value in found.items()} | {"all": total / step.count}


def row_of(operation: str, shapes: Any) -> str | None:
    """Where an operation belongs; None for elementwise ones."""
    if operation in PRODUCTS:
        sides = {side for shape in shapes if isinstance(shape, list | tuple) for side in shape}
        return "LoRA products" if RANK in sides else "base products"
    if any(part in operation for part in ATTENTION):
        return "attention"
    return {OPTIMIZER: "optimizer and proximal step", DATA: "data"}.get(operation)


def show(figures: dict[str, Any]) -> None:
    """The table: seconds and share of the step."""
    rows = []
    for row in (*ROWS, "all"):
        spent = [(of["seconds"][row], of["seconds"]["all"]) for of in figures.values()]
        rows.append([row, *(f"{value:.2f} s ({100 * value / total:.0f} %)" for value, total in spent)])
    rows.append(["TFLOP", *(f"{of['operations'] / 1e12:.2f}" for of in figures.values())])
    for name in ("torch", "codyra"):
        rates = [
            (of["operations"] / 1e9 / of["seconds"]["all"], of[f"gflops of {name}'s product"])
            for of in figures.values()
        ]
        rows.append(
            [
                f"of the rate of {name}'s product",
                *(f"{100 * mine / rate:.0f} % of {rate:.0f} GFLOP/s" for mine, rate in rates),
            ]
        )
    table(["where", *figures], rows)


if __name__ == "__main__":
    main()
