"""Draw reference data for ZSCL on the demo stream: pictures of the world that the tiny CLIP was pre-trained on.

    python benchmarks/demo_references.py --out references

gives references/images/*.png and references/captions.txt, as ZSCL has ImageNet and captions for CLIP. The pictures are
drawn with another seed than those of the pre-training, and none is of a task of the demo:

    codyra run demo --set data_dir=demo-output/data --set method.name=zscl \
        --set method.reference_images=references/images --set method.reference_texts=references/captions.txt
"""

import argparse
from pathlib import Path

from codyra.demo.world import picture

SEED = 1
"""The pre-training has 0."""


def draw(out: Path, count: int) -> None:
    """Write `count` pictures, and their captions without repetitions."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    captions: dict[str, None] = {}
    for index in range(count):
        drawn = picture(SEED, index)
        drawn.image.save(out / "images" / f"{index:05d}.png")
        captions[drawn.caption] = None
    (out / "captions.txt").write_text("".join(f"{caption}\n" for caption in captions), "utf-8")


def main() -> None:
    """Parse and draw."""
    parser = argparse.ArgumentParser(
        description="Draw reference pictures and captions for ZSCL on the demo stream."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for images/ and captions.txt")
    parser.add_argument("--count", type=int, default=1000, help="pictures")
    args = parser.parse_args()
    draw(args.out, args.count)


if __name__ == "__main__":
    main()
