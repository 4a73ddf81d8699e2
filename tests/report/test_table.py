"""The values of a table: those of the run folders, of the seeds, and of the published rows beside them."""

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codyra.engine.folder_reader import read_run
from codyra.report.table import Block, Row, Table, build_tables
from report.benchmarks import MTIL, ORDER_2, VIT_B16, XTAIL, mtil, xtail

NewRun = Callable[..., Path]
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text())["zscl"]


def one_table(folders: list[Path], **options: Any) -> Table:
    (table,) = build_tables([read_run(folder) for folder in folders], **options)
    return table


def block(table: Table, title: str) -> Block:
    return next(block for block in table.blocks if block.title == title)


def row(found: Block, label: str, kind: str = "measured") -> Row:
    return next(row for row in found.rows if (row.label, row.kind) == (label, kind))


def values(found: Row) -> list[float | None]:
    return [cell.value for cell in found.cells]


def small(new_run: NewRun, name: str, **options: Any) -> Path:
    return new_run(name, **{"steps": 2, "num_layers": 1, "images_per_task": 0, **options})


# --- scores ---


@pytest.mark.parametrize("key", sorted(GOLDEN))
def test_the_table_of_a_published_matrix_is_the_published_row(new_run: NewRun, key: str) -> None:
    order, method, case = int(key[6]), key[8:], GOLDEN[key]
    tasks = MTIL if order == 1 else tuple(MTIL[index] for index in ORDER_2)
    scores = (case["R"][0], case["R"])
    table = one_table(
        [small(new_run, "run", tasks=tasks, scores=scores, benchmark=mtil(order), parameters=VIT_B16)]
    )
    assert table.marks == ()
    for title in ("Transfer", "Average", "Last"):
        measured, published = (row(block(table, title), *who) for who in (("codyra",), (method, "published")))
        assert values(measured) == pytest.approx(values(published), abs=0.07), title
        assert measured.cells[-1].value == pytest.approx(case["expected"][title.lower()], abs=5e-4)
    further = block(table, "Further figures")
    found = dict(
        zip([column.metric for column in further.columns], values(row(further, "codyra")), strict=True)
    )
    for metric in ("learning_accuracy", "forgetting_max", "forgetting_diag"):
        assert found[metric] == pytest.approx(case["expected"][metric], abs=5e-4)


def test_values_by_hand(new_run: NewRun) -> None:
    scores = ([10.0, 20.0, 30.0], [[80.0, 0.0, 20.0], [85.0, 60.0, 30.0], [65.0, 64.0, 90.0]])
    folder = small(new_run, "run", tasks=("a", "b", "c"), scores=scores)
    table = one_table([folder])
    assert [b.title for b in table.blocks] == ["Transfer", "Average", "Last", "Further figures"]
    assert values(row(table.blocks[0], "codyra")) == [None, 0.0, 25.0, 12.5]
    assert values(row(table.blocks[0], "zero-shot")) == [None, 20.0, 30.0, 25.0]
    assert values(row(table.blocks[1], "codyra"))[:1] == [pytest.approx(230 / 3)]
    assert values(row(table.blocks[1], "zero-shot")) == [10.0, 20.0, 30.0, 20.0]
    assert values(row(table.blocks[2], "codyra")) == [65.0, 64.0, 90.0, 73.0]
    chosen = one_table([folder], chosen=["forgetting_max", "forgetting_diag", "learning_accuracy"])
    assert [values(row(b, "codyra")) for b in chosen.blocks] == [
        [20.0, 0.0, None, 10.0],
        [15.0, -4.0, None, 5.5],
        [80.0, 60.0, 90.0, pytest.approx(230 / 3)],
    ]
    assert all(len(b.rows) == 1 for b in chosen.blocks)  # zero-shot learns and forgets nothing


# --- seeds ---


def seeded(new_run: NewRun, lasts: dict[int, float], **options: Any) -> list[Path]:
    """Runs of two tasks, one per seed, whose last score of task b is given."""
    return [
        small(new_run, f"{options.get('method', 'codyra')}-{seed}", tasks=("a", "b"), seed=seed, **options,
              scores=([1.0, 2.0], [[60.0, 10.0], [50.0, last]]))
        for seed, last in lasts.items()
    ]  # fmt: skip


