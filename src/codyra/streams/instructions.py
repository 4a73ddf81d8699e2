"""Tasks of a language model: prompts, and the answers it learns to give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from codyra.errors import UserError
from codyra.streams.answers import AnswerRecords, AnswerSource, Prompt, count_repeated, examples_sha256
from codyra.streams.shots import choose_shots, draw_test
from codyra.streams.spec import StreamSpec, TaskSpec


@dataclass(frozen=True)
class AnswerSplit:
    """Examples of one task: finished prompts and their answers.

    `fingerprint` is a SHA-256 over exactly these prompts and answers, in order.
    """

    inputs: tuple[Prompt, ...]
    answers: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class InstructionTask:
    """One task of prompts and answers, ready to be learnt and scored.

    Attributes:
        prompt: the template that the records' prompts were put into.
        train: the few-shot choice in the order drawn, or all records in file order.
        test: the records of the scored split, in file order.
        shots: content of shots.json: seed, dataset, shots, and positions in the train split (null: all).
        source: `data` of the config.
        fingerprint: SHA-256 that changes with the data, see `AnswerSource.fingerprint`.
        marks: in which way the data are not those that a benchmark means.
        notes: what else the data have that a reader of the scores should know, one line each.
        metric: name in `codyra.text_metrics`.
        choices: the answers that are compared by likelihood; () when an answer is generated.
        max_new_tokens: a generated answer ends there.
        frame: beginning and end of every prompt, which stay when a long one is cut; ("", "") where unknown.
    """

    name: str
    prompt: str
    train: AnswerSplit
    test: AnswerSplit
    shots: dict[str, Any]
    source: str
    fingerprint: str
    marks: tuple[str, ...]
    notes: tuple[str, ...]
    metric: str
    choices: tuple[str, ...]
    max_new_tokens: int
    frame: tuple[str, str]
    modality: Literal["answers"] = "answers"


def build_instruction_task(
    spec: TaskSpec,
    stream: StreamSpec,
    source: AnswerSource,
    seed: int,
    default_prompt: str,
    stored: Mapping[str, Any] | None,
) -> InstructionTask:
    """Draw the shots of a task and finish its prompts.

    Args:
        stored: content of shots.json, which wins over the generator.

    Raises:
        UserError: a split is empty, there are fewer records than shots, or the config does not fit the records.
    """
    for records in (source.train, source.test):
        if not records.prompts:
            raise UserError(f"{records.place} is empty; a task needs records to learn and to be scored on")
    every = range(len(source.train.prompts))
    if spec.shots is not None and spec.shots > len(every) and not spec.allow_fewer:
        raise UserError(
            f"{source.train.place} has {len(every)} records, fewer than shots: {spec.shots}; lower shots or set "
            "allow_fewer: true"
        )
    shots, chosen = choose_shots([every], seed=seed, dataset=spec.name, shots=spec.shots, stored=stored)
    scored = draw_test(
        range(len(source.test.prompts)), seed=seed, dataset=spec.name, count=spec.test_examples
    )
    template = default_prompt if spec.prompt is None else spec.prompt
    if any(isinstance(prompt, tuple) for prompt in source.train.prompts):
        for key in ("prompt", "frame"):
            if getattr(spec, key) is not None:
                raise UserError(f"{key}: has no meaning for messages, which hold all of a prompt; remove it")
    train = _split(source.train, every if chosen is None else chosen, template)
    test = _split(source.test, scored, template)
    head, tail = (template if spec.frame is None else spec.frame).split("{}")
    choices = tuple(spec.choices or ())
    return InstructionTask(
        name=spec.name,
        prompt=template,
        train=train,
        test=test,
        shots=shots,
        source=spec.data,
        fingerprint=source.fingerprint,
        marks=source.marks,
        notes=tuple(_notes(train, test, (head, tail), choices)),
        metric="accuracy_prefix" if (spec.metric, stream.accuracy) == ("accuracy", "prefix") else spec.metric,
        choices=choices,
        max_new_tokens=stream.max_answer_tokens if spec.max_new_tokens is None else spec.max_new_tokens,
        frame=(head, tail),
    )


def _split(records: AnswerRecords, positions: Sequence[int], template: str) -> AnswerSplit:
    prompts = [records.prompts[position] for position in positions]
    inputs = tuple(
        template.replace("{}", prompt) if isinstance(prompt, str) else prompt for prompt in prompts
    )
    answers = tuple(records.answers[position] for position in positions)
    return AnswerSplit(inputs, answers, examples_sha256(inputs, answers))


def _notes(
    train: AnswerSplit, test: AnswerSplit, frame: tuple[str, str], choices: Sequence[str]
) -> list[str]:
    head, tail = frame
    lines = []
    if repeated := count_repeated(test.inputs, train.inputs):
        lines.append(f"{repeated:,} of {len(test):,} test prompts are also in train")
    both = (*train.inputs, *test.inputs)
    outside = sum(
        isinstance(prompt, str) and not (prompt.startswith(head) and prompt.endswith(tail)) for prompt in both
    )
    if outside:
        lines.append(f"{outside:,} of {len(both):,} prompts do not begin and end as frame: says")
    if choices and (other := sum(not answer.strip().startswith(tuple(choices)) for answer in test.answers)):
        lines.append(f"{other:,} of {len(test):,} test answers begin with none of the choices")
    return lines
