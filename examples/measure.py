"""Run an example once per method and print its tables in Markdown (what docs/results.md shows).

    python examples/measure.py cifar DATA_DIR --out OUT
    python examples/measure.py intents DATA_DIR --model MODEL_DIR --out OUT

Runs that OUT already holds are continued or shown again.
"""

import argparse
import json
from pathlib import Path

from codyra.engine.run import Run, run

METHODS = {
    "codyra": ["method.name=codyra", "method.r=16"],
    "lora r=16": ["method.name=lora", "method.r=16"],
    "lora r=4": ["method.name=lora", "method.r=4"],
    "zero_shot": ["method.name=zero_shot"],
}
COLUMNS = [
    "zero_shot",
    "transfer",
    "average",
    "last",
    "learning_accuracy",
    "forgetting_max",
    "forgetting_diag",
]


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="Run an example once per method and print its tables.")
    parser.add_argument("example", choices=["cifar", "intents"])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--model", help="model directory; the example's own unless given")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    args = parser.parse_args()

    config = Path(__file__).parent / f"{args.example}.yaml"
    shared = [f"data_dir={args.data_dir}"] + ([f"model.name={args.model}"] if args.model else [])
    runs = {}
    for name, overrides in METHODS.items():
        out = args.out / args.example / name.replace(" ", "-").replace("=", "")
        runs[name] = run(config, out, overrides=[*shared, *overrides])
    print_tables(runs)


def print_tables(runs: dict[str, Run]) -> None:
    """Summary figures in both label spaces, then the scores after the last task."""
    for title, space in (("All class names", None), ("Own class names", "own_label_space")):
        print(
            f"\n**{title}**\n\n| method | " + " | ".join(COLUMNS) + " |\n|---" + "|---" * len(COLUMNS) + "|"
        )
        for name, done in runs.items():
            figures = done.metrics | (done.metrics[space] if space else {})
            shown = (
                figures[key] if space is None or key != "zero_shot" else own_zero_shot(done)
                for key in COLUMNS
            )
            print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in shown) + " |")
    names = next(iter(runs.values())).task_names
    print("\n**After the last task, all class names / own class names**\n")
    print(
        "| method | " + " | ".join(names) + " | mean rank | seconds |\n|---" + "|---" * (len(names) + 2) + "|"
    )
    for name, done in runs.items():
        scores = json.loads((done.folder / f"tasks/{len(names):02d}-{names[-1]}/scores.json").read_text())[
            "tasks"
        ]
        cells = [
            f"{100 * cell['correct'] / cell['examples']:.1f} / {100 * cell['correct_task'] / cell['examples']:.1f}"
            for cell in scores
        ]
        ranks = [rank for rank in done.metrics["mean_rank"] if rank is not None]
        mean_rank = f"{sum(ranks) / len(ranks):.1f}" if ranks else "-"
        print(f"| {name} | " + " | ".join(cells) + f" | {mean_rank} | {wall_seconds(done):.0f} |")


def own_zero_shot(done: Run) -> float:
    """Mean zero-shot score when every task is scored among its own class names."""
    row = (done.folder / "accuracy_task.csv").read_text().splitlines()[1].split(",")[1:]
    return sum(map(float, row)) / len(row)


def wall_seconds(done: Run) -> float:
    """Training, merging and scoring of all tasks, the zero-shot row included."""
    timing = json.loads((done.folder / "manifest.json").read_text())["timing"]
    tasks = sum(seconds for task in timing["tasks"] for key, seconds in task.items() if key != "name")
    return timing["zero_shot_seconds"] + tasks


if __name__ == "__main__":
    main()
