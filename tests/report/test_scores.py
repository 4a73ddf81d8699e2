"""The numbers on the page are those of the folder, marked as what they are."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from codyra.engine.folder_reader import RunView, read_run
from codyra.report.numbers import DASH
from codyra.report.runs import comparable_groups, differences, label_runs
from codyra.report.scores import matrices, summary_tables, task_curves

NewRun = Callable[..., Path]


def _rows(html: str) -> list[list[str]]:
    """Text of every table row, markup taken out."""
    return [
        [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", html)
    ]


def test_summary_shows_the_metrics_and_marks_the_best(two_runs: Sequence[RunView]) -> None:
    runs = label_runs(two_runs)
    table = _rows(summary_tables(runs))
    found = {row[0].split("  ")[0]: row[1:] for row in table[:8]}
    transfer = next(cells for name, cells in found.items() if name.startswith("Transfer"))
    values = [run.view.metrics.transfer for run in runs if run.view.metrics]
    assert [cell.rstrip("★") for cell in transfer] == [
        f"{value:.1f}" for value in values if value is not None
    ]
    assert [cell.endswith("★") for cell in transfer] == [True, False]
    forgetting = next(cells for name, cells in found.items() if name.startswith("Forgetting, from the best"))
    assert forgetting[0].endswith("★")
    assert float(forgetting[0].rstrip("★")) < float(forgetting[1])
    last = next(cells for name, cells in found.items() if name.startswith("Last"))
    assert re.fullmatch(r"\d+\.\d ±1\.\d★?", last[0])
    zero_shot = next(cells for name, cells in found.items() if name.startswith("Zero-shot"))
    assert "★" not in "".join(zero_shot)


def test_a_reference_that_learns_nothing_takes_no_star(new_run: NewRun) -> None:
    runs = label_runs([read_run(new_run(name, method=name)) for name in ("codyra", "lora", "zero_shot")])
    for row in _rows(summary_tables(runs))[1:]:
        assert len(row) < 4 or "★" not in row[3]


def test_equal_printed_values_are_both_best(new_run: NewRun) -> None:
    run = read_run(new_run("one"))
    table = _rows(summary_tables(label_runs([run, replace(run, name="two")])))
    assert [cell.endswith("★") for cell in table[1][1:]] == [True, True]


def test_one_task_has_dashes_not_zeros(new_run: NewRun) -> None:
    html = summary_tables(label_runs([read_run(new_run("one", tasks=("only",)))]))
    cells = {row[0]: row[1] for row in _rows(html) if len(row) == 2}
    assert all(cells[name] == DASH for name in cells if name.startswith(("Transfer", "Forgetting")))
    assert "they are not 0" in html


def test_matrix_marks_the_diagonal_and_what_is_ahead(two_runs: Sequence[RunView]) -> None:
    (run,) = label_runs(two_runs[:1])
    html = matrices(run)
    assert html.count('class="heat matrix"') == 2
    pooled = html.split("</table>")[0]
    assert len(re.findall(r'class="h\d+ diagonal"', pooled)) == 5
    assert len(re.findall(r'class="g\d+ ahead"', pooled)) == 5 + 4 + 3 + 2 + 1
    assert len(re.findall(r'class="h\d+"', pooled)) == 1 + 2 + 3 + 4
    zero_shot, last = run.view.accuracy.zero_shot, run.view.accuracy.rows[-1]
    assert zero_shot is not None
    changes = [f"{now - before:+.1f}" for now, before in zip(last, zero_shot, strict=True) if now and before]
    assert _rows(pooled)[-1][1:] == changes


def test_cells_that_were_not_scored_are_dashes_and_gaps(two_runs: Sequence[RunView]) -> None:
    table = two_runs[0].accuracy
    lower = tuple(
        tuple(score if j <= i else None for j, score in enumerate(row)) for i, row in enumerate(table.rows)
    )
    runs = label_runs([replace(two_runs[0], accuracy=replace(table, rows=lower))])
    assert _rows(matrices(runs[0]))[2][2:] == [DASH] * 4
    assert "None" not in task_curves(runs)


def test_own_label_space_is_not_repeated_when_it_is_the_only_one(two_runs: Sequence[RunView]) -> None:
    config = {"stream": {"label_space": "task"}}
    (run,) = label_runs([replace(two_runs[0], config=config)])
    assert matrices(run).count('class="heat matrix"') == 1
    assert "own label space" not in summary_tables([run])


def test_only_like_streams_are_compared(new_run: NewRun) -> None:
    five, five_more, two = (
        read_run(new_run("five")),
        read_run(new_run("five-more", method="lora", seed=9)),
        read_run(new_run("two", tasks=("circles", "squares"))),
    )
    other_data = replace(
        five,
        manifest=replace(
            five.manifest, data=(replace(five.manifest.data[0], fingerprint="other"), *five.manifest.data[1:])
        ),
    )
    groups = comparable_groups(label_runs([five, two, five_more, other_data]))
    assert [[run.view for run in group] for group in groups] == [[five, five_more], [two], [other_data]]
    assert differences(groups[0]) == ["seed"]


def test_labels_tell_runs_apart(two_runs: Sequence[RunView]) -> None:
    codyra, lora = two_runs
    views = [
        codyra,
        lora,
        replace(lora, name="lora-r4"),
        replace(lora, name="wide"),
        replace(lora, name="wide"),
    ]
    assert [run.label for run in label_runs(views)] == [
        "codyra",
        "lora",
        "lora-r4",
        "lora (wide) no. 1",
        "lora (wide) no. 2",
    ]


def test_partial_streams_are_labelled(two_runs: Sequence[RunView]) -> None:
    partial = replace(two_runs[0], config={"stream": {"only": ["circles", "fruit"]}})
    assert label_runs([partial])[0].incomplete == "partial stream: only circles, fruit"
    assert label_runs(two_runs)[0].incomplete is None
