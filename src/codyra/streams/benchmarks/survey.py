"""What of a benchmark's data lies on this machine (`codyra data verify`); nothing is written."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Literal

from codyra.errors import UserError, visible
from codyra.streams.answers import AnswerRecords, count_repeated
from codyra.streams.benchmarks.definition import Benchmark, Split
from codyra.streams.benchmarks.image_sets import ImageBenchmark, ImageSet
from codyra.streams.benchmarks.trace import FILES, AnswerBenchmark, AnswerSet
from codyra.streams.images import ImageFile, ImageInput


@dataclass(frozen=True)
class Finding:
    """What was found of one data set.

    Attributes:
        state: "present" (all of it, in the published number), "partial", or "missing".
        counts: examples of each split that are there and not at fault; none when the data set cannot be listed.
        expected: examples of each split as published.
        faults: one line for each file at fault; with what to get when the data set is missing.
        marks: what every run on it will say of itself, and examples that are in two splits.
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
        if isinstance(benchmark, ImageBenchmark):
            findings.append(_look_at_images(benchmark.data_sets[key], data_dir, decode))
        elif isinstance(benchmark, AnswerBenchmark):
            findings.append(_look_at_answers(benchmark.data_sets[key], data_dir))
    return findings


def _look_at_answers(data_set: AnswerSet, data_dir: Path) -> Finding:
    expected = dict(data_set.sizes)
    try:
        folder = data_set.find(data_dir)
    except UserError as error:
        return Finding(data_set.key, "missing", {}, expected, (str(error),), ())
    found: dict[Split, AnswerRecords] = {}
    faults = []
    for split in FILES:
        if split not in expected and not (folder / FILES[split]).exists():
            continue
        try:
            found[split] = data_set.read(folder, split)
            faults += data_set.faults(found[split], split)
        except (UserError, OSError) as error:
            faults.append(str(error))
    counts = {split: len(records.prompts) for split, records in found.items()}
    complete = not faults and all(counts.get(split) == size for split, size in expected.items())
    marks = [
        f"prompts of {other} that are also in {split}: {repeated:,} of {counts[other]:,}"
        for split, other in combinations(found, 2)
        if (repeated := count_repeated(found[other].prompts, found[split].prompts))
    ]
    state: Literal["present", "partial"] = "present" if complete else "partial"
    return Finding(data_set.key, state, counts, expected, tuple(map(visible, faults)), tuple(marks))


def _look_at_images(data_set: ImageSet, data_dir: Path, decode: bool) -> Finding:
    expected = dict(data_set.sizes)
    try:
        listing = data_set.list(data_dir)
    except UserError as error:
        there = any(os.path.isdir(data_dir / folder) for folder in data_set.folders)
        return Finding(data_set.key, "partial" if there else "missing", {}, expected, (str(error),), ())
    counts, faults = {}, [*listing.absent.values(), *listing.faults]
    for split in (split for split in data_set.sizes if split in listing.splits):
        images = [image for image in listing.splits[split].inputs if isinstance(image, ImageInput)]
        with ThreadPoolExecutor() as pool:  # Pillow decodes outside Python's lock
            present = [image for image in images if image.name not in listing.absent]
            found = list(pool.map(partial(_fault, decode=decode), present))
        counts[split] = found.count(None)
        faults += [fault for fault in found if fault is not None]
    state: Literal["present", "partial"] = "present" if not faults and counts == expected else "partial"
    # Names in annotation files may hold anything, and a fault is one line.
    lines = tuple(visible(fault) for fault in faults)
    return Finding(data_set.key, state, counts, expected, lines, listing.marks)


def _fault(image: ImageInput, decode: bool) -> str | None:
    if isinstance(image, ImageFile) and not os.path.getsize(image.name):
        return f"{image.name} is empty"
    if decode:
        try:
            image.open()
        except UserError as error:
            return str(error)
    return None
