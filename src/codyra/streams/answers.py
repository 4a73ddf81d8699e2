"""Records of prompts and answers, as they come out of a table: {prompt, answer}, or {messages} of a chat."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from codyra.errors import UserError
from codyra.streams.records import Role, Table, checked_label, checked_text

Prompt = str | tuple[tuple[str, str], ...]
"""A text, or the (role, content) of each message of a chat before the answer."""

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class AnswerRecords:
    """One split in file order; `place` is for messages."""

    prompts: Sequence[Prompt]
    answers: Sequence[str]
    place: str


@dataclass(frozen=True)
class AnswerSource:
    """The two splits that a task needs; `marks` say in which way they are not those that a benchmark means."""

    train: AnswerRecords
    test: AnswerRecords
    marks: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the prompts and answers of both splits, in order."""
        digests = [examples_sha256(split.prompts, split.answers) for split in (self.train, self.test)]
        return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def examples_sha256(prompts: Sequence[Prompt], answers: Sequence[str]) -> str:
    """SHA-256 (hex) over these prompts, each with its answer, in order."""
    return hashlib.sha256(json.dumps([*zip(prompts, answers, strict=True)]).encode()).hexdigest()


def count_repeated(prompts: Sequence[Prompt], others: Sequence[Prompt]) -> int:
    """How many of these prompts are among the others."""
    known = set(others)
    return sum(prompt in known for prompt in prompts)


def record_columns(names: Sequence[str], columns: Mapping[Role, str], place: str) -> tuple[str, ...]:
    """The columns that make a record: that of the messages, or those of prompt and answer.

    Args:
        names: the columns that there are.
        columns: what a config calls the roles prompt, answer and messages; by default the names tell.

    Raises:
        UserError: there are both forms, and the config does not say which one is meant.
    """
    plain, chat = {"prompt", "answer"} <= set(names), "messages" in names
    if not columns and plain and chat:
        raise UserError(
            f"{place} has prompt and answer as well as messages; keep one form, or say with columns: which one it is"
        )
    if "messages" in columns or (not columns and chat):
        return (columns.get("messages", "messages"),)
    return columns.get("prompt", "prompt"), columns.get("answer", "answer")


def answer_records(table: Table, columns: Sequence[str]) -> AnswerRecords:
    """Read one split.

    Args:
        columns: what `record_columns` returned.

    Raises:
        UserError: a record has no prompt or no answer, one of them is empty or of another type, its messages are no
            chat that ends with an answer, or two records have one `id`; the message counts records from 1.
    """
    prompts: list[Prompt] = []
    answers: list[str] = []
    first_with: dict[str, int] = {}
    for number, (*content, identity) in enumerate(table.rows(columns, ("id",)), start=1):
        at = f"{table.place}, record {number}"
        if identity not in (None, ""):
            name = checked_label(identity, table.place, number, "id")
            if first_with.setdefault(name, number) != number:
                raise UserError(f"{at}: record {first_with[name]} has the id {name!r} too; drop one of them")
        if len(content) == 1:
            *turns, (_, last) = _chat(content[0], at)
            prompts.append(tuple(turns))
            answers.append(last)
        else:
            prompt, answer = content
            prompts.append(checked_text(prompt, at, "prompt"))
            written = str(answer) if isinstance(answer, int) else answer
            answers.append(checked_text(written, at, "answer"))
    return AnswerRecords(prompts, answers, table.place)


def _chat(messages: object, at: str) -> list[tuple[str, str]]:
    """(role, content) of every message; the last one is the assistant's, and not the only one."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise UserError(f"{at}: messages must be a list of {{role, content}}; mend or drop the record")
    chat = []
    for number, message in enumerate(messages, start=1):
        role = message.get("role")
        if role not in ROLES:
            raise UserError(f"{at}, message {number}: the role is {role!r}; there are {', '.join(ROLES)}")
        if message.get("tool_calls"):
            raise UserError(f"{at}, message {number}: calls of tools are not learnt; drop the record")
        chat.append((role, checked_text(message.get("content"), f"{at}, message {number}", "content")))
    if len(chat) < 2 or chat[-1][0] != "assistant":
        raise UserError(
            f"{at}: messages must end with the assistant's answer to others; mend or drop the record"
        )
    return chat
