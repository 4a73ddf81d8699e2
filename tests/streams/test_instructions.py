"""Tasks of a language model: the choice of records, their prompts, what is noted of them and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from codyra.errors import UserError
from codyra.streams import InstructionTask, StreamSpec, build_stream

Build = Callable[..., InstructionTask]
RECORDS = [{"prompt": f"Question: {n}\nAnswer:", "answer": "AB"[n % 2]} for n in range(20)]


@pytest.fixture
def make(tmp_path: Path) -> Build:
    """make(train, test, stream={...}, seed=..., **keys): a task of these records."""

    def call(
        train: list = RECORDS[:12],
        test: list = RECORDS[12:],
        stream: dict[str, Any] | None = None,
        stored: dict | None = None,
        seed: int = 8,
        **keys: Any,
    ) -> InstructionTask:
        for name, records in (("train", train), ("test", test)):
            (tmp_path / f"{name}.json").write_text(json.dumps(records))
        spec = StreamSpec.model_validate(
            {"tasks": [{"name": "t", "data": "json:.", **keys}]} | (stream or {})
        )
        (task,) = build_stream(
            spec, kind="answers", seed=seed, default_prompt="{}", root=tmp_path, stored_shots=stored
        )
        return task

    return call


def test_defaults(make: Build) -> None:
    task = make()
    assert (task.metric, task.choices, task.max_new_tokens, task.frame) == ("accuracy", (), 512, ("", ""))
    assert (task.prompt, task.marks, task.notes) == ("{}", (), ())
    assert task.shots == {"seed": 8, "dataset": "t", "shots": None, "positions": None}
    assert (len(task.train), len(task.test)) == (12, 8)


def test_shots_are_records_of_the_task_and_stay(make: Build) -> None:
    task, other = make(shots=5), make(shots=5, seed=9)
    positions = task.shots["positions"]
    assert len(set(positions)) == 5
    assert list(task.train.inputs) == [RECORDS[position]["prompt"] for position in positions]
    assert positions != other.shots["positions"]
    assert make(shots=5, seed=9, stored={"t": task.shots}).train == task.train
    with pytest.raises(UserError, match="stored shots belong to another configuration"):
        make(shots=4, stored={"t": task.shots})
    with pytest.raises(UserError, match=r"train\.json has 12 records, fewer than shots: 13"):
        make(shots=13)
    assert len(make(shots=13, allow_fewer=True).train) == 12


def test_test_examples_are_drawn_in_file_order(make: Build) -> None:
    drawn = make(test_examples=4).test.inputs
    all_of_them = [record["prompt"] for record in RECORDS[12:]]
    assert len(drawn) == 4
    assert [prompt for prompt in all_of_them if prompt in drawn] == list(drawn)
    assert make(test_examples=4).test.inputs == drawn
    assert any(make(test_examples=4, seed=seed).test.inputs != drawn for seed in range(5))
    assert make(test_examples=100).test == make().test


def test_a_fingerprint_changes_with_every_prompt_and_answer(make: Build) -> None:
    def prints(**changed: list) -> tuple[str, str, str]:
        task = make(**changed)
        return task.fingerprint, task.train.fingerprint, task.test.fingerprint

    whole, train, test = prints()
    for key in ("prompt", "answer"):
        edited = [*RECORDS[:11], {**RECORDS[11], key: "other"}]
        assert prints(train=edited)[0] != whole
        assert prints(train=edited)[1:] == (prints(train=edited)[1], test)
        assert prints(train=edited)[1] != train
        assert prints(test=edited)[2] != test
    assert prints(train=RECORDS[:12][::-1])[1] != train
    # text that moves from the prompt into the answer is other text
    assert (
        prints(train=[{"prompt": "ab", "answer": "c"}])[1]
        != prints(train=[{"prompt": "a", "answer": "bc"}])[1]
    )
    assert make(prompt="Q {}").train.fingerprint != train
    assert make(prompt="Q {}").fingerprint == whole


def test_the_template_goes_around_every_prompt_and_is_its_frame(make: Build) -> None:
    task = make(prompt="Read: {}\nSay:", train=[{"prompt": "{} {}", "answer": "a"}])
    assert task.train.inputs == ("Read: {} {}\nSay:",)
    assert task.frame == ("Read: ", "\nSay:")
    assert (
        make(prompt="Read: {}\nSay:", frame="Read: Question: {}\nAnswer:\nSay:").frame[0]
        == "Read: Question: "
    )


def test_notes_count_what_a_reader_must_know(make: Build) -> None:
    assert make(train=RECORDS[:14]).notes == ("2 of 8 test prompts are also in train",)
    framed = make(frame="Question: {}\nAnswer:", train=[{"prompt": "odd", "answer": "A"}, *RECORDS[:12]])
    assert framed.notes == ("1 of 21 prompts do not begin and end as frame: says",)
    odd = [{"prompt": "p", "answer": "-"}, {"prompt": "q", "answer": "A\nbecause"}]
    assert make(choices=["A", "B"], test=odd).notes == ("1 of 2 test answers begin with none of the choices",)


def test_how_an_answer_is_scored(make: Build) -> None:
    assert make(stream={"accuracy": "prefix"}).metric == "accuracy_prefix"
    assert make(stream={"accuracy": "prefix"}, metric="sari").metric == "sari"
    assert make(choices=["A", "B"]).choices == ("A", "B")
    assert make(stream={"max_answer_tokens": 64}).max_new_tokens == 64
    assert make(stream={"max_answer_tokens": 64}, max_new_tokens=3).max_new_tokens == 3


@pytest.mark.parametrize("key", ["prompt", "frame"])
def test_messages_take_no_template(make: Build, key: str) -> None:
    chat = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}]
    assert make(train=chat, test=chat).prompt == "{}"
    with pytest.raises(UserError, match=f"{key}: has no meaning for messages, which hold all of a prompt"):
        make(train=chat, test=chat, **{key: "Q {}"})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"classes": ["A"]},
            "task 't': classes: has no meaning for a language model that answers prompts; remove it",
        ),
        ({"ensemble": ["a {}"]}, "task 't': ensemble: has no meaning"),
        ({"underscores": "keep"}, "task 't': underscores: has no meaning"),
        ({"columns": {"label": "answer"}}, "task 't': columns: label: has no meaning for a language model"),
        (
            {"data": "imagefolder:."},
            "imagefolder: is for a model that compares with class names, this is a language",
        ),
        ({"data": "xtail:./dtd"}, "xtail: is for a model that compares with class names"),
        ({"stream": {"label_space": "task"}}, "stream.label_space: has no meaning"),
        ({"stream": {"ties": "first"}}, "stream.ties: has no meaning"),
    ],
)
def test_what_only_classes_have_is_refused(make: Build, keys: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**keys)


@pytest.mark.parametrize(
    ("keys", "stream", "message"),
    [
        (
            {"metric": "sari"},
            {},
            "task 't': metric: has no meaning for a model that compares with class names; remove",
        ),
        ({"choices": ["A", "B"]}, {}, "task 't': choices: has no meaning"),
        ({"max_new_tokens": 3}, {}, "task 't': max_new_tokens: has no meaning"),
        ({"frame": "a {}"}, {}, "task 't': frame: has no meaning"),
        ({"columns": {"answer": "label"}}, {}, "task 't': columns: answer: has no meaning"),
        (
            {"data": "trace:./FOMC"},
            {},
            "trace: is for a language model that answers prompts, this is a model that",
        ),
        ({}, {"truncation": "treelora"}, "stream.truncation: has no meaning"),
        ({}, {"generation": "treelora"}, "stream.generation: has no meaning"),
        ({}, {"accuracy": "prefix"}, "stream.accuracy: has no meaning"),
        ({}, {"max_prompt_tokens": 10}, "stream.max_prompt_tokens: has no meaning"),
        ({}, {"max_answer_tokens": 10}, "stream.max_answer_tokens: has no meaning"),
        ({}, {"chat_template": True}, "stream.chat_template: has no meaning"),
    ],
)
def test_what_only_answers_have_is_refused(build: Callable, keys: dict, stream: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build({"name": "t", "data": "csv:mail", **keys}, stream=stream)


def test_test_examples_of_classes(pets: Path, build: Callable) -> None:
    (whole,) = build({"name": "pets", "data": "imagefolder:pets"})
    (some,) = build({"name": "pets", "data": "imagefolder:pets", "test_examples": 3})
    assert (len(whole.test), len(some.test), len(some.train)) == (6, 3, 15)
    assert [image for image in whole.test.inputs if image in some.test.inputs] == list(some.test.inputs)
    assert some.test.fingerprint != whole.test.fingerprint
    assert some.fingerprint == whole.fingerprint
    assert isinstance(some.test.inputs[0].open(), Image.Image)
