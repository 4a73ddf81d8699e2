"""The `data:` grammar: imagefolder:DIR, csv:DIR, json:DIR, parquet:DIR, hf:DIR, hf:org/name@revision, and
xtail:DIR/KEY and mtil:DIR/KEY for the data sets of a benchmark.
"""

import os
import re
from pathlib import Path
from typing import Literal

from codyra.errors import UserError
from codyra.streams.benchmarks import BENCHMARKS, read_data_set
from codyra.streams.folders import read_folder
from codyra.streams.hub import read_dataset
from codyra.streams.records import Source, renamed, without
from codyra.streams.spec import TaskSpec
from codyra.streams.tables import read_table


def load_source(
    spec: TaskSpec, score_split: Literal["test", "val"], data_dir: Path | None, root: Path
) -> Source:
    """Read what `spec.data` names: paths of images, contents of tables.

    Args:
        score_split: the split that is read as the test split.
        data_dir: replaces `${data_dir}`.
        root: where relative paths start.

    Raises:
        UserError: whatever is missing or damaged, with its place.
    """
    kind, _, location = _fill_in(spec.data, data_dir).partition(":")
    location = os.path.expanduser(location)
    defaults = {"train": "train", "test": "test", "val": "validation" if kind == "hf" else "val"}
    train, test = (spec.splits.get(split, defaults[split]) for split in ("train", score_split))
    if kind in BENCHMARKS:
        return read_data_set(BENCHMARKS[kind], root / location, score_split)
    if kind == "hf":
        source = read_dataset(location, root, train, test, spec.columns)
        return source if spec.naming is None else _named_as(spec.naming, source)
    folder = root / location
    try:
        if not folder.is_dir():
            raise UserError(f"no folder {folder}; relative paths in data: start at {root.absolute()}")
        if kind == "imagefolder":
            return read_folder(folder, train, test)
        text, label = spec.columns.get("text", "text"), spec.columns.get("label", "label")
        return read_table(kind, folder, train, test, text, label)
    except OSError as error:
        raise UserError(f"cannot read {error.filename or folder}: {error.strerror or error}") from error


def _named_as(naming: str, source: Source) -> Source:
    """The source with the class names that a data set of a benchmark has."""
    name, _, key = naming.partition("/")
    data_set = BENCHMARKS[name].data_sets[key]
    source = without(source, data_set.left_out)
    if len(source.class_names) != data_set.num_classes:
        raise UserError(
            f"{source.train.place} has {len(source.class_names)} classes, {naming} has {data_set.num_classes}"
        )
    return renamed(source, data_set.rename)


def _fill_in(data: str, data_dir: Path | None) -> str:
    if "${data_dir}" in data and data_dir is None:
        raise UserError(f"data: {data} needs a folder; give it with --set data_dir=...")
    filled = data.replace("${data_dir}", str(data_dir))
    unknown = re.search(r"\$\{[^}]*\}", filled)
    if unknown:
        raise UserError(
            f"data: {data} has the unknown variable {unknown.group()}; only ${{data_dir}} is replaced"
        )
    return filled
