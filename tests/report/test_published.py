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
# OP and Fgt with their deviations as the sources print them, of three language models.
TRACE = {
    "FIX (ICL)": ((38.94, 0.3), None, (32.3, 0.2), None, (31.16, 0.4), None),
    "SeqLoRA": ((34.3, 1.2), (18.5, 0.8), (31.89, 0.8), (15.28, 0.4), (29.73, 1.6), (17.03, 1.2)),
    "L2P": ((36.23, 0.8), (8.25, 0.8), (31.14, 1.2), (15.77, 0.7), (29.38, 1.2), (13.57, 0.8)),
    "DualPrompt": ((37.69, 1.2), (8.03, 0.8), (32.42, 1.0), (14.25, 0.5), (30.76, 1.2), (11.34, 0.8)),
    "HiDeLoRA": ((41.6, 0.8), (7.12, 0.4), (33.25, 0.9), (13.66, 0.5), (33.73, 1.2), (12.36, 0.8)),
    "O-LoRA": ((42.78, 0.8), (7.16, 0.4), (33.73, 0.8), (12.36, 0.4), (32.94, 0.8), (12.89, 1.2)),
    "OGD": ((42.09, 1.6), (8.06, 1.2), (32.85, 1.4), (12.27, 0.9), (30.12, 2.0), (15.2, 1.6)),
    "EWC": ((42.36, 1.2), (5.97, 0.8), (28.35, 1.6), (16.96, 1.2), (31.96, 1.6), (11.62, 0.8)),
    "GEM": ((40.08, 1.6), (6.77, 1.2), (26.48, 1.5), (18.25, 0.9), (32.19, 2.0), (10.74, 1.6)),
    "TreeLoRA": ((43.52, 1.0), (3.46, 0.4), (33.41, 0.9), (8.5, 0.5), (36.14, 0.7), (7.36, 0.8)),
    "CoDyRA": ((43.82, None), (3.25, None), (33.96, None), (7.94, None), (37.46, None), (5.11, None)),
    "MoRAM": ((44.54, 0.9), (1.37, 0.3), (36.27, 0.7), (2.74, 0.4), (37.77, 0.8), (3.12, 0.8)),
}
TRACE_MODELS = ("Llama-2-7b-chat-hf", "gemma-2b-it", "Llama-3.2-1B-Instruct")
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


@pytest.mark.parametrize("model", [None, "openai/clip-vit-base-patch16"])
def test_rows_of_the_only_published_model_stand_beside_any(model: str | None) -> None:
    tasks = next(table.data_sets for table in TABLES if table.benchmark == "xtail")
    assert (
        published_for(BenchmarkInfo("xtail", "X-TAIL", 1, 16, "generic", "all", tasks, model=model))
        is not None
    )


def test_trace_rows_are_the_printed_ones() -> None:
    tables = published_tables("trace")
    assert [(table.model, table.variant) for table in tables] == [(model, 500) for model in TRACE_MODELS]
    for number, table in enumerate(tables):
        assert [row.method for row in table.rows] == list(TRACE)
        for row in table.rows:
            performance, forgetting = TRACE[row.method][2 * number : 2 * number + 2]
            assert row.figure("overall_performance") == row.figure("last") == performance
            value, deviation = row.figure("bwt_clipped")
            assert (None if value is None else (-value, deviation)) == forgetting
            assert set(row.deviations) <= set(row.figures)