def test_runs_that_differ_in_their_seed_are_one_row(new_run: NewRun) -> None:
    folders = seeded(new_run, {1: 70.0, 2: 74.0, 3: 78.0}) + seeded(new_run, {1: 71.0}, method="lora")
    table = one_table(folders)
    codyra, lora = row(block(table, "Last"), "codyra"), row(block(table, "Last"), "lora")
    assert [(cell.value, cell.std) for cell in codyra.cells] == [(50.0, 0.0), (74.0, 4.0), (62.0, 2.0)]
    assert (codyra.num_runs, codyra.origin) == (3, "measured, n = 3")
    assert "n - 1" in codyra.notes[0]
    assert codyra.notes[0].endswith("seeds 1, 2, 3")
    assert [cell.std for cell in lora.cells] == [None, None, None]
    assert (lora.origin, lora.notes) == ("measured", ())
    assert [r.label for r in block(table, "Last").rows] == ["zero-shot", "codyra", "lora"]
    assert any("seed" in remark for remark in table.remarks)  # not the same seeds for both rows


def test_a_seed_given_twice_is_no_second_measurement(new_run: NewRun) -> None:
    (folder,) = seeded(new_run, {1: 70.0})
    rows = block(one_table([folder, folder]), "Last").rows[1:]
    assert [r.num_runs for r in rows] == [1, 1]
    assert len({r.label for r in rows}) == 2


def config(**changed: Any) -> dict[str, Any]:
    tasks = [{"name": name, "data": "imagefolder:x"} for name in ("a", "b")]
    return {
        "method": {"name": "codyra", "r": 16},
        "train": {"lr": 0.1},
        "stream": {"tasks": tasks},
        "guard": None,
        **changed,
    }


def test_other_configurations_are_other_rows_named_by_what_differs(new_run: NewRun) -> None:
    folders = [
        *seeded(new_run, {1: 70.0, 2: 72.0}, config=config()),
        *seeded(new_run, {3: 80.0}, config=config(method={"name": "codyra", "r": 8})),
        *seeded(new_run, {4: 90.0}, config=config(train={"lr": 0.2})),
    ]
    rows = block(one_table(folders), "Last").rows[1:]
    assert [(r.label, r.num_runs) for r in rows] == [
        ("codyra, r=16, train.lr=0.1", 2),
        ("codyra, r=8, train.lr=0.1", 1),
        ("codyra, r=16, train.lr=0.2", 1),
    ]


def test_where_the_data_lie_is_no_difference(new_run: NewRun) -> None:
    moved = config(seed=2, name="again", root="/elsewhere", data_dir="/d")
    moved["stream"] = {"tasks": [{**task, "data": "imagefolder:y"} for task in moved["stream"]["tasks"]]}
    folders = seeded(new_run, {1: 70.0}, config=config()) + seeded(new_run, {2: 72.0}, config=moved)
    assert [r.num_runs for r in block(one_table(folders), "Last").rows[1:]] == [2]


def test_many_differences_are_named_by_the_folder(new_run: NewRun) -> None:
    long = config(train={"lr": 0.1, **{f"option_{i}": i for i in range(9)}})
    folders = seeded(new_run, {1: 70.0}, config=config()) + seeded(new_run, {2: 72.0}, config=long)
    assert [r.label for r in block(one_table(folders), "Last").rows[1:]] == ["codyra-1", "codyra-2"]


# --- what may stand together ---


def test_other_streams_and_other_marks_have_their_own_tables(new_run: NewRun) -> None:
    options = {"tasks": XTAIL, "parameters": VIT_B16}
    folders = [
        small(new_run, "whole", **options, benchmark=xtail()),
        small(new_run, "rebuilt", **options, benchmark=xtail(marks=["dtd: rebuilt split, seed 1"])),
        small(new_run, "four", **options, benchmark=xtail(shots=4)),
        small(new_run, "own", tasks=("a", "b")),
        small(new_run, "lora", **options, benchmark=xtail(), method="lora"),
    ]
    tables = build_tables([read_run(folder) for folder in folders])
    measured = [[r.label for r in block(table, "Last").rows if r.kind == "measured"] for table in tables]
    assert measured == [["zero-shot", "codyra", "lora"], *[["zero-shot", "codyra"]] * 3]
    assert [table.marks for table in tables] == [(), ("dtd: rebuilt split, seed 1",), (), ()]
    assert [table.source is not None for table in tables] == [True, True, False, False]
    assert len({table.title for table in tables}) == 3  # the rebuilt one is told by its marks


