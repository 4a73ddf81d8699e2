"""What the cache of test images saves: the input side of scoring, by decoding JPEGs and from the cache.

    python benchmarks/image_cache.py [--images 400] [--rounds 7] [--json FILE]

Prints one table in Markdown, in seconds per 1,000 images. Every round measures everything once, in turn, so that
whatever else the machine does meets all of it alike; ratios are taken within a round. No network is involved: neither
the model's forward pass nor a download.
"""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from measuring import Rounds, new_parser, ratios, seconds, spread, table, write
from PIL import Image

from codyra.families.dual_encoder import EvaluationInputs
from codyra.families.evaluation import EvaluationImages
from codyra.families.images import ImageTransform
from codyra.streams import StreamSpec, Task, TaskSpec, build_stream

SIDE = 224
"""Of ViT-B/16."""
BATCH = 256
SEED = 0
TRANSFORM = ImageTransform(
    SIDE, None, (SIDE, SIDE), Image.Resampling.BICUBIC, 1 / 255, (0.5,) * 3, (0.25,) * 3
)

PLAIN = "row without cache: decode, resize"
"""What the others are compared with."""


def main() -> None:
    parser = new_parser(__doc__, rounds=7)
    parser.add_argument("--images", type=int, default=400)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        task = write_task(Path(folder) / "images", args.images)
        mean_bytes = sum(path.stat().st_size for path in Path(folder).rglob("test/*/*.jpg")) / args.images
        os.environ["CODYRA_CACHE_GIB"] = "32"
        rounds = []
        for number in range(args.rounds + 1):
            os.environ["CODYRA_CACHE_DIR"] = str(Path(folder) / f"cache{number}")
            measured = measure(task)
            if number:  # the first is a warm-up
                rounds.append({name: 1000 * value / args.images for name, value in measured.items()})
    show(rounds)
    print(f"\n{args.images} JPEGs of 500 x 375, {mean_bytes / 1000:.0f} kB on average; {args.rounds} rounds")
    write(args.json, {"images": args.images, "mean_bytes": mean_bytes, "seconds_per_1000_images": rounds})


def write_task(folder: Path, num_images: int, seed: int = SEED) -> Task:
    """A task whose test images are photographs of `write_images`."""
    write_images(folder / "train/photograph", 1, seed)
    write_images(folder / "test/photograph", num_images, seed)
    return read_task(folder, "a {}.")


def read_task(folder: Path, prompt: str) -> Task:
    """The images of `folder`, those of a class in a folder of its own."""
    spec = StreamSpec(tasks=[TaskSpec(name="photographs", data=f"imagefolder:{folder}")])
    (task,) = build_stream(spec, seed=SEED, default_prompt=prompt)
    assert isinstance(task, Task)
    return task


def write_images(folder: Path, count: int, seed: int = SEED, size: tuple[int, int] = (500, 375)) -> None:
    """JPEGs with coarse shapes and fine grain, about as large as photographs are."""
    width, height = size
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
        pixels = np.clip(pixels + rng.normal(0, 10, (height, width, 1)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=85)


def measure(task: Task) -> dict[str, float]:
    """Seconds for all images, of every way to have them."""
    loose = EvaluationImages(TRANSFORM).loose(task.test.inputs)
    first, second = EvaluationImages(TRANSFORM), EvaluationImages(TRANSFORM)
    return {
        "check without cache: decode, in threads": seconds(lambda: check(task)),
        "first run: decode, resize, write, in threads": seconds(lambda: first.prepare([task])),
        PLAIN: seconds(lambda: read(loose)),
        "first row from the cache": seconds(lambda: read(first.of_task(task))),
        "second row from the cache": seconds(lambda: read(first.of_task(task))),
        "second run: map": seconds(lambda: second.prepare([task])),
        "its first row": seconds(lambda: read(second.of_task(task))),
    }


def check(task: Task) -> None:
    """What a run did with its test images before it began, when there was no cache."""
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda image: image.open(), task.test.inputs):
            pass


def read(images: EvaluationInputs) -> None:
    """All batches of one scoring."""
    order = images.reading_order()
    for start in range(0, len(order), BATCH):
        images.test(order[start : start + BATCH])


def show(rounds: Rounds) -> None:
    """The table: seconds per 1,000 images, and how many times quicker than a row without the cache."""
    table(
        ("", "seconds per 1,000 images: min / median / max", "row without cache / this: min / median / max"),
        [
            (name, spread([measured[name] for measured in rounds], 3), spread(ratios(rounds, PLAIN, name), 1))
            for name in rounds[0]
        ],
    )


if __name__ == "__main__":
    main()
