"""What of a benchmark's data lies on this machine (`codyra data verify`); nothing is written."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from codyra.errors import UserError, visible
from codyra.streams.benchmarks.definition import Benchmark, DataSet, Listing, Split
from codyra.streams.images import ImageFile, ImageInput


@dataclass(frozen=True)
class Finding:
    """What was found of one data set.

    Attributes:
        state: "present" (all of it, in the published number), "partial", or "missing".
        counts: images listed in each split, of which those in `faults` are not there or cannot be read.
        expected: images of each split as published.
        faults: one line for each file at fault; with what to get when the data set is missing.
        marks: what every run on it will say of itself.
    """

    key: str
    state: Literal["present", "partial", "missing"]
    counts: dict[Split, int]
    expected: dict[Split, int]
    faults: tuple[str, ...]
    marks: tuple[str, ...]


def survey(
    benchmark: Benchmark,
    keys: Sequence[str],
    data_dir: Path,
    decode: bool = False,
    progress: Callable[[str], None] = lambda key: None,
) -> list[Finding]:
    """Look at these data sets of a benchmark.

    Args:
        decode: decode every image too, which takes minutes.
        progress: called with the key of a data set before it is looked at.
    """
    findings = []
    for key in keys:
        progress(key)
        findings.append(_look(benchmark.data_sets[key], data_dir, decode))
    return findings


def _look(data_set: DataSet, data_dir: Path, decode: bool) -> Finding:
    expected = dict(data_set.sizes)
    try:
        listing = data_set.list(data_dir)
    except UserError as error:
        there = any(os.path.isdir(data_dir / folder) for folder in data_set.folders)
        return Finding(data_set.key, "partial" if there else "missing", {}, expected, (str(error),), ())
    counts = {split: len(listing.splits[split].inputs) for split in data_set.sizes}
    # Names in annotation files may hold anything, and a fault is one line.
    faults = [visible(line) for line in (*listing.absent, *_damaged(data_set, listing, decode))]
    state: Literal["present", "partial"] = "present" if not faults and counts == expected else "partial"
    return Finding(data_set.key, state, counts, expected, tuple(faults), listing.marks)


def _damaged(data_set: DataSet, listing: Listing, decode: bool) -> list[str]:
    lines = []
    for split in data_set.sizes:
        for image in listing.splits[split].inputs:
            if (
                isinstance(image, ImageFile)
                and os.path.isfile(image.name)
                and not os.path.getsize(image.name)
            ):
                lines.append(f"{image.name} is empty")
            elif decode and isinstance(image, ImageInput) and (fault := _fault(image)):
                lines.append(fault)
    return lines


def _fault(image: ImageInput) -> str | None:
    try:
        image.open()
    except UserError as error:
        return str(error)
    return None
