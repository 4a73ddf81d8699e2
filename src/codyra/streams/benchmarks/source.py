"""A data set of a benchmark as the source of a task."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from codyra.errors import UserError
from codyra.streams.benchmarks.definition import Benchmark, DataSet, Listing, Split
from codyra.streams.records import Source


def read_data_set(benchmark: Benchmark, place: Path, score_split: Literal["test", "val"]) -> Source:
    """The data set `place.name` of a benchmark, which lies below `place.parent`.

    Raises:
        UserError: something of it is missing or damaged.
    """
    data_set = benchmark.data_sets[place.name]
    if not place.parent.is_dir():
        raise UserError(f"no folder {place.parent}; give the folder of the data sets with --set data_dir=...")
    listing = data_set.list(place.parent)
    if score_split not in listing.splits:
        raise UserError(
            f"{data_set.key} of {benchmark.title} has no {score_split} part; choose others with stream.only, or "
            "score the test part"
        )
    used = [image for split in ("train", score_split) for image in listing.splits[split].inputs]
    lacking = [
        listing.absent[image.name]
        for image in used
        if not isinstance(image, str) and image.name in listing.absent
    ]
    if lacking:
        more = f" (and {len(lacking) - 1:,} more)" if len(lacking) > 1 else ""
        raise UserError(
            f"{lacking[0]}{more}; complete the data set, `codyra data verify` lists what it lacks"
        )
    return Source(
        modality="image",
        class_names=listing.class_names,
        train=listing.splits["train"],
        test=listing.splits[score_split],
        marks=(*listing.marks, *listing.faults, *_size_marks(data_set, listing, ("train", score_split))),
        empty_classes=data_set.empty_classes,
    )


def _size_marks(data_set: DataSet, listing: Listing, splits: Sequence[Split]) -> list[str]:
    """In words, that these splits have more or fewer images than published."""
    counts = [(split, len(listing.splits[split].inputs), data_set.sizes[split]) for split in splits]
    if all(found == published for _, found, published in counts):
        return []
    return [", ".join(f"{split} {found:,} of {published:,} images" for split, found, published in counts)]
