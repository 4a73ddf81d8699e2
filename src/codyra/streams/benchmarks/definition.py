"""What every benchmark is made of: an order of data sets, and where each may lie on disk."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from codyra.errors import UserError

Split = Literal["train", "val", "test"]


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set of a benchmark.

    Attributes:
        key: name of its task.
        sizes: examples of each split, as published.
        folders: where it may lie below the data folder, the usual place first.
        holds: of which the folder must have one in it to be the right one, relative to it.
        download: project that hands the data out and the files to take from there.
    """

    key: str
    sizes: Mapping[Split, int]
    folders: tuple[str, ...]
    holds: tuple[str, ...]
    download: str

    def look_for(self, data_dir: Path) -> Path | None:
        """The folder of this data set; None where none of the accepted places holds it."""
        places = (data_dir / folder for folder in self.folders)
        # Unlike Path's it answers False where something may not be looked at.
        return next(
            (place for place in places if any(os.path.exists(place / held) for held in self.holds)), None
        )

    def find(self, data_dir: Path) -> Path:
        """The folder of this data set.

        Raises:
            UserError: it is in none of the accepted places.
        """
        if place := self.look_for(data_dir):
            return place
        there = next((data_dir / folder for folder in self.folders if os.path.isdir(data_dir / folder)), None)
        if there is not None:
            raise UserError(f"{there} has no {' or '.join(self.holds)}; get {self.download}")
        raise UserError(f"{data_dir} has no {' or '.join(self.folders)}; get {self.download}")


@dataclass(frozen=True, kw_only=True)
class Benchmark(ABC):
    """An ordered list of data sets and the rules by which they are learnt and scored.

    Attributes:
        name: what `data:` calls its data sets by, in NAME:DIR/KEY.
        defaults: keys of `stream:` that make this benchmark what it is, where a config does not say otherwise.
        published: values of those keys under which results were published; others mark a run.
        orders: keys of the data sets in each published order, by number.
    """

    name: str
    title: str
    data_sets: Mapping[str, DataSet]
    defaults: Mapping[str, Any]
    published: Mapping[str, Sequence[Any]]
    orders: Mapping[int, Sequence[str]]

    @abstractmethod
    def task_keys(self, section: Mapping[str, Any], key: str) -> dict[str, Any]:
        """What a config says of the task of this data set, beside its name and where the data are.

        Args:
            section: the `stream:` section, with the benchmark's defaults.

        Raises:
            ValueError: the section asks for what the benchmark has not.
        """


def size_marks(data_set: DataSet, found: Mapping[Split, int], what: str) -> list[str]:
    """In words, that these splits have more or fewer examples than published; `what` they are called."""
    if all(data_set.sizes.get(split, count) == count for split, count in found.items()):
        return []
    counts = [
        (split, count, data_set.sizes[split]) for split, count in found.items() if split in data_set.sizes
    ]
    return [", ".join(f"{split} {count:,} of {published:,} {what}" for split, count, published in counts)]
