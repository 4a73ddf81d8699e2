"""Runs of answers on the page and in tables: each task by its own metric, nothing about classes."""

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from codyra.engine.folder_reader import read_run
from codyra.metrics import METRICS
from codyra.report import render
from codyra.report.table import Block, Table, build_tables
from codyra.report.table_formats import WRITERS
from report.answer_runs import make_answers
from report.benchmarks import TRACE, trace

NewRun = Callable[..., Path]
LONG = "Write a summary. " + "The council met. " * 2000 + "Summary:"


def answered(new_run: NewRun, name: str, scored_by: list[str] | None = None, **options: Any) -> Path:
    """A run of TRACE's tasks; options of `make_answers` go there, the others to `write_run`."""
    own = {
        key: options.pop(key) for key in ("seen", "cut", "unfinished", "examples", "prompt") if key in options
    }
    small = {"tasks": tuple(TRACE), "steps": 2, "num_layers": 1, "images_per_task": 0, "seed": 1, **options}
    return make_answers(new_run(name, **small), scored_by or list(TRACE.values()), **own)


def one_table(*folders: Path, **options: Any) -> Table:
    (table,) = build_tables([read_run(folder) for folder in folders], **options)
    return table


def figures(block: Block, label: str) -> dict[str, tuple[float | None, float | None]]:
    row = next(row for row in block.rows if row.label == label)
    pairs = zip(block.columns, row.cells, strict=True)
    return {column.data_set or column.metric: (cell.value, cell.std) for column, cell in pairs}


def words(html: str) -> str:
    body = html.partition("<body>")[2]
    return unescape(" ".join(re.sub(r"<[^>]+>", " ", body).split()))


# --- tables ---


def test_published_rows_of_the_same_model_stand_below(new_run: NewRun) -> None:
    table = one_table(answered(new_run, "run", benchmark=trace(), seen=True))
    last, learnt, further = table.blocks
    assert [block.title for block in table.blocks] == ["Last", "Learning accuracy", "Further figures"]
    assert table.title == "TRACE, order 1, variant 500, gemma-2b-it"
    assert table.source is not None
    assert table.source.startswith("gemma-2b-it; means of 3 runs")
    assert figures(last, "TreeLoRA")["last"] == (33.41, 0.9)
    assert figures(last, "TreeLoRA")["FOMC"] == (None, None)
    assert figures(further, "TreeLoRA") == {
        **dict.fromkeys((column.metric for column in further.columns), (None, None)),
        "overall_performance": (33.41, 0.9),
        "bwt_clipped": (-8.5, 0.5),
    }
    assert figures(last, "CoDyRA")["last"] == (33.96, None)
    assert {row.kind for row in learnt.rows} == {"measured"}
    assert any("epochs" in note for note in table.notes)
    assert any("different budgets" in remark for remark in table.remarks)


def test_figures_are_those_of_the_matrix(new_run: NewRun) -> None:
    folder = answered(new_run, "run", seen=True)
    last, learnt, further = one_table(folder).blocks
    R = read_run(folder).accuracy.rows
    assert [cell.value for cell in last.rows[1].cells[:-1]] == list(R[-1])
    assert [cell.value for cell in learnt.rows[0].cells[:-1]] == [R[i][i] for i in range(len(R))]
    shown = figures(further, "codyra")
    for name in (
        "overall_performance",
        "bwt_trace",
        "bwt_clipped",
        "bwt",
        "forgetting_max",
        "forgetting_diag",
    ):
        assert shown[name][0] == METRICS[name](R)


def test_transfer_and_average_only_of_a_whole_matrix(new_run: NewRun) -> None:
    whole = one_table(answered(new_run, "whole"))
    assert [block.title for block in whole.blocks] == [
        "Last",
        "Learning accuracy",
        "Transfer",
        "Average",
        "Further figures",
    ]
    unfinished = one_table(answered(new_run, "unfinished", learned=3))
    assert [block.title for block in unfinished.blocks] == ["Last", "Learning accuracy", "Further figures"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"model": None},
            "with order 1, variant 500 and this base model; known are: order 1, variant 500, Llama-2",
        ),
        (
            {"variant": 5000},
            "with order 1, variant 5000, gemma-2b-it; known are: order 1, variant 500, Llama-2",
        ),
    ],
)
def test_another_model_or_variant_has_none_and_says_which_have(
    new_run: NewRun, changed: dict[str, Any], reason: str
) -> None:
    table = one_table(answered(new_run, "run", benchmark=trace(**changed)))
    assert table.source is None
    assert {row.kind for block in table.blocks for row in block.rows} == {"measured"}
    assert reason in table.remarks[-1]


