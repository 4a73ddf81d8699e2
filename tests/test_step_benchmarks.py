"""The timing scripts of the training step, on a CLIP so small that they take seconds."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Imports a script, and the steps that it shares with others on a small network."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("clip_steps", "image_cache", "measuring", "random_clips", "step", "shares", "switched_off"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(
        importlib.import_module("clip_steps"), "MODEL", importlib.import_module("random_clips").TINY
    )
    return importlib.import_module


def run(module, monkeypatch, tmp_path, *options):
    """What the script writes when it is called with these options."""
    target = tmp_path / "figures.json"
    size = ["--batch", "4", "--classes", "5"]
    monkeypatch.setattr(
        sys, "argv", [str(BENCHMARKS / module.__name__), *size, *options, "--json", str(target)]
    )
    module.main()
    return json.loads(target.read_text())


def test_step(script, monkeypatch, tmp_path, capsys):
    module = script("step")
    monkeypatch.setattr(module, "memory", lambda name, precision, args: 2.0 if name == "codyra" else 4.0)
    figures = run(module, monkeypatch, tmp_path, "--rounds", "2")
    assert len(figures["seconds"]) == 2
    assert set(figures["seconds"][0]) == {
        f"{name}, {kind}" for name in module.STEPS for kind in ("fp32", "bf16")
    }
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + 2 * len(module.STEPS) + 1
    assert printed[2].startswith("| fp32 | codyra |")
    assert printed[4].endswith("| 4.00 | 0.50 |")
    assert figures["machine"]["versions"]["torch"] == torch.__version__


def test_every_step_learns_but_the_floor(script):
    steps = script("clip_steps").STEPS
    for name, kind in steps.items():
        if name != "codyra":
            step = kind(4, 5, "fp32")
            before = {key: weight.clone() for key, weight in step.net.state_dict().items()}
            step(), step()
            moved = [
                key for key, weight in step.net.state_dict().items() if not torch.equal(weight, before[key])
            ]
            assert (moved == []) == (name == "floor")


def test_every_step_has_a_whole_batch(script):
    clips, in_training = script("random_clips"), script("in_training")
    task = clips.noise_task(3, 5, 32)
    training = in_training.Training(clips.new_family(clips.TINY), task, {"batch_size": 4}, {"r": 2})
    training.begin()
    assert {len(next(training.positions)) for _ in range(5)} == {4}


def test_step_alone(script, monkeypatch, capsys):
    module = script("step")
    monkeypatch.setattr(
        sys, "argv", ["step.py", "--alone", "--batch", "4", "--classes", "5", "--steps", "peft LoRA (b)"]
    )
    module.main()
    assert capsys.readouterr().out == ""


def test_switched_off(script, monkeypatch, tmp_path):
    module = script("switched_off")
    monkeypatch.setattr(module, "peak_gib", lambda arguments: 1.0)
    figures = run(module, monkeypatch, tmp_path, "--rounds", "1")
    assert len(figures["seconds"][0]) == 2 * len(module.SWITCHES)
    assert module.GatedLinear.fused


@pytest.mark.slow
def test_shares(script, monkeypatch, tmp_path, capsys):
    module = script("shares")
    figures = run(module, monkeypatch, tmp_path)["steps"]
    assert set(figures) == {f"{name}, {kind}" for name in ("codyra", "floor") for kind in ("fp32", "bf16")}
    for name, found in figures.items():
        spent = found["seconds"]
        assert sum(spent[row] for row in module.ROWS) == pytest.approx(spent["all"])
        assert (spent["data"] > 0) == ("codyra" in name)
        assert spent["LoRA products"] > 0  # of the floor: projections as wide as r
        assert spent["attention"] > 0
    assert figures["codyra, fp32"]["operations"] > figures["floor, fp32"]["operations"] > 0
    assert "of the rate of torch's product" in capsys.readouterr().out


def test_peak_of_a_process(script, tmp_path):
    measuring = script("measuring")
    assert measuring.peak_gib(["-c", "x = bytearray(2**28)"]) > 0.25
    with pytest.raises(SystemExit, match="ended with 3"):
        measuring.peak_gib(["-c", "raise SystemExit(3)"])
