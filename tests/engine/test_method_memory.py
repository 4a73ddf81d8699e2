"""What the loop does with a method's memory and with what a method declares."""

import json
from dataclasses import replace

import pytest
import torch

from codyra.engine import loop as loops
from codyra.engine import run as engine
from codyra.engine.progress import Narrator
from codyra.errors import UserError
from codyra.methods import Memory, build_method
from codyra.methods.pieces.lora import Lora
from codyra.methods.pieces.prox import Prox


def run(config, out, *overrides):
    return engine.run(config, out, overrides=overrides, narrator=Narrator(quiet=True))


@pytest.fixture
def counting(monkeypatch):
    """A LoRA that counts its tasks in memory; gives what it read at the start of each."""
    seen = []

    def collect(self, ctx):
        store = ctx.memory.store("statistics", "count")
        seen.append((ctx.task_index, store["n"].tolist() if "n" in store else None))

    def keep(self, ctx):
        ctx.memory.store("statistics", "count")["n"] = torch.full((3,), ctx.task_index + 1.0)

    monkeypatch.setattr(Lora, "collect", collect)
    monkeypatch.setattr(Lora, "end_training", keep)
    monkeypatch.setattr(Memory, "allowed", lambda *_: True)
    return seen


def test_it_goes_from_task_to_task_through_the_folder(config, tmp_path, counting):
    done = run(config, tmp_path / "run", "method.name=lora")
    assert counting == [(0, None), (1, [1.0] * 3), (2, [2.0] * 3)]
    files = sorted(
        path.relative_to(done.folder).as_posix() for path in done.folder.rglob("memory.safetensors")
    )
    assert files == [f"tasks/{folder}/memory.safetensors" for folder in ("01-warm", "02-cool", "03-plain")]
    assert done.metrics["memory_bytes"] == [12, 12, 12]
    listed = json.loads((done.folder / "manifest.json").read_text())["files"]
    assert set(files) <= set(listed)


def test_a_damaged_memory_is_named(config, tmp_path, counting):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops.Loop, "_score_after", stop_after_the_first)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "run", "method.name=lora")
    memory = tmp_path / "run/tasks/01-warm/memory.safetensors"
    memory.write_bytes(memory.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"memory\.safetensors"):
        run(config, tmp_path / "run", "method.name=lora")


def stop_after_the_first(self, task_index):
    raise KeyboardInterrupt


def test_nothing_kept_leaves_no_file(config, tmp_path):
    done = run(config, tmp_path / "run")
    assert not list(done.folder.rglob("memory.safetensors"))
    assert done.metrics["memory_bytes"] == [0, 0, 0]
    assert done.metrics["extra_parameters"] == [0, 0, 0]


def test_a_network_that_grew_is_found_out(config, tmp_path, monkeypatch):
    def discard(self, ctx):
        ctx.net.extra = torch.nn.Linear(2, 2)
        take_off(self, ctx)

    take_off = Lora.discard
    monkeypatch.setattr(Lora, "discard", discard)
    with pytest.raises(RuntimeError, match="method lora changed the network and declares no extra inference"):
        run(config, tmp_path / "run", "method.name=lora")


def test_what_a_piece_cannot_do_with_is_refused_before_anything_runs(config, tmp_path, monkeypatch):
    monkeypatch.setattr(Prox, "modalities", frozenset(("text",)))
    with pytest.raises(UserError, match="method codyra is for models of texts; a clip model reads images"):
        run(config, tmp_path / "run")


def test_a_guard_and_a_method_that_keeps_statistics(config, pictures, tmp_path, monkeypatch):
    def keeping(options):
        lora = build_method(options)
        return replace(lora, declared=lora.declared.model_copy(update={"stores": "statistics"}))

    monkeypatch.setattr("codyra.engine.plan.build_method", keeping)
    config["guard"] = {"data": f"imagefolder:{pictures / 'warm'}", "tolerance": 1}
    with pytest.raises(UserError, match="guard: method lora keeps statistics of an update"):
        run(config, tmp_path / "run", "method.name=lora")
