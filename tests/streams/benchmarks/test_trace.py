"""TRACE: its files, the metric and the frame of each task, and what keeps a stream from being it.

Figures and prompts are copied from the published description of the benchmark, not from the code.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from codyra.engine.config import load_config
from codyra.errors import UserError
from codyra.streams import StreamSpec, build_stream, describe_benchmark
from codyra.streams.benchmarks import BENCHMARKS
from codyra.streams.benchmarks.survey import survey
from miniatures_trace import COUNTS, CUES, FILES, OPENINGS, ORDER, write_trace

TRACE = BENCHMARKS["trace"]
METRICS = {
    "C-STANCE": "accuracy",
    "FOMC": "accuracy",
    "MeetingBank": "rouge_l",
    "Py150": "similarity",
    "ScienceQA": "letter_accuracy",
    "NumGLUE-cm": "accuracy",
    "NumGLUE-ds": "accuracy",
    "20Minuten": "sari",
}


def stream(folder, seed=1234, **section):
    """(spec, tasks) of TRACE in this folder."""
    spec = StreamSpec.model_validate({"benchmark": "trace", **section})
    return spec, build_stream(spec, kind="answers", seed=seed, default_prompt="{}", data_dir=folder)


def marks_of(folder, **section):
    return describe_benchmark(*stream(folder, **section))["marks"]


@pytest.fixture
def small(monkeypatch):
    """TRACE as if it were published in the sizes of the miniature."""
    sets = {key: dataclasses.replace(data_set, sizes=COUNTS) for key, data_set in TRACE.data_sets.items()}
    monkeypatch.setitem(BENCHMARKS, "trace", dataclasses.replace(TRACE, data_sets=sets))
    return BENCHMARKS["trace"]


def test_one_order_of_eight_tasks_in_two_sizes():
    big = BENCHMARKS["trace-5000"]
    assert TRACE.orders == big.orders == {1: tuple(ORDER)}
    sizes = {key: tuple(data_set.sizes.values()) for key, data_set in TRACE.data_sets.items()}
    assert sizes == dict.fromkeys(ORDER, (500, 100, 100)) | {"NumGLUE-cm": (500, 41, 81)}
    assert {tuple(data_set.sizes.items()) for data_set in big.data_sets.values()} == {
        (("train", 5000), ("test", 2000))
    }


def test_what_a_tree_holds_is_what_is_learnt(trace_tree):
    folder, truth = trace_tree
    _, tasks = stream(folder)
    assert [task.name for task in tasks] == ORDER
    assert {task.name: task.metric for task in tasks} == METRICS
    for task in tasks:
        for part, split in ((task.train, "train"), (task.test, "test")):
            assert list(part.inputs) == [record["prompt"] for record in truth[task.name][split]]
            assert list(part.answers) == [record["answer"] for record in truth[task.name][split]]
        assert (task.prompt, task.choices, task.max_new_tokens) == ("{}", (), 512)


def test_only_prompts_of_meetings_have_a_frame(trace_tree):
    frames = {task.name: task.frame for task in stream(trace_tree[0])[1]}
    assert frames.pop("MeetingBank") == (OPENINGS["MeetingBank"], CUES["MeetingBank"])
    assert set(frames.values()) == {("", "")}


def test_letters_to_choose_from_by_likelihood(trace_tree):
    _, tasks = stream(trace_tree[0], generation="likelihood")
    choices = {task.name: "".join(task.choices) for task in tasks if task.choices}
    assert choices == {"C-STANCE": "ABC", "FOMC": "ABC", "ScienceQA": "ABCD"}
    assert not any(task.notes for task in tasks)


def test_prefix_accuracy_is_another_metric(trace_tree):
    found = {task.name: task.metric for task in stream(trace_tree[0], accuracy="prefix")[1]}
    assert found == METRICS | {key: "accuracy_prefix" for key in METRICS if METRICS[key] == "accuracy"}


def test_eval_is_the_validation_part(trace_tree):
    folder, truth = trace_tree
    _, (task,) = stream(folder, only=["FOMC"], score_split="val")
    assert list(task.test.answers) == [record["answer"] for record in truth["FOMC"]["val"]]


def test_the_benchmark_to_the_letter_has_no_marks(trace_tree, small):
    folder, _ = trace_tree
    about = describe_benchmark(*stream(folder))
    assert about == {
        "name": "trace",
        "title": "TRACE",
        "variant": 500,
        "order": 1,
        "shots": None,
        "prompts": "default",
        "label_space": "all",
        "tasks": ORDER,
        "marks": [],
    }
    for same in (
        {"score": "seen"},
        {"truncation": "treelora"},
        {"generation": "treelora"},
        {"accuracy": "prefix"},
    ):
        assert marks_of(folder, **same) == []


@pytest.mark.parametrize(
    ("section", "mark"),
    [
        ({"only": ["FOMC", "Py150"]}, "partial: 2 of 8 data sets"),
        ({"shots": 4}, "shots 4, published is all"),
        ({"test_examples": 2}, "test_examples 2, published is all"),
        ({"generation": "likelihood"}, "generation likelihood, published is greedy or treelora"),
        ({"chat_template": True}, "chat_template true, published is false"),
        ({"max_prompt_tokens": 2048}, "max_prompt_tokens 2048, published is 1024"),
        ({"max_answer_tokens": 64}, "max_answer_tokens 64, published is 512"),
        ({"score_split": "val"}, "scored on the val part"),
    ],
)
def test_what_is_not_the_benchmark_is_marked(trace_tree, small, section, mark):
    marks = marks_of(trace_tree[0], **section)
    assert mark in marks
    assert len(marks) == 1


@pytest.mark.parametrize(
    "keys",
    [
        {"metric": "rouge_l"},
        {"max_new_tokens": 8},
        {"frame": "a{}"},
        {"prompt": "Now: {}"},
        {"test_examples": 1},
        {"choices": ["A", "B"]},
    ],
)
def test_a_task_that_was_changed_is_marked(trace_tree, small, keys):
    folder, _ = trace_tree
    written = StreamSpec.model_validate({"benchmark": "trace"}).model_dump()
    written["tasks"][1] |= keys
    (key,) = keys
    assert marks_of(folder, **written) == [f"FOMC: {key} is not the benchmark's"]


def test_other_counts_are_marked(trace_tree):
    marks = marks_of(trace_tree[0], only=["NumGLUE-cm"])
    assert "NumGLUE-cm: train 6 of 500 records, test 3 of 81 records" in marks
    marks = marks_of(trace_tree[0], only=["NumGLUE-cm"], variant=5000)
    assert "NumGLUE-cm: train 6 of 5,000 records, test 3 of 2,000 records" in marks


def test_either_compilation_in_one_folder(tmp_path):
    counts = {"train": 2, "val": 1, "test": 1}
    write_trace(tmp_path, below="LLM-CL-Benchmark_500")
    write_trace(tmp_path, below="LLM-CL-Benchmark_5000", counts=counts)
    assert {len(task.train) for task in stream(tmp_path)[1]} == {6}
    assert {len(task.train) for task in stream(tmp_path, variant=5000)[1]} == {2}


def test_a_file_of_another_task_is_noticed(tmp_path):
    truth = write_trace(tmp_path, only=["FOMC", "C-STANCE"])
    shutil.copy(tmp_path / "C-STANCE/train.json", tmp_path / "FOMC/train.json")
    with pytest.raises(UserError, match=r"FOMC/train\.json: no prompt begins and ends as those of FOMC do"):
        stream(tmp_path, only=["FOMC"])
    mixed = [*truth["FOMC"]["train"], truth["C-STANCE"]["train"][0]]
    (tmp_path / "FOMC/train.json").write_text(json.dumps(mixed))
    assert marks_of(tmp_path, only=["FOMC"])[1] == (
        "FOMC: prompts in train that are not worded as published: 1, such as record 7"
    )


def test_a_prompt_in_train_and_test_is_told_and_no_mark(tmp_path, small):
    truth = write_trace(tmp_path)
    (tmp_path / "FOMC/test.json").write_text(
        json.dumps([*truth["FOMC"]["train"][:1], *truth["FOMC"]["test"][1:]])
    )
    spec, tasks = stream(tmp_path)
    assert [task.notes for task in tasks if task.notes] == [("1 of 3 test prompts are also in train",)]
    assert describe_benchmark(spec, tasks)["marks"] == []


def test_a_missing_part_is_missed_by_who_needs_it(tmp_path):
    write_trace(tmp_path, only=["FOMC"])
    (tmp_path / "FOMC/eval.json").unlink()
    stream(tmp_path, only=["FOMC"])
    with pytest.raises(UserError, match=r"FOMC has no eval\.json; get LLM-CL-Benchmark_500/FOMC of TRACE"):
        stream(tmp_path, only=["FOMC"], score_split="val")
    with pytest.raises(UserError, match=r"no folder .*gone; give the folder of the data sets"):
        stream(tmp_path / "gone", only=["FOMC"])
    with pytest.raises(UserError, match=r"task 'Py150': .* has no LLM-CL-Benchmark_500/Py150 or Py150; get"):
        stream(tmp_path, only=["Py150"])


def test_a_task_from_elsewhere_is_marked(tmp_path, small):
    import datasets

    folder = tmp_path / "files"
    truth = write_trace(folder)["FOMC"]
    rows = {
        split: [{"q": r["prompt"], "a": r["answer"]} for r in truth[split]] for split in ("train", "test")
    }
    datasets.DatasetDict(
        {split: datasets.Dataset.from_list(part) for split, part in rows.items()}
    ).save_to_disk(tmp_path / "saved")
    place = f"hf:{tmp_path / 'saved'}"
    spec, tasks = stream(folder, sources={"FOMC": {"data": place, "columns": {"prompt": "q", "answer": "a"}}})
    assert list(tasks[1].train.inputs) == [record["prompt"] for record in truth["train"]]
    assert describe_benchmark(spec, tasks)["marks"] == [
        f"FOMC: read from {place}, not from the benchmark's files and splits"
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stream.variant=50", "stream.variant: Input should be 500 or 5000"),
        ("stream.order=2", "TRACE has order 1, not 2"),
        ("stream.prompts=ensemble", "TRACE has default, not ensemble"),
        ("stream.only=[FMOC]", "no task 'FMOC', did you mean 'FOMC'"),
        ("stream.benchmark=xtail", "variant: trace has 500 or 5000, no other benchmark has one"),
        ("stream.variant=null", "variant: trace has 500 or 5000"),
        ("stream.generation=beam", "stream.generation: Input should be 'greedy', 'treelora' or 'likelihood'"),
        ("stream.max_prompt_tokens=0", "stream.max_prompt_tokens: "),
        ("stream.truncate=left", "did you mean truncation?"),
    ],
)
def test_a_wrong_key_is_one_line(override, message):
    with pytest.raises(UserError) as refused:
        load_config("trace", [override])
    assert message in str(refused.value)


def test_findings_of_a_survey(tmp_path, small):
    write_trace(tmp_path, only=ORDER[1:])
    shutil.copy(tmp_path / "MeetingBank/eval.json", tmp_path / "MeetingBank/train.json")
    (tmp_path / "Py150/test.json").write_bytes(b"[{")
    (tmp_path / "ScienceQA/eval.json").unlink()
    found = {finding.key: finding for finding in survey(small, ORDER, tmp_path)}
    assert {key: finding.state for key, finding in found.items()} == {
        "C-STANCE": "missing",
        "FOMC": "present",
        "MeetingBank": "partial",
        "Py150": "partial",
        "ScienceQA": "partial",
        "NumGLUE-cm": "present",
        "NumGLUE-ds": "present",
        "20Minuten": "present",
    }
    assert "get LLM-CL-Benchmark_500/C-STANCE of TRACE" in found["C-STANCE"].faults[0]
    assert found["MeetingBank"].counts == {"train": 2, "val": 2, "test": 3}
    assert found["MeetingBank"].marks == ("prompts of val that are also in train: 2 of 2",)
    assert found["Py150"].counts == {"train": 6, "val": 2}
    assert "test.json is not JSON" in found["Py150"].faults[0]
    assert "ScienceQA has no eval.json" in found["ScienceQA"].faults[0]


def test_verify_through_the_command(command, trace_tree, small):
    folder, _ = trace_tree
    before = {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}
    code, out, err = command("data", "verify", "trace", "--data-dir", folder)
    assert (code, err) == (0, "")
    assert [line.split()[2:] for line in out.splitlines() if " present " in line] == [["6", "2", "3"]] * 8
    assert "all 8 data sets of TRACE are complete" in out
    code, out, err = command("data", "verify", "trace-5000", "--data-dir", folder)
    assert code == 2
    assert [line.split() for line in out.splitlines() if "FOMC " in line] == [
        ["FOMC", "partial", "6", "of", "5,000", "2", "3", "of", "2,000"]
    ]
    assert {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")} == before


def test_no_split_is_made_for_it(command, trace_tree):
    code, _, err = command("data", "rebuild-splits", "trace", "--data-dir", trace_tree[0], "--seed", "1")
    assert code == 2
    assert "only X-TAIL has split files to make; the splits of TRACE need none" in err


def test_the_miniature_is_worded_as_published():
    assert set(OPENINGS) == set(CUES) == set(TRACE.data_sets)
    assert set(FILES.values()) == {"train.json", "eval.json", "test.json"}
    for key, data_set in TRACE.data_sets.items():
        assert data_set.template == f"{OPENINGS[key]}{{}}{CUES[key]}"
