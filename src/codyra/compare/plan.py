"""What is compared: methods with their options, seeds, and the config that they share; kept in DIR/compare.yaml."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from codyra import files
from codyra.engine.config import RunConfig, load_config
from codyra.engine.folder import RunFolder, comparable, first_difference
from codyra.engine.lock import LOCK
from codyra.errors import UserError
from codyra.methods import method_names, option_names
from codyra.naming import did_you_mean
from codyra.reading import MAX_YAML_BYTES, checked, damaged, parse_yaml, read_text, within

PLAN, PAGE, MARKDOWN, CSV = "compare.yaml", "compare.html", "table.md", "table.csv"
"""What stands in the folder beside those of the methods."""
FORMAT = 1
MAX_LABEL = 100
DEFAULT_SEEDS = (0, 1, 2)
OWN_OF_TRAINING = "lr"
"""The one key of `train` that a method may have for itself; all others are the budget, or how it is spent."""


@dataclass(frozen=True)
class Entry:
    """One row: a method with options of its own, as `text` was written; `overrides` are its `a.b=c`, method.name first.

    `label` is what follows ` as ` in the text, else the text; `folder` is below the comparison's.
    """

    text: str
    label: str
    overrides: tuple[str, ...]

    @property
    def method(self) -> str:
        return self.overrides[0].partition("=")[2]

    @property
    def folder(self) -> str:
        """The label with every character that a shell or a file system may read as its own replaced."""
        return re.sub(r"[^A-Za-z0-9._=+-]+", "-", self.label)


@dataclass(frozen=True)
class Job:
    """One run: a method and a seed. `file` holds its whole config, `log` what its process prints."""

    label: str
    seed: int
    config: RunConfig
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.label}, seed {self.seed}"

    @property
    def file(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.yaml")

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def num_tasks(self) -> int:
        return len(self.config.stream.chosen())

    @property
    def num_finished_tasks(self) -> int:
        return RunFolder(self.folder).finished_tasks([task.name for task in self.config.stream.chosen()])

    @property
    def finished(self) -> bool:
        return RunFolder(self.folder).is_finished()


@dataclass(frozen=True)
class Own:
    """What an entry does not share with the others: the method with all its options, and the learning rate."""

    method: dict[str, Any]
    lr: float


@dataclass(frozen=True)
class Stored:
    """compare.yaml: `config` and `methods` as they were given, `shared` everything that is the same for all runs."""

    format: int
    config: str
    reference: str
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    own: dict[str, Own]
    shared: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """A comparison that passed every check which needs no model and no data."""

    folder: Path
    stored: Stored
    jobs: tuple[Job, ...]
    """Every method with every seed: seed by seed, so that what is there of an interrupted comparison is balanced."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the rows, in their order."""
        return tuple(self.stored.own)

    def write(self) -> None:
        """compare.yaml, and the config of every run that is to do."""
        content = yaml.safe_dump(_plain(asdict(self.stored)), sort_keys=False, allow_unicode=True)
        files.write_text(self.folder / PLAN, content)
        for job in self.jobs:
            if not job.finished:
                files.write_text(job.file, job.config.to_yaml())


