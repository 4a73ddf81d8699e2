"""The published rows: as printed in their sources, consistent in themselves, doubtful cells marked."""

import json
import math
from pathlib import Path

import pytest

from codyra import metrics
from codyra.engine.folder_reader import BenchmarkInfo
from codyra.report.published import PublishedRow, PublishedTable, published_for, published_tables

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text())["zscl"]
TOLERANCE = 0.07
"""Between a mean of printed cells and the printed mean, both rounded to one decimal."""

# Transfer, Average, Last as the sources print them.
MEANS = {
    ("xtail", 1, 16): {
        "LwF": (47.7, 53.2, 64.0),
        "WiSE-FT": (52.3, 54.2, 58.0),
        "iCaRL": (61.7, 61.0, 64.0),
        "ZSCL": (59.0, 60.0, 63.4),
        "MoE-Adapter": (56.0, 63.0, 70.5),
        "RAIL-Primal": (62.4, 70.7, 79.1),
        "LoRA (r=16)": (61.8, 60.5, 59.4),
        "CoDyRA": (63.2, 71.3, 79.2),
        "MoRAM": (63.3, 72.7, 80.9),
    },
    ("mtil", 1, 5): {
        "LwF": (50.0, 49.2, 46.5),
        "LwF-VR": (60.1, 62.5, 66.9),
        "WiSE-FT": (57.7, 63.7, 71.9),
        "ZSCL": (65.3, 64.4, 67.4),
        "MoE-Adapter": (68.9, 71.4, 76.1),
        "RAIL-Primal": (69.4, 71.9, 77.2),
        "CoDyRA": (70.1, 73.3, 78.0),
    },
    ("mtil", 1, None): {"ZSCL": (68.1, 75.4, 83.6), "Continual fine-tune": (44.6, 55.9, 77.3)},
    ("mtil", 2, None): {"ZSCL": (64.2, 74.5, 83.4), "Continual fine-tune": (46.6, 56.2, 67.4)},
}
TABLES = published_tables("xtail") + published_tables("mtil")
ROWS = [(table, row) for table in TABLES for row in table.rows]


def name(value: object) -> str | None:
    if isinstance(value, PublishedTable):
        return f"{value.benchmark}-{value.order}-{value.shots}"
    return value.method if isinstance(value, PublishedRow) else None


def test_every_protocol_has_its_table() -> None:
    assert {(table.benchmark, table.order, table.shots) for table in TABLES} == set(MEANS)


@pytest.mark.parametrize("table", TABLES, ids=name)
def test_means_are_the_printed_ones(table: PublishedTable) -> None:
    found = {
        row.method: tuple(row.figures.get(key) for key in ("transfer", "average", "last"))
        for row in table.rows
    }
    for method, means in MEANS[table.benchmark, table.order, table.shots].items():
        assert found[method] == means, method
    assert len(set(found)) == len(table.rows)


@pytest.mark.parametrize(("table", "row"), ROWS, ids=name)
def test_cells_average_to_the_printed_means(table: PublishedTable, row: PublishedRow) -> None:
    for metric, scores in row.per_data_set.items():
        assert len(scores) == len(table.data_sets)
        assert [index for index, score in enumerate(scores) if score is None] == (
            [0] if metric == "transfer" else []
        )
        known = [score for score in scores if score is not None]
        assert math.fsum(known) / len(known) == pytest.approx(row.figures[metric], abs=TOLERANCE), metric


@pytest.mark.parametrize("key", sorted(GOLDEN))
def test_full_shot_rows_are_those_of_the_published_matrices(key: str) -> None:
    order, method = int(key[6]), key[8:]
    table = next(
        table for table in TABLES if (table.benchmark, table.order, table.shots) == ("mtil", order, None)
    )
    row = next(row for row in table.rows if row.method == method)
    R = GOLDEN[key]["R"]
    for metric, scores in row.per_data_set.items():
        assert metrics.PER_TASK[metric](R) == pytest.approx(scores, abs=TOLERANCE), metric
    for metric in metrics.PER_TASK:
        assert metrics.METRICS[metric](R) == pytest.approx(row.figures[metric], abs=TOLERANCE), metric


def test_suspect_cells_say_so() -> None:
    rows = {(table.benchmark, table.order, table.shots, row.method): row for table, row in ROWS}
    assert "iCaRL" in rows["xtail", 1, 16, "LwF"].about("last")[0]
    assert rows["xtail", 1, 16, "LwF"].about("average") == ()
    moram = rows["xtail", 1, 16, "MoRAM"]
    assert [bool(moram.about("last", data_set)) for data_set in ("aircraft", "caltech101", "dtd")] == [
        True,
        True,
        False,
    ]
    assert moram.about("last") == moram.about("average", "aircraft") == ()
    assert "71.84" in rows["mtil", 1, 5, "WiSE-FT"].about("last", "mean")[0]
    for method in ("MoE-Adapter", "RAIL-Primal"):
        assert "dagger" in rows["mtil", 1, 5, method].about("transfer")[0]
    assert "chance" in rows["mtil", 2, None, "iCaRL"].about("average")[0]


def test_every_note_names_cells_that_exist() -> None:
    for table, row in ROWS:
        for note in row.notes:
            assert note.metric is None or note.metric in row.figures
            assert set(note.data_sets) <= {*table.data_sets, "mean"}


@pytest.mark.parametrize(("prompts", "noted"), [("generic", False), ("default", True), ("codyra", True)])
def test_a_zero_shot_row_of_other_prompts_says_so(prompts: str, noted: bool) -> None:
    tasks = next(table.data_sets for table in TABLES if table.benchmark == "xtail")
    table = published_for(BenchmarkInfo("xtail", "X-TAIL", 1, 16, prompts, "all", tasks))
    assert table is not None
    assert [row.method for row in table.rows if row.zero_shot] == ["CLIP zero-shot"]
    assert any("prompts" in text for row in table.rows for text in row.about("last")) is noted


@pytest.mark.parametrize(
    ("order", "shots", "num_tasks"), [(2, 16, 10), (1, 4, 10), (1, None, 10), (1, 16, 9)]
)
def test_another_protocol_has_no_published_rows(order: int, shots: int | None, num_tasks: int) -> None:
    tasks = tuple(map(str, range(num_tasks)))
    assert published_for(BenchmarkInfo("xtail", "X-TAIL", order, shots, "generic", "all", tasks)) is None
