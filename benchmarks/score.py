"""Scoring of all tasks after each task of a stream shaped like X-TAIL, beside the bare forward pass of its images.

    python benchmarks/score.py [--rows 4] [--images 12] [--json FILE]

Ten tasks with the 1,100 prompts of X-TAIL, `--images` JPEGs each, on a ViT-B/16 CLIP with random weights. A row is what
a run does after every task: prompts and images of all tasks become features and are compared. The bare forward pass is
that of a network of its own on pixels that lie ready in memory; it takes every batch just after the row has scored it,
since a machine does not stay equally fast for a whole row. All 1,100 prompts are encoded once per row, however many
images there are, and X-TAIL has 89,913 to score; so the row without its prompts has a column of its own, which is what
a row comes to on test sets of the real sizes.
"""

import argparse
import copy
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from image_cache import write_task
from measuring import seconds, spread, table, write
from random_clips import MODELS, class_names, new_family, prompts_of
from torch import Tensor

from codyra.families import ImageTextEncoder
from codyra.streams import Task

CLASSES = (100, 100, 47, 10, 102, 101, 10, 37, 196, 397)
"""Of the tasks of X-TAIL."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=4, help="how often all tasks are scored")
    parser.add_argument("--images", type=int, default=12, help="test images of every task")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--model", choices=MODELS, default="ViT-B/16")
    parser.add_argument("--json", type=Path, help="write every measured figure here")
    args = parser.parse_args()
    family = new_family(MODELS[args.model])
    opened = count_opened_jpegs()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"CODYRA_CACHE_DIR": f"{folder}/cache", "CODYRA_CACHE_GIB": "8"}
        tasks = write_tasks(Path(folder), args.images)
        before = len(opened)
        prepared = seconds(lambda: family.prepare(tasks))
        decoded = len(opened) - before
        pixels = [batch for task in tasks for batch in ready_pixels(family, task).split(args.batch)]
        net = copy.deepcopy(family.net)
        bare(net, pixels[0])  # once, so that the first row is the first of codyra and not of torch
        rows = [measure_row(family, tasks, net, pixels, args.batch, opened) for _ in range(args.rows)]
    num_images = args.images * len(tasks)
    show(rows, num_images)
    print(
        f"\n{args.model}, {num_images} images, {sum(CLASSES)} prompts; before the first row {decoded} JPEGs were "
        f"opened, in {prepared / num_images * 1000:.0f} ms an image"
    )
    figures = {
        "images": num_images,
        "prepare": {"seconds": prepared, "opened": decoded},
        "rows": rows,
        "model": args.model,
    }
    write(args.json, figures)


def write_tasks(folder: Path, num_images: int) -> list[Task]:
    """Ten tasks, their test images on disk and not yet decoded."""
    tasks = []
    for number, num_classes in enumerate(CLASSES):
        names = class_names(sum(CLASSES[:number]), num_classes)
        prompts = prompts_of(names)
        task = write_task(folder / str(number), num_images, seed=number)
        scored = tuple((prompt,) for prompt in prompts)
        tasks.append(
            replace(task, name=f"task{number}", class_names=names, prompts=prompts, scored_prompts=scored)
        )
    return tasks


def count_opened_jpegs() -> list[str]:
    """A list that grows by a name whenever this process opens a JPEG file."""
    opened: list[str] = []

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith(".jpg"):
            opened.append(str(arguments[0]))

    sys.addaudithook(listen)
    return opened


def ready_pixels(family: ImageTextEncoder, task: Task) -> Tensor:
    """All test images as the vision tower takes them, (N, 3, H, W)."""
    images = family.test_inputs(task)
    return family.transform.normalise(images.test(images.reading_order())["pixels"])


@torch.no_grad()
def bare(net: Any, pixels: Tensor) -> None:
    net.get_image_features(pixel_values=pixels)


def measure_row(
    family: ImageTextEncoder,
    tasks: Sequence[Task],
    net: Any,
    pixels: Sequence[Tensor],
    batch_size: int,
    opened: list[str],
) -> dict[str, float]:
    """Seconds of the bare pass, of the row and of its prompts; JPEGs opened and bytes read from the disk by the row."""
    num_opened, num_bytes = len(opened), disk_bytes()
    batches = iter(pixels)
    encoded = forward = 0.0

    def take_bare(num_images: int) -> None:
        nonlocal forward
        batch = next(batches)
        assert len(batch) == num_images
        forward += seconds(lambda: bare(net, batch))

    def timed(prompts: Sequence[Sequence[str]]) -> Tensor:
        nonlocal encoded
        begun = time.perf_counter()
        features = ImageTextEncoder.class_features(family, prompts)
        encoded = time.perf_counter() - begun
        return features

    family.class_features = timed  # type: ignore[method-assign]
    whole = seconds(lambda: family.score(tasks, batch_size, progress=take_bare))
    del family.class_features  # the method of the class again
    return {
        "bare": forward,
        "row": whole - forward,
        "prompts": encoded,
        "opened": len(opened) - num_opened,
        "read_bytes": disk_bytes() - num_bytes,
    }


def disk_bytes() -> int:
    """Bytes that this process has read from the disk so far, those of memory maps included; 0 where nobody counts."""
    counted = Path("/proc/self/io")
    if not counted.is_file():
        return 0
    return int(dict(line.split(": ") for line in counted.read_text().splitlines())["read_bytes"])


def show(rows: Sequence[dict[str, float]], num_images: int) -> None:
    """The table; ratios are images per second of the row to those of the bare pass beside it."""
    header = ("row", "bare: images/s", "row: images/s", "row / bare", "without prompts / bare")
    lines = []
    for name, some in (("first", rows[:1]), ("later", rows[1:])):
        if some:
            lines.append(
                [
                    name,
                    spread([num_images / row["bare"] for row in some]),
                    spread([num_images / row["row"] for row in some]),
                    spread([row["bare"] / row["row"] for row in some]),
                    spread([row["bare"] / (row["row"] - row["prompts"]) for row in some]),
                    f"{sum(row['opened'] for row in some):.0f}",
                    f"{sum(row['read_bytes'] for row in some) / 1e6:.1f}",
                ]
            )
    table((*header, "JPEGs opened", "MB read from disk"), lines)


if __name__ == "__main__":
    main()