def test_published_rows_stand_behind_the_measured_ones(new_run: NewRun) -> None:
    folder = small(new_run, "run", tasks=XTAIL, benchmark=xtail(), parameters=VIT_B16)
    table = one_table([folder])
    for b in table.blocks:
        kinds = [r.kind for r in b.rows]
        assert kinds == sorted(kinds)
        assert set(kinds) == {"measured", "published"}
        assert {len(r.cells) for r in b.rows} == {len(b.columns)}
    further = block(table, "Further figures")
    codyra = dict(
        zip([c.metric for c in further.columns], values(row(further, "CoDyRA", "published")), strict=True)
    )
    assert {key: value for key, value in codyra.items() if value is not None} == {
        "forgetting": 1.87, "trainable_parameters": 4_400_000, "update_norm": 3.22, "drift": 7.51, "mean_rank": 8.3,
    }  # fmt: skip
    bare = one_table([folder], published=False)
    assert {r.kind for b in bare.blocks for r in b.rows} == {"measured"}
    assert (bare.source, bare.notes) == (None, [])


def test_a_partial_stream_has_no_published_rows_and_says_why(new_run: NewRun) -> None:
    table = one_table(
        [small(new_run, "run", tasks=XTAIL[:3], benchmark=xtail(marks=["partial: 3 of 10 data sets"]))]
    )
    assert table.marks == ("partial: 3 of 10 data sets",)
    assert {r.kind for b in table.blocks for r in b.rows} == {"measured"}
    assert "3 of the 10 data sets" in table.remarks[-1]


def test_a_stream_that_went_on_is_not_the_benchmark(new_run: NewRun) -> None:
    table = one_table([small(new_run, "run", tasks=(*XTAIL, "eleventh"), benchmark=xtail())])
    assert table.source is None
    assert "No published rows" in table.remarks[-1]


def test_another_protocol_says_which_are_known(new_run: NewRun) -> None:
    table = one_table([small(new_run, "run", tasks=MTIL, benchmark=mtil(shots=16))])
    assert "known are: order 1, 5 shots; order 1, all training images; order 2" in table.remarks[-1]


# --- what is missing ---


def test_unfinished_runs_have_no_figures_of_a_whole_stream(new_run: NewRun) -> None:
    tasks = ("a", "b", "c")
    folders = [
        small(new_run, f"run-{learned}", tasks=tasks, learned=learned, seed=learned) for learned in (0, 2, 3)
    ]
    table = one_table(folders)
    rows = block(table, "Last").rows
    assert [r.label for r in rows] == ["zero-shot", "codyra (run-0)", "codyra (run-2)", "codyra (run-3)"]
    assert [any(cell.value is not None for cell in r.cells) for r in rows] == [True, False, False, True]
    assert rows[2].notes == ("unfinished: 2 of 3 tasks learnt",)


def test_one_task_has_no_transfer(new_run: NewRun) -> None:
    table = one_table([small(new_run, "run", tasks=("only",))])
    assert values(row(table.blocks[0], "codyra")) == [None, None]
    assert values(row(table.blocks[2], "codyra"))[0] is not None
    assert "forgetting_max" not in [column.metric for column in block(table, "Further figures").columns]


def test_a_cell_that_was_not_scored_stays_empty(new_run: NewRun) -> None:
    folder = small(new_run, "run", tasks=("a", "b"))
    lines = list(csv.reader((folder / "accuracy.csv").open()))
    lines[1][2] = lines[2][2] = ""
    (folder / "accuracy.csv").write_text("\n".join(",".join(line) for line in lines) + "\n")
    table = one_table([folder])
    assert (
        values(row(table.blocks[0], "codyra"))
        == values(row(table.blocks[0], "zero-shot"))
        == [None, None, None]
    )
    average = values(row(table.blocks[1], "codyra"))
    assert [value is None for value in average] == [False, True, True]


def test_a_zero_shot_run_is_the_zero_shot_row(new_run: NewRun) -> None:
    folders = [small(new_run, method, method=method) for method in ("codyra", "zero_shot")]
    assert [r.label for r in block(one_table(folders), "Last").rows] == ["zero-shot", "codyra"]
    assert [r.label for r in block(one_table(folders[1:]), "Last").rows] == ["zero-shot"]
    stopped = small(new_run, "stopped", method="zero_shot", learned=0)
    (stopped / "accuracy.csv").unlink()
    assert [r.label for r in block(one_table([stopped]), "Last").rows] == ["zero_shot"]


def test_zero_shot_rows_that_differ_are_averaged(new_run: NewRun) -> None:
    rng = random.Random(0)
    folders = [
        small(new_run, f"run-{seed}", tasks=("a",), seed=seed, scores=([score], [[rng.uniform(0, 100)]]))
        for seed, score in ((1, 40.0), (2, 42.0))
    ]
    zero_shot = row(block(one_table(folders), "Last"), "zero-shot")
    assert [(cell.value, cell.std) for cell in zero_shot.cells] == [(41.0, pytest.approx(2**0.5))] * 2
    assert "2 runs" in zero_shot.notes[0]
