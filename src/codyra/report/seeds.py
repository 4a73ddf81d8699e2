"""Runs that differ in nothing but the seed, taken together: one row of a table, a mean and its spread."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from codyra.report.runs import LabelledRun

_NOT_THE_EXPERIMENT = ("seed", "name", "root", "data_dir", "track")
"""Keys of config.yaml that two repetitions of one experiment need not share."""
_MAX_LABEL = 60
"""Longer labels name the folder instead."""
_TOLD = {
    "r": "rank",
    "targets": "targets",
    "kappa_total": "thresholds summing to",
    "kappa_max": "threshold up to",
    "carry": "carry",
    "steps": "steps",
    "batch_size": "batch",
    "lr": "learning rate",
    "precision": "precision",
}
"""Settings of training that stand below a table, and what they and those of methods are called there."""
_UNTOLD = ("name", "text_loss")
_NEUTRAL = {"merge_scale": 1.0, "dropout": 0.0}
"""Settings of methods that say nothing, and those that do nothing at these values."""


@dataclass(frozen=True)
class Repeats:
    """Finished runs of one configuration, each with a seed of its own, or one unfinished run."""

    runs: tuple[LabelledRun, ...]
    label: str

    @property
    def seeds(self) -> list[int]:
        """The seeds in the order of the runs."""
        return [run.view.manifest.seed for run in self.runs]


def group_by_seed(runs: Sequence[LabelledRun]) -> list[Repeats]:
    """Comparable runs by configuration, labelled by method and by what tells it from others of that method.

    A run that repeats configuration and seed of another adds nothing to a mean over seeds: it is a row of its own.
    """
    groups: dict[str, list[LabelledRun]] = {}
    for run in runs:
        base = run.view.manifest.base
        key = repr((_settings(run), base.name, base.revision, base.sha256))
        repeated = any(run.view.manifest.seed == other.view.manifest.seed for other in groups.get(key, ()))
        if repeated or not run.view.finished:
            key = f"{run.label}/{key}"
        groups.setdefault(key, []).append(run)
    rows = list(groups.values())
    return [Repeats(tuple(row), _label(row[0], [other[0] for other in rows])) for row in rows]


def spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (divisor n - 1, None for one value); None where one is missing."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    return math.fsum(known) / len(known), statistics.stdev(known) if len(known) > 1 else None


def how_trained(run: LabelledRun) -> str:
    """The options of the method and of training that a reader must know to compare rows; "" for a reference."""
    if not run.trains:
        return "no gradient steps" if run.learns else ""
    method, train = (dict(_leaves(run.view.config.get(name), "")) for name in ("method", "train"))
    shown = [
        f"{_TOLD.get(key, key)} {value}"
        for key, value in method.items()
        if value is not None
        and key not in _UNTOLD
        and value != _NEUTRAL.get(key)
        and not _is_place(f"method.{key}")
    ]
    shown += [f"{name} {train[key]}" for key, name in _TOLD.items() if train.get(key) is not None]
    return ", ".join([*shown, *([f"epochs {run.epochs}"] if run.epochs is not None else [])])


def _label(run: LabelledRun, rows: Sequence[LabelledRun]) -> str:
    """The method; where several rows have it, with the settings that differ, or the folder's name if too many do."""
    method = run.view.manifest.method.name
    rivals = [_settings(other) for other in rows if other.view.manifest.method.name == method]
    own = _settings(run)
    if len(rivals) == 1:
        return method
    keys = sorted({key for rival in rivals for key in rival | own if rival.get(key) != own.get(key)})
    label = ", ".join([method, *(f"{key.removeprefix('method.')}={own.get(key)}" for key in keys)])
    return run.label if rivals.count(own) > 1 or len(label) > _MAX_LABEL else label


def _settings(run: LabelledRun) -> dict[str, Any]:
    """Every setting of config.yaml by its dotted key, but for what repetitions need not share.

    Where the data lie is left out too: comparable runs have the same data by fingerprint.
    """
    config = {key: value for key, value in run.view.config.items() if key not in _NOT_THE_EXPERIMENT}
    return {key: value for key, value in _leaves(config, "") if not _is_place(key)}


def _is_place(key: str) -> bool:
    parts = key.split(".")
    return (parts[0], parts[-1]) == ("stream", "data") or key.startswith("method.reference_")


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        value = dict(enumerate(value)) if any(isinstance(item, dict) for item in value) else value
    if not isinstance(value, dict):
        yield key, value
        return
    for name, inner in value.items():
        yield from _leaves(inner, f"{key}.{name}" if key else str(name))
