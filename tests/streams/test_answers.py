"""Records of prompts and answers: every form they are kept in, and the line that says what is wrong with one."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from codyra.errors import UserError
from codyra.streams import InstructionTask

Build = Callable[..., list[InstructionTask]]
ROWS = [
    {"prompt": "Write a title:\nrain", "answer": "Rain, again"},
    {"prompt": 'Say "{}" twice', "answer": "{}{}"},
    {"prompt": "Grüße auf 中文  ", "answer": " 你好\n"},
]
CHATS = [
    {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}]}
    for n in range(3)
]


@pytest.fixture
def ask(build: Build) -> Build:
    """ask(data, **keys): the one task that reads `data` as prompts and answers."""

    def call(data: str, stream: dict[str, Any] | None = None, **keys: Any) -> InstructionTask:
        (task,) = build(
            {"name": "t", "data": data, **keys}, stream=stream, kind="answers", default_prompt="{}"
        )
        return task

    return call


def write(path: Path, rows: list[dict]) -> None:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), "utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_splits(
    folder: Path, rows: list[dict], extension: str = "json", test: list[dict] | None = None
) -> None:
    write(folder / f"train.{extension}", rows)
    write(folder / f"test.{extension}", rows if test is None else test)


def pairs(task: InstructionTask) -> list[dict]:
    found = zip(task.train.inputs, task.train.answers, strict=True)
    return [{"prompt": prompt, "answer": answer} for prompt, answer in found]


@pytest.mark.parametrize("extension", ["csv", "json", "jsonl", "parquet"])
def test_every_format_reads_the_same(tmp_path: Path, ask: Build, extension: str) -> None:
    write_splits(tmp_path, [{"note": "x", **row} for row in ROWS], extension, ROWS[:2])
    task = ask(f"{extension.removesuffix('l')}:.")
    assert pairs(task) == ROWS
    assert (len(task.train), len(task.test), task.modality) == (3, 2, "answers")
    other = tmp_path / "other"
    other.mkdir()
    write_splits(other, ROWS, "json", ROWS[:2])
    assert ask("json:other").fingerprint == task.fingerprint


@pytest.mark.parametrize("extension", ["json", "jsonl", "parquet"])
def test_messages_are_a_prompt_and_the_last_answer(tmp_path: Path, ask: Build, extension: str) -> None:
    write_splits(tmp_path, CHATS, extension)
    task = ask(f"{extension.removesuffix('l')}:.")
    assert task.train.inputs[1] == (("user", "1?"),)
    assert task.train.answers == ("0!", "1!", "2!")


def test_earlier_answers_of_a_chat_belong_to_the_prompt(tmp_path: Path, ask: Build) -> None:
    roles = ["system", "user", "assistant", "user", "assistant"]
    chat = [{"role": role, "content": f"{role} {n}", "weight": 1} for n, role in enumerate(roles)]
    write_splits(tmp_path, [{"talk": chat, "prompt": "no", "answer": "no"}])
    task = ask("json:.", columns={"messages": "talk"})
    assert task.train.inputs[0] == tuple((role, f"{role} {n}") for n, role in enumerate(roles[:-1]))
    assert task.train.answers == ("assistant 4",)


def test_a_saved_data_set(tmp_path: Path, ask: Build) -> None:
    for name, rows in (("plain", ROWS), ("chat", CHATS)):
        data = datasets.Dataset.from_list(rows)
        datasets.DatasetDict(train=data, test=data, validation=data.select([0])).save_to_disk(tmp_path / name)
    task = ask("hf:plain")
    assert pairs(task) == ROWS
    assert len(ask("hf:plain", stream={"score_split": "val"}).test) == 1
    assert ask("hf:chat").train.inputs[2] == (("user", "2?"),)
    with pytest.raises(UserError, match=r"has no column 'question'.*name the columns with columns:"):
        ask("hf:plain", columns={"prompt": "question"})


def test_a_data_set_of_the_hub(ask: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, **options: object) -> list[datasets.Dataset]:
        asked.append((name, options))
        return [datasets.Dataset.from_list([{"question": "a", "response": "b"}])] * 2

    monkeypatch.setattr(datasets, "load_dataset", load)
    task = ask("hf:org/name@v1", columns={"prompt": "question", "answer": "response"})
    assert asked == [("org/name", {"split": ["train", "test"], "revision": "v1"})]
    assert task.test.answers == ("b",)


def test_numbers_are_answers(tmp_path: Path, ask: Build) -> None:
    write_splits(tmp_path, [{"prompt": "1 + 1?", "answer": 2}, {"prompt": "really?", "answer": True}])
    assert ask("json:.").train.answers == ("2", "True")


RECORD = {"prompt": "p", "answer": "a"}
USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            [RECORD, {"prompt": "p", "answer": ""}],
            r"train\.json, record 2: the answer is empty; fill it in or drop",
        ),
        ([{"prompt": "p", "answer": " \n"}], "record 1: the answer is empty"),
        ([{"prompt": "p", "answer": None}], "record 1: the answer is missing"),
        ([{"prompt": "p", "answer": ["a"]}], "record 1: the answer is of type list"),
        ([{"prompt": "p", "answer": 0.5}], "record 1: the answer is of type float"),
        ([{"prompt": "\t", "answer": "a"}], "record 1: the prompt is empty"),
        ([{"prompt": 3, "answer": "a"}], "record 1: the prompt is of type int"),
        ([{"prompt": "half \ud83d", "answer": "a"}], "record 1: the prompt is not valid Unicode"),
        ([{"prompt": "p", "answer": "\udc00"}], "record 1: the answer is not valid Unicode"),
        ([RECORD, {"prompt": "p", "anser": "a"}], "record 2: no field 'answer', did you mean 'anser'"),
        ([{"question": "p", "response": "a"}], r"no field 'prompt' \(there are question, response\)"),
        ([RECORD, "text"], "record 2: expected an object, got str"),
        ([RECORD, {"messages": [USER, ASSISTANT]}], r"record 2: no field 'prompt' \(there are messages\)"),
        ([{**RECORD, "messages": [USER, ASSISTANT]}], "prompt and answer as well as messages; keep one form"),
        (
            [{**RECORD, "id": 7}, {**RECORD, "id": 8}, {**RECORD, "id": "7"}],
            "record 3: record 1 has the id '7' too",
        ),
        ([{**RECORD, "id": [7]}], "record 1: the id is of type list"),
        ([{"messages": []}], "messages must end with the assistant's answer"),
        ([{"messages": [ASSISTANT]}], "messages must end with the assistant's answer to others"),
        ([{"messages": [USER, ASSISTANT, USER]}], "must end with the assistant's answer"),
        ([{"messages": "hello"}], r"messages must be a list of \{role, content\}"),
        ([{"messages": [USER, "a"]}], r"messages must be a list of \{role, content\}"),
        (
            [{"messages": [USER, {"role": "bot", "content": "a"}]}],
            "message 2: the role is 'bot'; there are system,",
        ),
        ([{"messages": [USER, {"role": ["a"], "content": "a"}]}], r"message 2: the role is \['a'\]"),
        ([{"messages": [USER, {"content": "a"}]}], "message 2: the role is None"),
        ([{"messages": [USER, {"role": "assistant", "content": " "}]}], "message 2: the content is empty"),
        ([{"messages": [{"role": "user"}, ASSISTANT]}], "message 1: the content is missing"),
        (
            [{"messages": [{"role": "user", "content": [{"type": "text"}]}, ASSISTANT]}],
            "content is of type list",
        ),
        ([], r"train\.json is empty; a task needs records"),
    ],
)
def test_a_wrong_record_is_named(tmp_path: Path, ask: Build, records: list, message: str) -> None:
    write_splits(tmp_path, records)
    with pytest.raises(UserError, match=message) as caught:
        ask("json:.")
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith("task 't': ")


def test_a_test_record_needs_an_answer_too(tmp_path: Path, ask: Build) -> None:
    write_splits(tmp_path, ROWS, test=[{"prompt": "p", "answer": ""}])
    with pytest.raises(UserError, match=r"test\.json, record 1: the answer is empty"):
        ask("json:.")


def test_records_without_an_id_have_none_in_common(tmp_path: Path, ask: Build) -> None:
    write_splits(tmp_path, [RECORD, {**RECORD, "id": 1}, {**RECORD, "id": None}, {**RECORD, "id": ""}])
    assert len(ask("json:.").train) == 4
    write_splits(tmp_path, [{"id": n % 2, **RECORD} for n in range(3)], "csv")
    with pytest.raises(UserError, match=r"train\.csv, record 3: record 1 has the id '0' too"):
        ask("csv:.")


@pytest.mark.parametrize("extension", ["csv", "json", "jsonl"])
def test_a_file_is_utf8(tmp_path: Path, ask: Build, extension: str) -> None:
    write_splits(tmp_path, ROWS, extension)
    content = (tmp_path / f"train.{extension}").read_bytes()
    (tmp_path / f"train.{extension}").write_bytes(content.replace(b"twice", b"tw\xffce"))
    with pytest.raises(UserError, match=rf"train\.{extension} is not UTF-8 \(byte \d+\); save it as UTF-8"):
        ask(f"{extension.removesuffix('l')}:.")


def test_one_form_in_both_splits(tmp_path: Path, ask: Build) -> None:
    write_splits(tmp_path, ROWS, test=CHATS)
    with pytest.raises(UserError, match=r"test\.json, record 1: no field 'prompt'"):
        ask("json:.")
