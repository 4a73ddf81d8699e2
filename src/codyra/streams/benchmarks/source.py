"""A data set of a benchmark as the source of a task."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from codyra.errors import UserError
from codyra.streams.answers import AnswerSource
from codyra.streams.benchmarks.definition import Split, size_marks
from codyra.streams.benchmarks.image_sets import ImageBenchmark
from codyra.streams.benchmarks.trace import AnswerBenchmark
from codyra.streams.records import Source

ScoreSplit = Literal["test", "val"]


def read_image_set(benchmark: ImageBenchmark, place: Path, score_split: ScoreSplit) -> Source:
    """The data set `place.name` of a benchmark, which lies below `place.parent`.

    Raises:
        UserError: something of it is missing or damaged.
    """
    data_set = benchmark.data_sets[place.name]
    _check_folder(place.parent)
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
    splits: Sequence[Split] = ("train", score_split)
    counts = {split: len(listing.splits[split].inputs) for split in splits}
    return Source(
        modality="image",
        class_names=listing.class_names,
        train=listing.splits["train"],
        test=listing.splits[score_split],
        marks=(*listing.marks, *listing.faults, *size_marks(data_set, counts, "images")),
        empty_classes=data_set.empty_classes,
    )


def read_answer_set(benchmark: AnswerBenchmark, place: Path, score_split: ScoreSplit) -> AnswerSource:
    """The data set `place.name` of a benchmark, which lies below `place.parent`.

    Raises:
        UserError: something of it is missing or damaged.
    """
    data_set = benchmark.data_sets[place.name]
    _check_folder(place.parent)
    folder = data_set.find(place.parent)
    splits: Sequence[Split] = ("train", score_split)
    found = {split: data_set.read(folder, split) for split in splits}
    counts = {split: len(records.prompts) for split, records in found.items()}
    faults = [fault for split, records in found.items() for fault in data_set.faults(records, split)]
    return AnswerSource(
        train=found["train"],
        test=found[score_split],
        marks=(*faults, *size_marks(data_set, counts, "records")),
    )


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; give the folder of the data sets with --set data_dir=...")