def plan_comparison(
    source: str,
    methods: str | None = None,
    seeds: Sequence[int] = (),
    out: Path | None = None,
    *,
    overrides: Sequence[str] = (),
    reference: str | None = None,
) -> Comparison:
    """Put together what is asked for and what the folder has already.

    Args:
        source: a YAML file or the name of a preset.
        methods: names with commas between them, each with options as `:key=value`.
        seeds: of every method; those of the comparison that is there by default, else DEFAULT_SEEDS.
        out: the folder; runs/<config name>-compare by default. A comparison that is there gets further methods and
            seeds, if any are given.
        overrides: `a.b=c` for every method.
        reference: label of the method that the others are compared with; by default the one of the comparison that is
            there, else codyra, else the first.

    Raises:
        UserError: the first thing that is wrong; nothing was written.
    """
    _check_overrides(overrides)
    of_methods = [override for override in overrides if override.startswith("method.")]
    shared_overrides = [override for override in overrides if override not in of_methods]
    given = load_config(source, shared_overrides)
    folder = out if out is not None else Path("runs") / f"{given.name}-compare"
    before = _read(folder)
    known = _known_methods(folder, before) if before else []
    if methods is None and not known:
        raise UserError(
            f"--methods: {folder} holds no comparison yet; name its methods, as in codyra,lora:r=16"
        )
    known_texts = [entry.text for entry in known]
    more = parse_methods(methods) if methods is not None else []
    entries = [*known, *(entry for entry in more if entry.text not in known_texts)]
    labels = [entry.label for entry in entries]
    _check_labels(labels)
    _check_folders(entries)
    _check_options(of_methods, entries)
    all_seeds = tuple(dict.fromkeys([*(before.seeds if before else ()), *seeds])) or DEFAULT_SEEDS
    if reference is None and before and before.reference in labels:
        reference = before.reference
    if reference is None:
        reference = "codyra" if "codyra" in labels else labels[0]
    if reference not in labels:
        raise UserError(f"--reference: {reference!r} is none of the methods{did_you_mean(reference, labels)}")

    own: dict[str, Own] = {}
    jobs: dict[tuple[int, str], Job] = {}
    for entry in entries:
        for seed in all_seeds:
            try:
                own_overrides = [entry.overrides[0], *_fitting(of_methods, entry), *entry.overrides[1:]]
                config = load_config(source, [*shared_overrides, *own_overrides, f"seed={seed}"])
            except UserError as error:
                raise UserError(f"--methods {entry.label}: {error}") from None
            place = folder / entry.folder / f"seed-{seed}"
            jobs[seed, entry.label] = Job(entry.label, seed, config, place)
            own[entry.label] = Own(config.method.model_dump(mode="json"), config.train.lr)
    ordered = tuple(jobs[seed, label] for seed in all_seeds for label in labels)
    shared = _shared(ordered[0].config)
    texts = tuple(entry.text for entry in entries)
    stored = Stored(FORMAT, source, reference, all_seeds, texts, own, shared)
    if before:
        _check_same(folder, before, stored)
    for job in ordered:
        RunFolder(job.folder).check_config(job.config)
    return Comparison(folder, stored, ordered)


def _known_methods(folder: Path, before: Stored) -> list[Entry]:
    try:
        known = parse_methods(",".join(before.methods))
    except UserError as error:
        damaged(within(folder, PLAN), str(error))
    if {entry.label for entry in known} != set(before.own):
        damaged(within(folder, PLAN), "`methods` and `own` do not name the same rows")
    return known


def parse_methods(text: str) -> list[Entry]:
    """`codyra,lora:r=4,full:train.lr=1e-5` as entries.

    Raises:
        UserError: a method that does not exist, one that stands twice, an option that is not the method's own.
    """
    entries = [_parse_entry(word.strip()) for word in _split(text, ",")]
    _check_labels([entry.label for entry in entries])
    return entries


def _parse_entry(text: str) -> Entry:
    written, _, alias = (
        (part.strip() for part in text.rpartition(" as ")) if " as " in text else (text, "", "")
    )
    label = alias or text
    if not written or len(label) > MAX_LABEL or not text.isprintable():
        raise UserError(
            f"--methods: {text!r} is no method; write names with commas between them, as in codyra,lora:r=16, and a "
            f"label of at most {MAX_LABEL} characters behind a longer one, as in lora:r=16 as small"
        )
    name, *options = _split(written, ":")
    if name not in method_names():
        raise UserError(f"--methods {label}: there is no method {name!r}{did_you_mean(name, method_names())}")
    overrides = [f"method.name={name}"]
    keys: set[str] = set()
    for option in options:
        key, equals, value = option.partition("=")
        if key in keys:
            raise UserError(f"--methods {label}: {key} is given twice")
        keys.add(key)
        if not equals or not key or not value:
            raise UserError(f"--methods {label}: {option!r} is no option; write key=value, as in {name}:r=16")
        if "." in key:
            if key != f"train.{OWN_OF_TRAINING}":
                raise UserError(
                    f"--methods {label}: {key} is the same for every method; a method has options of its own and "
                    f"train.{OWN_OF_TRAINING}, the rest is changed for all with --set {key}={value}"
                )
            overrides.append(f"{key}={value}")
        elif key not in _options(name):
            raise UserError(
                f"--methods {label}: {name} has no option {key!r}{did_you_mean(key, _options(name))}"
            )
        else:
            overrides.append(f"method.{key}={value}")
    return Entry(text, label, tuple(overrides))


