"""Runs on a base in 8 or 4 bit: learnt and scored on the quantised view, merged into the exact weights."""

import importlib.util
import json
import shutil

import pytest
import torch
import yaml
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from codyra.analysis.ablation import ablate
from codyra.analysis.probe import probe
from codyra.engine import loop, manifest, trainer
from codyra.engine.config import load_config
from codyra.engine.plan import make_plan
from codyra.engine.progress import Narrator
from codyra.engine.run import run
from codyra.errors import GuardRefused, UserError
from codyra.families import ModelSpec, load_family
from codyra.families.quantized import QuantizedLinear
from codyra.history.append import append
from codyra.history.checkout import checkout
from codyra.history.revert import revert
from codyra.history.verify import verify
from codyra.update import compose
from engine.answer_tasks import TASKS, write_task
from engine.faults import Killed, contents
from families.tiny_lms import save_llama

QUIET = Narrator(quiet=True)
METHODS = {"8bit": "lora", "4bit": "codyra"}
NAMES = ("animals", "colours")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny Llama and the data of two tasks; not to be written into."""
    folder = tmp_path_factory.mktemp("quantized")
    save_llama(folder / "llama", initializer_range=0.1)  # its frozen head can tell tokens apart
    for name in NAMES:
        write_task(folder / name, name, TASKS[name])
    return folder


@pytest.fixture(scope="module")
def config_of(place):
    def config(kind: str) -> dict:
        return {
            "model": {"name": str(place / "llama"), "quantize": kind},
            "method": {"name": METHODS[kind], "r": 8},
            "train": {"steps": 16, "batch_size": 6, "lr": 1e-2, "schedule": "constant"},
            "stream": {
                "max_answer_tokens": 4,
                "tasks": [{"name": name, "data": f"json:{place / name}"} for name in NAMES],
            },
        }

    return config


def views(net: nn.Module) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """What the quantised layers hold, by parameter name."""
    return {
        f"{name}.weight": (layer.weight.detach().clone(), layer.scale.detach().clone())
        for name, layer in net.named_modules()
        if isinstance(layer, QuantizedLinear)
    }


@pytest.fixture(scope="module", params=METHODS)
def finished(request, config_of, tmp_path_factory):
    """(a finished run, what the layers held when each task began and at the end); not to be written into."""
    kind, held, nets = request.param, [], []
    real = loop.learn_task

    def learn_task(plan, ctx, *args):
        held.append(views(ctx.net))
        nets.append(ctx.net)
        return real(plan, ctx, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "learn_task", learn_task)
        done = run(config_of(kind), tmp_path_factory.mktemp(kind) / "run", narrator=QUIET)
    return done, [*held, views(nets[-1])]


def test_each_task_is_learnt(finished):
    done, _ = finished
    assert done.zero_shot == [0.0, 0.0]
    assert [done.accuracy[task][task] for task in range(2)] == [100.0, 100.0]


def test_every_task_begins_on_the_exact_sum_quantised_once(finished, place):
    done, held = finished
    kind = yaml.safe_load((done.folder / "config.yaml").read_text())["model"]["quantize"]
    plain = load_family(ModelSpec(name=str(place / "llama")))
    base = {
        f"{name}.weight": plain.net.get_submodule(name).weight.clone() for name in plain.target_modules("all")
    }
    for number, found in enumerate(held):
        assert found.keys() == base.keys()
        for name, exact in compose(plain.net, base, done.updates[:number]).items():
            layer = nn.Linear(*exact.T.shape, bias=False).requires_grad_(False)
            layer.weight.copy_(exact)
            expected = QuantizedLinear(layer, kind, "cpu")
            assert torch.equal(found[name][0], expected.weight)
            assert torch.equal(found[name][1], expected.scale)


def test_a_checkout_is_the_exact_base_with_the_adapters_of_stock_peft(finished, place, tmp_path):
    done, _ = finished
    checkout(done.folder, tmp_path / "model")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    for name, weight in done.model().named_parameters():
        assert weight.dtype == torch.float32
        assert torch.equal(merged.get_parameter(name), weight)
    stock = AutoModelForCausalLM.from_pretrained(place / "llama", dtype=torch.float32)
    for number, name in enumerate(NAMES, start=1):
        adapter = done.folder / f"tasks/{number:02d}-{name}"
        assert json.loads((adapter / "adapter_config.json").read_text())["peft_type"] == "LORA"
        stock = PeftModel.from_pretrained(stock, str(adapter)).merge_and_unload()
    ids = AutoTokenizer.from_pretrained(place / "llama")("colours: which one? Answer:", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(merged(**ids).logits, stock(**ids).logits, rtol=1e-4, atol=1e-4)
    card = (tmp_path / "model/README.md").read_text()
    assert "this folder holds the merged ones in float32, which no quantised weight went into" in card


def test_a_state_is_verified_and_read_without_the_library(finished, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == "bitsandbytes" else real(name)
    )
    done, _ = finished
    findings = list(verify(done.folder))
    assert all(finding.ok for finding in findings), findings
    assert any("bit-identical" in finding.text for finding in findings)
    assert next(done.model(after=0).parameters()).dtype == torch.float32
    assert json.loads((done.folder / "manifest.json").read_text())["rounding_loss"] == [0.0, 0.0]


def test_scores_are_those_of_the_quantised_state(finished):
    done, _ = finished
    config = load_config(done.folder / "config.yaml")
    plan = make_plan(config, {}, QUIET)
    plan.family.write_weights(compose(plan.family.net, plan.base, done.updates))
    answers = [text for score in plan.family.score(plan.tasks) for text, _ in score.answers]
    lines = (done.folder / "tasks/02-colours/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["prediction"] for line in lines] == answers


@pytest.mark.parametrize("finished", ["4bit"], indirect=True)
def test_more_tasks_fewer_tasks_and_analyses(finished, place, tmp_path):
    done, _ = finished
    out = tmp_path / "run"
    shutil.copytree(done.folder, out)
    write_task(tmp_path / "letters", "letters", "B")
    more = tmp_path / "more.yaml"
    more.write_text(yaml.safe_dump({"stream": {"tasks": [{"name": "letters", "data": "json:letters"}]}}))
    grown = append(out, more, QUIET)
    assert [row[:2] for row in grown.accuracy[:2]] == done.accuracy
    revert(out, 2)
    assert all(finding.ok for finding in verify(out))
    found, _ = ablate(out, tmp_path / "ablation", by="layer", narrator=QUIET)
    assert found.whole.accuracy["colours"] == done.accuracy[1][1]


@pytest.mark.slow
def test_a_probe(config_of, tmp_path):
    found, _ = probe(
        config_of("4bit"),
        tmp_path / "probe",
        ranks=(8,),
        placements=("all",),
        narrator=QUIET,
    )
    assert found.adaptation(found.points[-1]) == 100.0


def test_killed_inside_a_task_and_continued_is_the_same_run(config_of, tmp_path, monkeypatch):
    config = config_of("4bit")
    config["train"] |= {"steps": 6, "checkpoint_steps": 2}
    whole = run(config, tmp_path / "whole", narrator=QUIET).folder
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        real, calls = trainer._backward, []

        def backward(*args):
            calls.append(None)
            if len(calls) == 11:  # in the fifth step of the second task
                raise Killed
            return real(*args)

        patch.setattr(trainer, "_backward", backward)
        with pytest.raises(Killed):
            run(config, out, narrator=QUIET)
    assert (out / "tasks/02-colours/checkpoint/state.safetensors").is_file()
    run(config, out, narrator=QUIET)
    assert contents(out) == contents(whole)


@pytest.mark.slow
def test_a_guard_scores_the_quantised_candidate(config_of, place, tmp_path):
    config = config_of("8bit")
    config["guard"] = {"data": f"json:{place / 'animals'}", "tolerance": 10, "against": "previous"}
    with pytest.raises(GuardRefused, match=r"task 2 \(colours\): the held-out score fell"):
        run(config, tmp_path / "run", narrator=QUIET)
    kept = run(config, tmp_path / "run", overrides=["guard.on_violation=shrink"], narrator=QUIET)
    assert len(kept.accuracy) == 2


def test_quantised_layers_need_not_be_targets(config_of):
    plan = make_plan(load_config(config_of("4bit"), ["method.targets=attention"]), {}, QUIET)
    before = {name: weight.clone() for name, weight in plan.base.items()}
    mlp = {name: held for name, held in views(plan.family.net).items() if name not in plan.base}
    assert mlp
    plan.family.write_weights({name: weight + 1 for name, weight in plan.base.items()})
    assert all(torch.equal(plan.base[name], before[name]) for name in before)
    assert all(torch.equal(views(plan.family.net)[name][0], held[0]) for name, held in mlp.items())


def test_a_benchmark_is_marked(config_of, monkeypatch):
    about = {"name": "trace", "marks": ["partial"]}
    monkeypatch.setattr(manifest, "describe_benchmark", lambda stream, tasks: about)
    manifest.benchmark_entry(make_plan(load_config(config_of("4bit")), {}, QUIET))
    assert about["marks"][1:] == ["partial", "learnt and scored on weights in 4bit"]


def test_full_fine_tuning_is_refused(config_of, tmp_path):
    with pytest.raises(
        UserError, match=r"method full cannot train beside weights that model.quantize holds in 8bit"
    ):
        run(config_of("8bit"), tmp_path / "run", overrides=["method.name=full"], narrator=QUIET)


def test_from_the_command(command, config_of, tmp_path, monkeypatch):
    path = tmp_path / "four.yaml"
    path.write_text(yaml.safe_dump(config_of("4bit")))
    code, out, _ = command("run", path, "--out", tmp_path / "run", "--set", "method.name=zero_shot")
    assert code == 0
    assert "learnt and scored on weights in 4bit; updates are merged into those in float32" in out
    page = (tmp_path / "run/report.html").read_text()
    assert "quantised while learning and scoring" in page
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *args: None)
    code, _, err = command("run", path, "--out", tmp_path / "other")
    assert code == 2
    assert err.count("\n") == 1
    assert 'pip install "codyra[quantized]"' in err
    assert not (tmp_path / "other").exists()
