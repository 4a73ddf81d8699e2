"""What a run costs against ranks, classes, batch and tasks.

    python benchmarks/scale.py [--only ranks classes batch tasks] [--tasks 50] [--rounds 5] [--json FILE]

A small CLIP (72 linears, 96 x 96 pixels) with random weights. Ranks, classes and batch: a training step, beside that of
the first value, in turn. Tasks: one whole `codyra.run` of as many equal tasks; their classes are the same, so that the
label space does not grow. Step and scoring are the run's own figures, the end of a task is all its other seconds
(adapters on, prune, save, merge, tables); folder and resident memory are read when a task ends. A slope is that of a
straight line over the tasks, from the second on, in percent of the median for ten tasks, with its standard error; the
noise is the standard deviation of the first task in runs of its own, in percent.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
from image_cache import write_images
from in_training import Training
from measuring import in_turn, new_parser, ratios, spread, table, write
from random_clips import MODELS, class_names, new_family, noise_task

import codyra
from codyra.engine.progress import Narrator

RANKS = (4, 8, 16, 32, 64)
CLASSES = (10, 100, 1000)
BATCH = (8, 16, 32, 64)
USUAL = {"ranks": 16, "classes": 10, "batch": 16}
SWEEPS = {"ranks": RANKS, "classes": CLASSES, "batch": BATCH}

FIGURES = {
    "step_seconds": "training step, ms",
    "end_seconds": "end of a task, ms",
    "score_seconds": "scoring, ms",
    "folder_bytes": "folder of a task, kB",
    "resident_bytes": "resident memory, MB",
}
"""What is read of every task, and in which unit it is shown (thousandths, thousands, millions)."""
UNITS = {"seconds": 1e-3, "folder_bytes": 1e3, "resident_bytes": 1e6}


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=[*SWEEPS, "tasks"], default=[*SWEEPS, "tasks"])
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--steps", type=int, default=8, help="of every task")
    parser.add_argument("--repeats", type=int, default=5, help="runs of one task")
    parser.add_argument("--values", type=int, default=9, help="of every sweep at most so many")
    parser.add_argument("--model", choices=MODELS, default="small")
    args = parser.parse_args()
    figures: dict[str, Any] = {"model": args.model}
    rows = []
    for name in args.only:
        if name in SWEEPS:
            figures[name] = sweep(args, name)
            rows += sweep_rows(name, figures[name])
        else:
            figures[name] = over_tasks(args)
            rows += task_rows(figures[name])
    table(("against", "what", "min / median / max", "compared: min / median / max, or slope"), rows)
    write(args.json, figures)


# --- a step against ranks, classes, batch ------------------------------------------------------------------------


def sweep(args: argparse.Namespace, name: str) -> list[dict[str, float]]:
    """Seconds of a step for every value, in turn; one dict per round."""
    config = MODELS[args.model]
    steps = {}
    for value in SWEEPS[name][: args.values]:
        sizes = USUAL | {name: value}
        task = noise_task(sizes["classes"], 2 * sizes["batch"], config.vision_config.image_size)
        training = Training(new_family(config), task, {"batch_size": sizes["batch"]}, {"r": sizes["ranks"]})
        training.put_adapters_on()
        training.begin()
        steps[str(value)] = training.step
    return in_turn(steps, args.rounds)


def sweep_rows(name: str, rounds: list[dict[str, float]]) -> list[tuple[str, str, str, str]]:
    first = next(iter(rounds[0]))
    return [
        (
            name,
            f"{value}: training step, ms",
            spread([1000 * one[value] for one in rounds], 0),
            f"to {first}: {spread(ratios(rounds, value, first))}",
        )
        for value in rounds[0]
    ]


# --- a run of many tasks -----------------------------------------------------------------------------------------


def over_tasks(args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Figures of every task of one long run, and of the first task of several runs."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ |= {"CODYRA_CACHE_DIR": f"{folder}/cache", "CODYRA_CACHE_GIB": "8"}
        family = new_family(MODELS[args.model])
        family.save(place / "model")
        names = class_names(0, USUAL["classes"])
        for split, count in (("train", 4), ("test", 1)):
            for name in names:
                write_images(place / "images" / split / name, count)
        measure(place, "warm", 1, args.steps)
        alone = [measure(place, f"alone{number}", 1, args.steps)[0] for number in range(args.repeats)]
        return {"alone": alone, "tasks": measure(place, "long", args.tasks, args.steps)}


def measure(place: Path, name: str, num_tasks: int, num_steps: int) -> list[dict[str, float]]:
    """Run `num_tasks` equal tasks; what each of them took."""
    config = {
        "model": {"name": str(place / "model")},
        "method": {"name": "codyra", "r": USUAL["ranks"]},
        "train": {"steps": num_steps, "batch_size": USUAL["batch"]},
        "stream": {
            "tasks": [
                {"name": f"task{number}", "data": f"imagefolder:{place}/images", "test_examples": 2}
                for number in range(num_tasks)
            ]
        },
    }
    watch = Watch()
    codyra.run(config, place / name, narrator=watch)
    manifest = json.loads((place / name / "manifest.json").read_text("utf-8"))
    folders = sorted((place / name / "tasks").iterdir())
    return [
        {
            "step_seconds": timing["train_seconds"] / num_steps,
            "end_seconds": whole - timing["train_seconds"] - timing["score_seconds"],
            "score_seconds": timing["score_seconds"],
            "folder_bytes": sum(file.stat().st_size for file in folder.iterdir()),
            "resident_bytes": resident,
        }
        for timing, folder, whole, resident in zip(
            manifest["timing"]["tasks"], folders, watch.seconds, watch.resident_bytes, strict=True
        )
    ]


class Watch(Narrator):
    """Says nothing; when a task is done, notes its seconds and the resident memory of this process."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.seconds: list[float] = []
        self.resident_bytes: list[int] = []
        self._last = 0.0

    def say(self, text: str) -> None:
        now = time.perf_counter()
        if text.startswith("task "):
            self.seconds.append(now - self._last)
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.resident_bytes.append(pages * os.sysconf("SC_PAGE_SIZE"))
        self._last = now  # what is said before the first task ends with its zero-shot scores


def task_rows(measured: dict[str, list[dict[str, float]]]) -> list[tuple[str, str, str, str]]:
    rows = []
    for figure, label in FIGURES.items():
        unit = UNITS.get(figure, UNITS["seconds"])
        tasks = [one[figure] / unit for one in measured["tasks"]]
        alone = [one[figure] for one in measured["alone"]]
        slope = "needs 4 tasks" if len(tasks) < 4 else "{:+.2f} ± {:.2f} %".format(*slope_of(tasks[1:]))
        noise = f"; noise {100 * stdev(alone) / mean(alone):.1f} %" if len(alone) > 1 else ""
        rows.append((f"{len(tasks)} tasks", label, spread(tasks, 0), f"{slope} in ten tasks{noise}"))
    return rows


def slope_of(values: Sequence[float]) -> tuple[float, float]:
    """Slope of a straight line through `values`, and its standard error: percent of their median for ten of them."""
    positions = np.arange(len(values)) - (len(values) - 1) / 2
    slope = positions @ np.asarray(values) / (positions @ positions)
    left = np.asarray(values) - mean(values) - slope * positions
    error = np.sqrt(left @ left / (len(values) - 2) / (positions @ positions))
    scale = 1000 / median(values)
    return float(slope * scale), float(error * scale)


if __name__ == "__main__":
    main()
