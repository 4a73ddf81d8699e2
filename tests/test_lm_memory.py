"""benchmarks/lm_memory.py: what it predicts, and that it counts the same on tensors that have memory."""

import dataclasses
import gc
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from codyra import TaskUpdate
from codyra.update import compose

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def _script():
    """The script as a module; its dataclasses look themselves up in sys.modules."""
    path = Path(__file__).parents[1] / "benchmarks/lm_memory.py"
    spec = importlib.util.spec_from_file_location("lm_memory", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


lm_memory = _script()
Case = lm_memory.Case


def tiny(**options) -> "Case":
    return Case("tiny", **({"prompt": 70, "answer": 50} | options))


@pytest.mark.parametrize(
    "case",
    [
        tiny(checkpointing=False),
        tiny(dtype="bfloat16", targets="all", micro_batch=2),
        tiny(precision="bf16", checkpointing=False),
    ],
    ids=["float32", "bfloat16", "autocast"],
)
def test_tensors_without_memory_count_as_those_with(case):
    gc.collect()
    assert lm_memory.predict(case) == lm_memory.train(case, lm_memory.LiveTensors())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"precision": "bf16"},
        {"r": 16, "targets": "all", "dtype": "bfloat16"},
        {"dtype": "bfloat16", "quantize": "4bit", "precision": "bf16"},
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_formula_is_exact_but_for_activations_and_near_for_those(options, checkpointing):
    case = tiny(**options, checkpointing=checkpointing)
    predicted, formula = lm_memory.predict(case), lm_memory.closed_form(case)
    for part in ("weights", "adapters", "gradients", "moments", "base_copy"):
        assert getattr(predicted, part) == getattr(formula, part), part
    # Beside a single layer as small as that, what the formula leaves out is seen.
    assert predicted.rest == pytest.approx(formula.rest, rel=0.2 if checkpointing else 0.02)


@pytest.mark.slow  # two seconds each
@pytest.mark.parametrize("options", lm_memory.FORMATS.values(), ids=lm_memory.FORMATS)
@pytest.mark.parametrize("setting", lm_memory.SETTINGS.values(), ids=lm_memory.SETTINGS)
def test_the_formula_is_near_the_prediction_of_a_model_of_use(options, setting):
    case = Case("100M", **options, **setting)
    assert 0.985 < lm_memory.closed_form(case).peak / lm_memory.predict(case).peak < 1.01


def test_recomputing_saves_activations_and_nothing_else():
    kept, recomputed = (lm_memory.predict(tiny(checkpointing=wanted)) for wanted in (False, True))
    assert dataclasses.replace(kept, rest=recomputed.rest) == recomputed
    assert recomputed.rest < 0.8 * kept.rest


def test_the_logits_of_a_large_vocabulary_are_held_twice(monkeypatch):
    config = dataclasses.replace(lm_memory.MODELS["tiny"], vocab_size=2048 * 40)
    monkeypatch.setitem(lm_memory.MODELS, "talker", config)
    case = Case("talker", prompt=20, answer=200, dtype="bfloat16")
    logits = 2 * case.answer * config.vocab_size
    # Themselves, their gradient, and few positions of both in float32.
    assert 2 * logits < lm_memory.predict(case).rest < 3 * logits


def test_live_tensors_are_counted_by_storage_for_as_long_as_they_exist():
    with lm_memory.LiveTensors() as live:
        whole = torch.zeros(100)
        views = [whole[10:], whole.view(4, 25)]
        assert live.now == 400
        doubled = whole * 2
        assert (live.now, live.peak) == (800, 800)
        del whole, views, doubled
        gc.collect()
        assert (live.now, live.peak) == (0, 800)


def test_merging_into_bf16_lets_go_of_a_float32_sum_once_it_is_cast():
    base = {f"w{number}": torch.zeros(100, 100, dtype=torch.bfloat16) for number in range(10)}
    update = TaskUpdate("dense", tensors={name: torch.ones(100, 100) for name in base})
    with lm_memory.LiveTensors() as live:
        live.add(base.values())
        merged = compose(torch.nn.Module(), base, [update])
        assert live.peak - 10 * 20_000 < 10 * 40_000 + 30_000  # beside the base all sums, and little else
        assert live.now == 2 * 10 * 20_000
    assert torch.equal(merged["w9"], torch.ones(100, 100, dtype=torch.bfloat16))


def test_the_command_predicts_and_writes_what_it_printed(tmp_path, monkeypatch, capsys):
    out = tmp_path / "rows.json"
    monkeypatch.setattr(lm_memory, "FORMATS", {"bfloat16": {"dtype": "bfloat16"}})
    monkeypatch.setattr(lm_memory, "SETTINGS", {"r=8": {}, "r=8, kept": {"checkpointing": False}})
    command = ["lm_memory.py", "--predict", "--model", "tiny", "--set", "prompt=30"]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(out)])
    lm_memory.main()
    assert "| tiny | bfloat16 |" in capsys.readouterr().out
    rows = json.loads(out.read_text())["rows"]
    assert [row["case"]["checkpointing"] for row in rows] == [True, False]
    assert all(row["case"]["prompt"] == 30 for row in rows)
    assert rows[0]["predicted"]["peak"] < rows[1]["predicted"]["peak"]


@pytest.mark.parametrize("arguments", [["--model", "lama"], ["--set", "rank=3"]])
def test_what_does_not_exist_is_refused_in_one_line(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lm_memory.py", "--predict", *arguments])
    with pytest.raises(SystemExit, match=r"^[^\n]*give [^\n]*$"):
        lm_memory.main()


@pytest.mark.slow  # a process of its own
def test_the_command_measures(monkeypatch, capsys):
    monkeypatch.setattr(lm_memory, "FORMATS", {"float32": {"dtype": "float32"}})
    monkeypatch.setattr(sys, "argv", ["lm_memory.py", "--measure", "--model", "tiny", "--set", "answer=40"])
    lm_memory.main()
    assert capsys.readouterr().out.count("| tiny | float32 |") == 2