def _options(name: str) -> list[str]:
    return [option for option in option_names(name) if option != "name"]


def _fitting(overrides: Iterable[str], entry: Entry) -> list[str]:
    """Those of `method.option=value` whose option the method of the entry has."""
    return [override for override in overrides if _option_of(override) in _options(entry.method)]


def _option_of(override: str) -> str:
    return override.partition("=")[0].removeprefix("method.").partition(".")[0]


def _split(text: str, sign: str) -> list[str]:
    """`text` cut at every `sign` that is not inside brackets: a value may be a list."""
    parts, depth = [""], 0
    for char in text:
        depth += (char in "[{") - (char in "]}")
        if char == sign and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _check_overrides(overrides: Iterable[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0]
        if key in ("seed", "method.name"):
            what = "--seeds" if key == "seed" else "--methods"
            raise UserError(f"--set {override}: a comparison takes this from {what}")


def _check_options(overrides: Iterable[str], entries: Sequence[Entry]) -> None:
    for override in overrides:
        if not any(_fitting([override], entry) for entry in entries):
            options = {option for entry in entries for option in _options(entry.method)}
            near = did_you_mean(_option_of(override), sorted(options))
            raise UserError(
                f"--set {override}: none of the methods has an option {_option_of(override)!r}{near}"
            )


def _check_labels(labels: Sequence[str]) -> None:
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(
                f"--methods: {label!r} stands twice, or is the label of a row that is there with other options; give "
                "each once, with a label of its own"
            )


def _check_folders(entries: Sequence[Entry]) -> None:
    by_folder: dict[str, str] = {}
    for entry in entries:
        if not entry.folder.strip(".") or entry.folder.casefold() in (PLAN, PAGE, MARKDOWN, CSV, LOCK):
            raise UserError(
                f"--methods: {entry.label!r} cannot be the name of a folder here; use another label"
            )
        other = by_folder.setdefault(entry.folder.casefold(), entry.label)
        if other != entry.label:
            raise UserError(
                f"--methods: {other} and {entry.label} would share the folder {entry.folder}; write one differently"
            )


def _shared(config: RunConfig) -> dict[str, Any]:
    content = comparable(config)
    del content["method"], content["seed"], content["train"][OWN_OF_TRAINING]
    return content


def _read(folder: Path) -> Stored | None:
    """The comparison that is in the folder; None for a new one.

    Raises:
        UserError: the folder holds something else, or its plan is damaged.
    """
    file = within(folder, PLAN)
    if not file.is_file():
        if folder.exists() and (
            not folder.is_dir()
            or any(path.name != LOCK and not files.is_temporary(path.name) for path in folder.iterdir())
        ):
            raise UserError(f"{folder}: exists and is no comparison; choose another --out")
        return None
    try:
        content = parse_yaml(read_text(file, MAX_YAML_BYTES))
    except ValueError as error:
        damaged(file, str(error))
    if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
        raise UserError(f"{file} has format {content['format']!r}, this codyra reads {FORMAT}; update codyra")
    return checked(Stored, content, file)


def _check_same(folder: Path, before: Stored, now: Stored) -> None:
    difference = first_difference(before.shared, _plain(now.shared))
    if difference is None:
        for label, own in before.own.items():
            if found := first_difference(_plain(asdict(own)), _plain(asdict(now.own[label]))):
                difference = f"{label}: {found}"
                break
    if difference:
        raise UserError(
            f"{folder}: holds a comparison on another config ({difference}); give the config and --set of that one, or "
            "choose another --out"
        )


def _plain(content: Any) -> Any:
    """Tuples as lists, which is how YAML gives them back."""
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    return [_plain(value) for value in content] if isinstance(content, list | tuple) else content
