"""Tasks: what is learnt one after another, complete except for the decoding of images."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import PIL

from codyra import cache
from codyra.errors import UserError
from codyra.naming import did_you_mean
from codyra.streams.answers import AnswerSource
from codyra.streams.images import ImageInput
from codyra.streams.instructions import InstructionTask, build_instruction_task
from codyra.streams.kinds import Kind, check_kind
from codyra.streams.records import Modality, Records, Source
from codyra.streams.shots import choose_shots, draw_test
from codyra.streams.sources import load_answers, load_source
from codyra.streams.spec import StreamSpec, TaskSpec, check_prompt

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Split:
    """Examples of one task: texts, or images that decode when opened, and for each the index of its class.

    `fingerprint` is a SHA-256 over exactly these texts, or the digests of exactly these images, in order.
    """

    inputs: Sequence[str | ImageInput]
    labels: tuple[int, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Task:
    """One task of classes, ready to be learnt and scored.

    Attributes:
        class_names: in label order.
        prompts: one rendered prompt per class, which training uses.
        prompt: the template they come from.
        scored_prompts: per class the rendered prompts that score together; the one of `prompts` without ensemble.
        ensemble: the templates they come from; () without.
        train: the few-shot choice in the order drawn, or all examples in file order.
        test: the examples of the scored split, in file order.
        shots: content of shots.json: seed, dataset, shots, and positions (null: all), which count from 0 in
            the whole train split in file order, classes that the task does not use included.
        source: `data` of the config.
        fingerprint: SHA-256 that changes with the data, see `Source.fingerprint`.
        marks: in which way the data are not those that a benchmark means.
    """

    name: str
    modality: Modality
    class_names: tuple[str, ...]
    prompts: tuple[str, ...]
    prompt: str
    scored_prompts: tuple[tuple[str, ...], ...]
    ensemble: tuple[str, ...]
    train: Split
    test: Split
    shots: dict[str, Any]
    source: str
    fingerprint: str
    marks: tuple[str, ...]


def build_stream(
    spec: StreamSpec,
    *,
    kind: Kind = "classes",
    seed: int,
    default_prompt: str,
    data_dir: Path | None = None,
    root: Path = Path(),
    stored_shots: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Task] | list[InstructionTask]:
    """Read the tasks of a stream and check everything that can be checked without a model or decoding images.

    Args:
        kind: what the model can be asked: for a class, or for the answer to a prompt.
        seed: keys the few-shot choice.
        default_prompt: template of tasks that name none.
        data_dir: replaces `${data_dir}`.
        root: where relative paths start.
        stored_shots: contents of shots.json by task name; they win over the generator (a continued run).

    Raises:
        UserError: the data of a task are missing, damaged or do not fit its spec, or the stream is of another kind.
    """
    check_kind(spec, kind)
    where, stored = (spec.score_split, data_dir, root), stored_shots or {}

    def with_classes(task: TaskSpec, source: Source) -> Task:
        return _build_task(task, source, seed, default_prompt, stored.get(task.name))

    def with_answers(task: TaskSpec, source: AnswerSource) -> InstructionTask:
        return build_instruction_task(task, spec, source, seed, default_prompt, stored.get(task.name))

    if kind == "answers":
        return _build_each(spec.chosen(), lambda task: load_answers(task, *where), with_answers)
    return _build_each(spec.chosen(), lambda task: load_source(task, *where), with_classes)


def _build_each(
    specs: Iterable[TaskSpec], load: Callable[[TaskSpec], S], build: Callable[[TaskSpec, S], T]
) -> list[T]:
    tasks = []
    sources: dict[str, S] = {}  # five tasks may share one folder: list and hash it once
    for spec in specs:
        try:
            origin = repr((spec.data, spec.columns, spec.splits))
            if origin not in sources:
                sources[origin] = load(spec)
            tasks.append(build(spec, sources[origin]))
        except UserError as error:
            raise UserError(f"task '{spec.name}': {error}") from error
    return tasks


def _build_task(
    spec: TaskSpec,
    source: Source,
    seed: int,
    default_prompt: str,
    stored: Mapping[str, Any] | None,
) -> Task:
    class_names = _class_names(source, spec.classes)
    of_train, of_test = (
        _positions(records, class_names, source.empty_classes) for records in (source.train, source.test)
    )
    if spec.shots is not None and not spec.allow_fewer:
        fewest = min(range(len(class_names)), key=lambda index: len(of_train[index]))
        if len(of_train[fewest]) < spec.shots:
            raise UserError(
                f"class '{class_names[fewest]}' has {len(of_train[fewest])} training examples, fewer than "
                f"shots: {spec.shots}; lower shots or set allow_fewer: true"
            )
    shots, chosen = choose_shots(of_train, seed=seed, dataset=spec.name, shots=spec.shots, stored=stored)
    scored = draw_test(_file_order(of_test), seed=seed, dataset=spec.name, count=spec.test_examples)
    prompt = default_prompt if spec.prompt is None else spec.prompt
    prompts = _render(prompt, class_names, spec.underscores)
    ensemble = tuple(spec.ensemble or ())
    rendered = [_render(template, class_names, spec.underscores) for template in ensemble] or [prompts]
    return Task(
        name=spec.name,
        modality=source.modality,
        class_names=class_names,
        prompts=prompts,
        prompt=prompt,
        scored_prompts=tuple(zip(*rendered, strict=True)),
        ensemble=ensemble,
        train=_split(source.train, class_names, _file_order(of_train) if chosen is None else chosen),
        test=_split(source.test, class_names, scored),
        shots=shots,
        source=spec.data,
        fingerprint=source.fingerprint,
        marks=source.marks,
    )


def _class_names(source: Source, selected: list[str] | None) -> tuple[str, ...]:
    if not source.class_names:
        raise UserError(f"{source.train.place} is empty; a task needs training examples")
    known = set(source.class_names)
    if selected is None:
        for label in source.test.labels:
            if label not in known:
                raise UserError(
                    f"{source.test.place} has the label '{label}', which {source.train.place} lacks; "
                    "mend the data or select with classes:"
                )
        return source.class_names
    for name in selected:
        if name not in known:
            raise UserError(f"classes: no class '{name}'{did_you_mean(name, source.class_names)}")
    return tuple(selected)


def _positions(records: Records, class_names: tuple[str, ...], may_be_empty: bool) -> list[list[int]]:
    """Positions of the examples of each class, in file order."""
    positions: dict[str, list[int]] = {name: [] for name in class_names}
    for position, label in enumerate(records.labels):
        if label in positions:
            positions[label].append(position)
    for name, of_class in positions.items():
        if not of_class and not may_be_empty:
            raise UserError(
                f"class '{name}' has no example in {records.place}; add some or select with classes:"
            )
    return list(positions.values())


def _file_order(positions: list[list[int]]) -> list[int]:
    return sorted(position for of_class in positions for position in of_class)


def _split(records: Records, class_names: tuple[str, ...], positions: list[int]) -> Split:
    index = {name: number for number, name in enumerate(class_names)}
    return Split(
        inputs=tuple(records.inputs[position] for position in positions),
        labels=tuple(index[records.labels[position]] for position in positions),
        fingerprint=hashlib.sha256(
            json.dumps([records.digests[position] for position in positions]).encode()
        ).hexdigest(),
    )


def _render(
    prompt: str, class_names: tuple[str, ...], underscores: Literal["spaces", "keep"]
) -> tuple[str, ...]:
    """One prompt per class; names of files and columns write spaces as underscores."""
    names = [name.replace("_", " ") for name in class_names] if underscores == "spaces" else class_names
    return tuple(check_prompt(prompt).replace("{}", name) for name in names)


class Inputs(Protocol):
    """Texts or images, and a SHA-256 over exactly these."""

    @property
    def inputs(self) -> Sequence[str | ImageInput]: ...

    @property
    def fingerprint(self) -> str: ...


def check_images(parts: Iterable[Inputs], progress: Callable[[int], None] | None = None) -> None:
    """Decode every image that is trained on once, so that a broken one is found before the first step.

    That the images of a part were found sound is noted in the machine's cache and not checked again.

    Args:
        progress: called with how many more examples are known to be readable.

    Raises:
        UserError: an image cannot be decoded; the message names it.
    """
    progress = progress or (lambda more: None)
    checked: set[str | ImageInput] = set()
    for part in parts:
        # Another Pillow may read fewer formats.
        key = hashlib.sha256(f"{PIL.__version__} {part.fingerprint}".encode()).hexdigest()
        todo = [] if cache.is_noted(key) else [item for item in part.inputs if item not in checked]
        images = list(dict.fromkeys(item for item in todo if isinstance(item, ImageInput)))
        progress(len(part.inputs) - len(images))
        pool = ThreadPoolExecutor()  # Pillow decodes outside Python's lock
        try:
            for _ in pool.map(_decode, images):
                progress(1)
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the images still in the queue
        if images:
            cache.note(key)
        checked.update(images)


def _decode(image: ImageInput) -> None:
    image.open()


def shared_prompts(tasks: Iterable[Task]) -> list[dict[str, Any]]:
    """Prompts that two or more classes of all tasks are scored by, {"prompt": ..., "classes": ["task/class", ...]}.

    Of an ensemble the first prompt is named.
    """
    classes: dict[tuple[str, ...], list[str]] = {}
    for task in tasks:
        for prompts, class_name in zip(task.scored_prompts, task.class_names, strict=True):
            classes.setdefault(prompts, []).append(f"{task.name}/{class_name}")
    return [{"prompt": prompts[0], "classes": names} for prompts, names in classes.items() if len(names) > 1]
