"""Module grids, rank maps, the survival sentence, and the arithmetic of the charts."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codyra.engine.folder_reader import RunView, read_run
from codyra.report.charts import Series, downsample, line_chart, nice_ticks
from codyra.report.modules import arrange
from codyra.report.numbers import DASH, MINUS, duration, memory, percent, signed
from codyra.report.runs import label_runs
from codyra.report.training import training_charts
from codyra.report.updates import module_maps


def test_clip_modules_become_kind_by_layer() -> None:
    grid = arrange(
        f"{tower}_model.encoder.layers.{layer}.{kind}"
        for tower in ("vision", "text")
        for layer in (0, 1, 10)
        for kind in ("self_attn.q_proj", "mlp.fc1")
    )
    assert grid.kinds == ("vision q_proj", "vision fc1", "text q_proj", "text fc1")
    assert grid.layers == (0, 1, 10)
    assert grid.cells["text fc1", 10] == "text_model.encoder.layers.10.mlp.fc1"


def test_kinds_keep_as_much_of_the_name_as_they_need() -> None:
    tails = ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense")
    grid = arrange(f"encoder.layer.{layer}.{tail}" for layer in (0, 1) for tail in tails)
    assert grid.kinds == ("query", "attention.output.dense", "intermediate.dense", "output.dense")
    assert len(grid.cells) == 8


def test_modules_without_a_layer_have_a_column() -> None:
    grid = arrange(["h.0.c_attn", "h.1.c_attn", "head"])
    assert grid.layers == (0, 1, None)
    assert grid.kinds == ("c_attn", "head")
    assert grid.cells["head", None] == "head"


@given(st.sets(st.from_regex(r"(?:(?:[a-c]|0?[0-2])\.){0,4}[a-c]", fullmatch=True), min_size=1, max_size=12))
def test_no_module_is_lost(names: set[str]) -> None:
    grid = arrange(sorted(names))
    assert sorted(grid.cells.values()) == sorted(names)


def test_rank_map_shows_every_kept_rank(two_runs: Sequence[RunView]) -> None:
    run = label_runs(two_runs)[0]
    ranks = run.view.tasks[0].ranks
    assert ranks is not None
    first_map = module_maps(run).split("</table>")[0]
    shown = [int(number) for number in re.findall(r'<td class="h\d+">(\d+)</td>', first_map)]
    assert sorted(shown) == sorted(entry.kept for entry in ranks.modules.values() if entry.kept is not None)
    assert len(shown) == 24


def test_fixed_rank_is_one_sentence(two_runs: Sequence[RunView]) -> None:
    assert "Fixed rank: all 16 ranks" in module_maps(label_runs(two_runs)[1])


@pytest.mark.parametrize(
    ("auc", "verdict"), [(0.9995, "chance chose the ranks"), (0.62, "training had a say"), (None, None)]
)
def test_survival_is_told_as_it_is(
    two_runs: Sequence[RunView], auc: float | None, verdict: str | None
) -> None:
    tasks = tuple(
        replace(task, ranks=replace(task.ranks, survival_auc=auc)) for task in two_runs[0].tasks if task.ranks
    )
    html = module_maps(label_runs([replace(two_runs[0], tasks=tasks)])[0])
    assert ("Survival AUC" in html) is (auc is not None)
    for sentence in ("chance chose the ranks", "training had a say"):
        assert (sentence in html) is (sentence == verdict)


def test_a_task_that_kept_nothing(two_runs: Sequence[RunView]) -> None:
    first, *others = two_runs[0].tasks
    assert first.ranks is not None
    modules = {name: replace(entry, kept=0, norm=0.0) for name, entry in first.ranks.modules.items()}
    empty = replace(first, ranks=replace(first.ranks, modules=modules, no_change=True, norm=0.0))
    html = module_maps(label_runs([replace(two_runs[0], tasks=(empty, *others))])[0])
    assert html.split("</table>")[0].count('<td class="h0">0</td>') == 24


def test_training_shows_kappa_only_where_there_is_one(new_run: Callable[..., Path]) -> None:
    with_kappa, without = (label_runs([read_run(new_run(name, method=name))]) for name in ("codyra", "lora"))
    assert training_charts(with_kappa).count("threshold κ") == 5
    assert "threshold κ" not in training_charts(without)
    assert training_charts(without).count('class="chart"') == 5


@given(
    st.floats(-1e6, 1e6, allow_subnormal=False),
    st.floats(1e-6, 1e6),
    st.integers(2, 6),
)
def test_ticks_span_the_range(low: float, width: float, about: int) -> None:
    high = low + width
    ticks = nice_ticks(low, high, about)
    rounding = 1e-6 * (ticks[1] - ticks[0]) + 4 * math.ulp(max(abs(low), abs(high)))
    assert ticks[0] <= low + rounding
    assert ticks[-1] >= high - rounding
    assert 2 <= len(ticks) <= about + 3


def test_ticks_are_round_numbers() -> None:
    assert nice_ticks(31.2, 88.9) == [20, 40, 60, 80, 100]
    assert nice_ticks(0, 500, about=5) == [0, 100, 200, 300, 400, 500]
    assert nice_ticks(0, 0)[0] == 0


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=700))
def test_downsampling_keeps_length_order_and_range(values: list[float]) -> None:
    points = downsample(list(enumerate(values)), most=100)
    assert 1 <= len(points) <= 100
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert all(min(values) - 1e-9 <= y <= max(values) + 1e-9 for _, y in points if y is not None)
    if len(values) <= 100:
        assert [y for _, y in points] == values


def test_a_gap_breaks_the_line() -> None:
    series = Series("run", 0, [(0, 1.0), (1, None), (2, 3.0), (3, 4.0)])
    chart = line_chart([series], title="t", description="d", y_span=(0, 4), x_ticks=[0, 1, 2, 3])
    assert chart.count("<polyline") == 2
    assert chart.count("<title>run: ") == 3


def test_points_lie_inside_the_chart() -> None:
    series = Series("run", 0, [(1, 0.0), (5, 10.0)])
    chart = line_chart([series], title="t", description="d", y_span=(0, 10), x_ticks=range(1, 6))
    assert 'points="38,164 330,8"' in chart


def test_numbers_are_written_for_people() -> None:
    assert [percent(v) for v in (None, 63.25, -1.66, -0.0, -0.04)] == [
        DASH,
        "63.2",
        f"{MINUS}1.7",
        "0.0",
        "0.0",
    ]
    assert [signed(v) for v in (None, -0.04, -3.0, 2.25)] == [DASH, "0.0", f"{MINUS}3.0", "+2.2"]
    assert [duration(s) for s in (0.081, 11.24, 131, 3.0 * 3600 + 299, 59.99)] == [
        "0.081 s",
        "11.2 s",
        "2 min 11 s",
        "3 h 04 min",
        "1 min 00 s",
    ]
    assert [memory(912_345_678), memory(2**31)] == ["870 MiB", "2.0 GiB"]