def test_a_part_of_the_stream_has_none(new_run: NewRun) -> None:
    folder = new_run(
        "run", tasks=tuple(TRACE)[:3], benchmark=trace(), steps=2, num_layers=1, images_per_task=0
    )
    table = one_table(make_answers(folder, list(TRACE.values())[:3]))
    assert "3 of the 8 data sets of TRACE; OP and Fgt are other figures there" in table.remarks[-1]


@pytest.mark.parametrize("form", sorted(WRITERS))
def test_every_format_names_the_metrics(new_run: NewRun, form: str) -> None:
    folder = answered(new_run, "run", benchmark=trace(), cut={"MeetingBank": 93}, unfinished={"Py150": 7})
    text = WRITERS[form](build_tables([read_run(folder)]))
    assert "class" not in text
    assert "Py150 7 of 200" in text
    if form != "csv":
        assert "ROUGE-L (unique words) for MeetingBank" in text
        assert "43.52" not in text  # another model's
        assert "33.41 " in text


def test_seeds_tell_whose_answers_were_irregular(new_run: NewRun) -> None:
    folders = [
        answered(new_run, f"run-{seed}", seed=seed, cut={"FOMC": 2}, unfinished={"Py150": seed})
        for seed in (1, 2)
    ]
    notes = one_table(*folders).blocks[0].rows[1].notes
    assert notes[1:] == (
        "prompts that were cut: FOMC 2 of 200",
        "seed 1: answers at the end that reached their longest length: Py150 1 of 200",
        "seed 2: answers at the end that reached their longest length: Py150 2 of 200",
    )


def test_epochs_of_each_task_are_told(new_run: NewRun) -> None:
    epochs = {"C-STANCE": 2, "FOMC": 1, "others": 3}
    config = {"train": {"steps": None, "epochs": epochs}, "stream": {"tasks": []}}
    folder = answered(new_run, "run", config=config)
    assert any("epochs 2/1/3/3/3/3/3/3" in remark for remark in one_table(folder).remarks)
    assert "2/1/3/3/3/3/3/3 epochs" in render([read_run(folder)])


def test_other_rules_of_answering_are_not_compared(new_run: NewRun) -> None:
    folders = [
        answered(new_run, generation, config={"stream": {"generation": generation}})
        for generation in ("greedy", "treelora")
    ]
    other = answered(new_run, "other", ["accuracy_prefix", *list(TRACE.values())[1:]])
    assert len(build_tables([read_run(folder) for folder in [*folders, other]])) == 3


# --- the page ---


def test_the_page_speaks_of_metrics_and_not_of_classes(new_run: NewRun) -> None:
    folder = answered(new_run, "run", benchmark=trace(), cut={"MeetingBank": 93}, seen=True)
    page = words(render([read_run(folder)]))
    assert "class name" not in page
    assert "true class" not in page
    assert "classes" not in page
    assert "label space" not in page
    assert "binomial" not in page
    assert "Percent of each task's own metric" in page
    assert page.count("ROUGE-L (unique words)") >= 5  # caption, matrix, curve, task, data
    assert "Prompts that were cut: MeetingBank 93 of 200." in page
    assert "Beside published figures" in page
    assert "33.41 ± 0.90" in page


def test_long_prompts_and_answers_are_cut(new_run: NewRun) -> None:
    examples = [(LONG, "B\n" + "because " * 300)] * 8
    page = render([read_run(answered(new_run, "run", examples=examples))])
    assert len(page) < 300_000
    assert "Write a summary." in page
    assert "Summary:" in page
    assert "[...]" in page


def test_a_template_is_shown_where_there_is_one(new_run: NewRun) -> None:
    assert "Prompt:" not in words(render([read_run(answered(new_run, "bare"))]))
    page = words(render([read_run(answered(new_run, "run", prompt="Question: {} Answer:"))]))
    assert "Prompt: Question: {} Answer:" in page


def test_an_unknown_metric_keeps_its_name(new_run: NewRun) -> None:
    page = words(render([read_run(answered(new_run, "run", ["<b>bleu</b>"] * 8))]))
    assert "<b>bleu</b>" in page


def test_unfinished_and_taken_back(new_run: NewRun) -> None:
    view = read_run(answered(new_run, "run", learned=2))
    assert view.taken_back == ()
    assert "Unfinished: 2 of 8 tasks learnt" in words(render([view]))
