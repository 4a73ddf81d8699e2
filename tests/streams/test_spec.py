"""The stream section of a config refuses what cannot work before any data are read."""

import pytest
from pydantic import ValidationError

from codyra.streams import StreamSpec, TaskSpec

DATA = "imagefolder:pets"


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "pets ",
        "a/b",
        "a\\b",
        "..",
        "a..b",
        ".hidden",
        "new\nline",
        "nul\0",
        "tab\t",
        "bell\x07",
        "right\u202eleft",
        "\ud800",
        "x" * 65,
        "zero-shot",
        "Zero-Shot",
    ],
)
def test_hostile_task_names_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=r"task name|zero-shot"):
        TaskSpec(name=name, data=DATA)


@pytest.mark.parametrize("name", ["x" * 64, "flowers", "food-101", "a.b", "fleurs d'été", "画像", "a, b"])
def test_ordinary_task_names_are_kept(name: str) -> None:
    assert TaskSpec(name=name, data=DATA).name == name


@pytest.mark.parametrize(
    ("one", "other"), [("pets", "pets"), ("Pets", "pETS"), ("\u00e9t\u00e9", "e\u0301te\u0301"), ("ß", "SS")]
)
def test_two_tasks_need_two_folders(one: str, other: str) -> None:
    with pytest.raises(ValidationError, match="two tasks are named"):
        StreamSpec(tasks=[TaskSpec(name=one, data=DATA), TaskSpec(name=other, data=DATA)])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": "a photo"}, "exactly one {}"),
        ({"prompt": "{} and {}"}, "exactly one {}"),
        ({"data": "imagefolders:pets"}, "did you mean 'imagefolder'"),
        ({"data": "pets"}, "SOURCE:PLACE"),
        ({"data": "csv:"}, "SOURCE:PLACE"),
        ({"shots": 0}, "greater than or equal to 1"),
        ({"classes": []}, "at least 1 item"),
        ({"classes": ["cat", "dog", "cat"]}, "'cat' is listed twice"),
        ({"columns": {"label": "l"}}, "no meaning for imagefolder"),
        ({"data": "csv:mail", "columns": {"image": "i"}}, "no meaning for csv"),
        ({"data": "csv:mail", "columns": {"answers": "a"}}, "'label', 'prompt', 'answer' or 'messages'"),
        ({"splits": {"train": "../other"}}, "plain name"),
        ({"splits": {"eval": "x"}}, "'train', 'test' or 'val'"),
        ({"shot": 3}, "Extra inputs"),
        ({"metric": "acuracy"}, "there is no metric 'acuracy', did you mean 'accuracy'"),
        ({"choices": ["A"]}, "at least 2 items"),
        ({"choices": ["A", ""]}, "at least 1 character"),
        ({"choices": ["A", "B", "A"]}, "choice 'A' is listed twice"),
        ({"choices": ["A", "B"], "max_new_tokens": 3}, "nothing is generated where there are choices"),
        ({"max_new_tokens": 0}, "greater than or equal to 1"),
        ({"test_examples": 0}, "greater than or equal to 1"),
        ({"frame": "no place"}, "exactly one {}"),
        ({"columns": {"answer": "a"}}, "answer has no meaning for imagefolder"),
        (
            {"data": "json:mail", "columns": {"messages": "m", "answer": "a"}},
            "messages hold prompt and answer",
        ),
        ({"data": "trace:here/FMOC"}, "TRACE has no data set 'FMOC', did you mean 'FOMC'"),
        (
            {"data": "trace-5000:here/FOMC", "splits": {"test": "eval"}},
            "splits: has no meaning for trace-5000:",
        ),
        ({"data": "hf:here", "naming": "trace/FOMC"}, "naming 'trace/FOMC' is no data set"),
    ],
)
def test_a_wrong_value_is_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TaskSpec.model_validate({"name": "pets", "data": DATA} | wrong)


def test_a_stream_has_tasks_and_only_names_some_of_them() -> None:
    task = {"name": "pets", "data": DATA}
    with pytest.raises(ValidationError, match="at least 1 item"):
        StreamSpec.model_validate({"tasks": []})
    with pytest.raises(ValidationError, match="no task 'pet', did you mean 'pets'"):
        StreamSpec.model_validate({"tasks": [task], "only": ["pet"]})
    with pytest.raises(ValidationError, match="score_split"):
        StreamSpec.model_validate({"tasks": [task], "score_split": "train"})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"variant": 500}, "variant: has no meaning without benchmark:"),
        ({"test_examples": 5}, "test_examples: has no meaning without benchmark:; give it to each task"),
        ({"generation": "likelihood"}, "likelihood needs tasks with choices:"),
        ({"score": "some"}, "'all' or 'seen'"),
        ({"truncation": "right"}, "'keep_instruction' or 'treelora'"),
        ({"accuracy": "lenient"}, "'exact' or 'prefix'"),
        ({"max_answer_tokens": 0}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_value_of_a_stream_is_named(section: dict[str, object], message: str) -> None:
    task = {"name": "mail", "data": "json:mail"}
    with pytest.raises(ValidationError, match=message):
        StreamSpec.model_validate({"tasks": [task]} | section)
    StreamSpec.model_validate({"tasks": [task | {"choices": ["A", "B"]}], "generation": "likelihood"})


def test_numbers_are_legal_class_names_and_every_field_is_documented() -> None:
    spec = TaskSpec.model_validate({"name": "digits", "data": DATA, "classes": [3, "7"]})
    assert spec.classes == ["3", "7"]
    assert TaskSpec.model_validate(spec.model_dump()) == spec
    for model in (TaskSpec, StreamSpec):
        assert all(field.description for field in model.model_fields.values())
