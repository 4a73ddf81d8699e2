"""The `data:` grammar: imagefolder:DIR, csv:DIR, json:DIR, parquet:DIR, hf:DIR, hf:org/name@revision, and
xtail:DIR/KEY, mtil:DIR/KEY, trace:DIR/KEY and trace-5000:DIR/KEY for the data sets of a benchmark.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from codyra.errors import UserError
from codyra.streams.answers import AnswerSource, answer_records, record_columns
from codyra.streams.benchmarks import (
    BENCHMARKS,
    AnswerBenchmark,
    ImageBenchmark,
    read_answer_set,
    read_image_set,
)
from codyra.streams.folders import read_folder
from codyra.streams.hub import open_dataset, read_dataset
from codyra.streams.records import Source, renamed, text_source, without
from codyra.streams.spec import TaskSpec
from codyra.streams.tables import open_tables

ScoreSplit = Literal["test", "val"]


@dataclass(frozen=True)
class _Place:
    """Where the data of a task are: kind of source, what stands behind the colon, where relative paths start, and
    the names of the train and the scored split.
    """

    kind: str
    location: str
    root: Path
    splits: tuple[str, str]

    @property
    def folder(self) -> Path:
        """The folder of tables or images.

        Raises:
            UserError: there is none.
        """
        folder = self.root / self.location
        if not folder.is_dir():
            raise UserError(f"no folder {folder}; relative paths in data: start at {self.root.absolute()}")
        return folder


def load_source(spec: TaskSpec, score_split: ScoreSplit, data_dir: Path | None, root: Path) -> Source:
    """Read what `spec.data` names as examples with classes: paths of images, contents of tables.

    Args:
        score_split: the split that is read as the test split.
        data_dir: replaces `${data_dir}`.
        root: where relative paths start.

    Raises:
        UserError: whatever is missing or damaged, with its place.
    """
    place = _place(spec, score_split, data_dir, root)
    try:
        benchmark = BENCHMARKS.get(place.kind)
        if isinstance(benchmark, ImageBenchmark):
            return read_image_set(benchmark, root / place.location, score_split)
        if place.kind == "hf":
            source = read_dataset(place.location, root, *place.splits, spec.columns)
            return source if spec.naming is None else _named_as(spec.naming, source)
        if place.kind == "imagefolder":
            return read_folder(place.folder, *place.splits)
        text, label = spec.columns.get("text", "text"), spec.columns.get("label", "label")
        return text_source(*open_tables(place.kind, place.folder, *place.splits), text, label)
    except OSError as error:
        raise _unreadable(error, place) from error


def load_answers(spec: TaskSpec, score_split: ScoreSplit, data_dir: Path | None, root: Path) -> AnswerSource:
    """Read what `spec.data` names as prompts and answers; takes and raises what `load_source` does."""
    place = _place(spec, score_split, data_dir, root)
    try:
        benchmark = BENCHMARKS.get(place.kind)
        if isinstance(benchmark, AnswerBenchmark):
            return read_answer_set(benchmark, root / place.location, score_split)
        if place.kind == "hf":
            tables = open_dataset(place.location, root, *place.splits)
        else:
            tables = open_tables(place.kind, place.folder, *place.splits)
        columns = record_columns(tables[0].names, spec.columns, tables[0].place)
        train, test = (answer_records(table, columns) for table in tables)
        return AnswerSource(train, test)
    except OSError as error:
        raise _unreadable(error, place) from error


def _place(spec: TaskSpec, score_split: ScoreSplit, data_dir: Path | None, root: Path) -> _Place:
    kind, _, location = fill_in("data", spec.data, data_dir).partition(":")
    defaults = {"train": "train", "test": "test", "val": "validation" if kind == "hf" else "val"}
    train, test = (spec.splits.get(split, defaults[split]) for split in ("train", score_split))
    return _Place(kind, os.path.expanduser(location), root, (train, test))


def _unreadable(error: OSError, place: _Place) -> UserError:
    return UserError(f"cannot read {error.filename or place.location}: {error.strerror or error}")


def _named_as(naming: str, source: Source) -> Source:
    """The source with the class names that a data set of a benchmark has."""
    name, _, key = naming.partition("/")
    benchmark = BENCHMARKS[name]
    assert isinstance(benchmark, ImageBenchmark)
    data_set = benchmark.data_sets[key]
    source = without(source, data_set.left_out)
    if len(source.class_names) != data_set.num_classes:
        raise UserError(
            f"{source.train.place} has {len(source.class_names)} classes, {naming} has {data_set.num_classes}"
        )
    return renamed(source, data_set.rename)


def fill_in(key: str, location: str, data_dir: Path | None) -> str:
    """`location` with `${data_dir}` replaced; `key` is where it was written.

    Raises:
        UserError: there is no such folder to put in, or another variable.
    """
    if "${data_dir}" in location and data_dir is None:
        raise UserError(f"{key}: {location} needs a folder; give it with --set data_dir=...")
    filled = location.replace("${data_dir}", str(data_dir))
    unknown = re.search(r"\$\{[^}]*\}", filled)
    if unknown:
        raise UserError(
            f"{key}: {location} has the unknown variable {unknown.group()}; only ${{data_dir}} is replaced"
        )
    return filled
